"""Training: [`ShineTrainer`] and its arguments."""

from .trainer import ShineTrainer, last_whole_checkpoint
from .training_args import ShineTrainingArguments

__all__ = ["ShineTrainer", "ShineTrainingArguments", "last_whole_checkpoint"]
