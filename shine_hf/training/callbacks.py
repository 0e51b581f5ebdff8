"""Callbacks of [`ShineTrainer`]."""

from transformers import EarlyStoppingCallback, TrainerCallback


class SetEpochCallback(TrainerCallback):
    """Tells the collator the epoch, by which it draws irrelevant queries and margin pairs."""

    def __init__(self, collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.set_epoch(int(state.epoch or 0))


class StopWithoutProgress(EarlyStoppingCallback):
    """Early stopping that looks only at the evaluations of the split on which the model is selected."""

    def on_train_begin(self, args, state, control, **kwargs):
        """The checks of the parent do not apply: ShineTrainer keeps the best model itself, and checks its arguments."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        if f"eval_{args.metric_for_best_model.removeprefix('eval_')}" in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)
