"""Training: [`ShineTrainer`] and its arguments."""

from .checkpoints import last_complete_checkpoint
from .trainer import ShineTrainer
from .training_args import ShineTrainingArguments

__all__ = ["ShineTrainer", "ShineTrainingArguments", "last_complete_checkpoint"]
