"""Small callbacks of [`ShineTrainer`]."""

from __future__ import annotations

import operator
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)


class SetEpochCallback(TrainerCallback):
    """Pass the epoch to the collator, which seeds its draws of irrelevant queries and margin pairs."""

    def __init__(self, collator: Any):
        self.collator = collator

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self.collator.set_epoch(int(state.epoch or 0))


class StopWithoutProgress(EarlyStoppingCallback):
    """Early stopping that only considers evaluations with the selection metric."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Keep a run that stopped early stopped when it is resumed.

        The parent's checks are skipped: `ShineTrainer` keeps the best model itself and checks its own arguments.
        """
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs,
    ) -> None:
        if selection_metric(args) in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)


class KeepBestModel(TrainerCallback):
    """Save the model in `best/` whenever an evaluation during training finds a new best value of `metric_for_best_model`."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs,
    ) -> None:
        value = metrics.get(selection_metric(args)) if args.metric_for_best_model else None
        if value is None or not self.trainer.is_in_train:
            return
        better = operator.gt if args.greater_is_better else operator.lt
        if state.best_metric is None or better(value, state.best_metric):
            # `Trainer` records the metric later, and records no step if it saves no checkpoints.
            state.best_global_step = state.global_step
            self.trainer.save_best_model()


class KeepNewestCheckpoint(TrainerCallback):
    """Keep the newest checkpoint when training ends.

    With `save_total_limit=1`, `Trainer` finally deletes every checkpoint except `state.best_model_checkpoint`. If training ended early, all
    later steps would be lost. No checkpoint needs protection, because [`KeepBestModel`] stores the best model separately.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        state.best_model_checkpoint = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        state.best_model_checkpoint = None


class SaveAfterEvaluation(TrainerCallback):
    """Save the checkpoint of an epoch's last step after the epoch's evaluation, which a run resumed from it would otherwise skip."""

    def __init__(self):
        self._waiting = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        # When training stops, `on_epoch_end` is called too.
        self._waiting = control.should_save and (state.epoch.is_integer() or control.should_training_stop)
        control.should_save = control.should_save and not self._waiting

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        control.should_save = control.should_save or self._waiting


class FinishedRun(TrainerCallback):
    """When a finished run is resumed, take no further step and do not log, evaluate or save again."""

    def __init__(self):
        self._first_step = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        self._first_step = state.global_step
        if state.global_step >= state.max_steps:
            control.should_training_stop = True

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if control.should_training_stop and state.global_step == self._first_step:
            control.should_log = control.should_evaluate = control.should_save = False


def selection_metric(args: TrainingArguments) -> str:
    """Return `metric_for_best_model` as an evaluation names it, i.e. with the prefix `eval_`."""
    return f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
