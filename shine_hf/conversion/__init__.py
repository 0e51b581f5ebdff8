"""Convert checkpoints of the original code to models of this package."""

from .checkpoints import convert_state_dict, load_original_checkpoint

__all__ = ["convert_state_dict", "load_original_checkpoint"]
