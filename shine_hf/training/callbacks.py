"""Callbacks of [`ShineTrainer`]."""

from transformers import TrainerCallback


class SetEpochCallback(TrainerCallback):
    """Tells the collator the epoch, by which it draws irrelevant queries and margin pairs."""

    def __init__(self, collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.set_epoch(int(state.epoch or 0))
