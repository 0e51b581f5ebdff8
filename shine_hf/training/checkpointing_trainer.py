"""The part of [`ShineTrainer`] that saves and resumes, so that no step and no best model is lost, however training ends."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator

import torch
from accelerate.utils.memory import should_reduce_batch_size
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..hub.push import BEST_MODEL_FOLDER
from ..io import atomic_dir
from .callbacks import FinishedRun, KeepBestModel, KeepNewestCheckpoint, SaveAfterEvaluation, selection_metric
from .checkpoints import (
    STATE_FILE,
    is_complete,
    last_complete_checkpoint,
    load_full_weights,
    remove_incomplete_checkpoints,
    remove_old_checkpoints,
    saved_step,
)
from .pushing_trainer import PushingTrainer
from .stop_on_signal import StopOnSignal, TrainingStopped
from .threads import AdaptThreads
from .weight_averaging import WeightAveraging

logger = logging.getLogger(__name__)


class CheckpointingTrainer(PushingTrainer):
    """
    A `Trainer` that keeps the best model and the newest checkpoint, never mistakes a partial checkpoint for a complete one, and explains how to
    continue when training fails.

    Two private methods of `Trainer` are overridden, since no public hook covers them: `_save_checkpoint`, to clean up after a failed save, and
    `_save_rng_state`, which every process calls just before the file is written that marks a checkpoint as complete.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.last_checkpoint: str | None = None
        """The newest checkpoint that this run saved or resumed from."""
        self.keeps_best = self.args.keep_best or self.args.load_best_model_at_end
        for callback in (SaveAfterEvaluation(), FinishedRun(), KeepNewestCheckpoint()):
            self.add_callback(callback)
        self.weight_averaging: WeightAveraging | None = None
        if self.args.ema_decay is not None:
            self.weight_averaging = WeightAveraging(self, self.args.ema_decay)
            self.add_callback(self.weight_averaging)
        if self.keeps_best:
            self.add_callback(KeepBestModel(self))

    @property
    def run_dir(self) -> str:
        """Folder of the checkpoints: `output_dir`, or the trial's folder in a hyperparameter search."""
        return self._get_output_dir(getattr(self, "_trial", None))

    # ---- training ----------------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs) -> TrainOutput:
        """Train as `Trainer` does. A signal ends training after the current step, with a checkpoint (see [`StopOnSignal`]). On a CPU, the number
        of threads adapts to the time of the steps (see [`AdaptThreads`]).

        Args:
            resume_from_checkpoint: A checkpoint folder, or True for the newest complete checkpoint in `output_dir`.
            kwargs: Passed to `Trainer.train`.

        Raises:
            TrainingStopped: after a signal, once the step is saved.
            MemoryError: if a step does not fit in memory.
            Exception: any other error in a step, with a note about which step is saved and how to continue.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"there is no complete checkpoint in {self.args.output_dir} to resume from")
        self.last_checkpoint = resume_from_checkpoint or None
        stop, threads = StopOnSignal(), AdaptThreads()
        self.add_callback(stop)
        self.add_callback(threads)
        try:
            with stop, threads:
                output = super().train(resume_from_checkpoint, **kwargs)
        except Exception as error:
            if should_reduce_batch_size(error) or isinstance(error, MemoryError):
                raise MemoryError(
                    f"out of memory after step {self.state.global_step} of {self.state.max_steps} ({error}). Lower per_device_train_batch_size "
                    f"and raise gradient_accumulation_steps by the same factor, which computes the same steps. {self.advice()}"
                ) from error
            # These two are raised here with the same advice.
            if self.state.global_step and not isinstance(error, FloatingPointError | OSError):
                error.add_note(f"After step {self.state.global_step} of {self.state.max_steps}. {self.advice()}")
            raise
        finally:
            self.remove_callback(stop)
            self.remove_callback(threads)
            # `Trainer` leaves this set after an error, and later evaluations would count as part of training.
            self.is_in_train = False
        if stop.stopped_by:
            step = self.state.global_step
            saved = self.last_checkpoint if saved_step(self.last_checkpoint) == step else None
            raise TrainingStopped(stop.stopped_by, step, self.state.max_steps, saved, self.advice())
        if self.load_best_model():
            logger.info("ending with the best model: %s = %.4f", selection_metric(self.args), self.state.best_metric)
        return output

    def advice(self) -> str:
        """Return complete sentences about which step is saved and how to continue from it."""
        step = saved_step(self.last_checkpoint)
        if step is None:
            return "No checkpoint is saved yet: start again."
        # If a run restarts from an earlier step, leftover checkpoints can have higher numbers.
        is_last = last_complete_checkpoint(self.run_dir) == self.last_checkpoint
        option = "true" if is_last else self.last_checkpoint
        return f"Step {step} is saved in {self.last_checkpoint}: continue with the same command and --resume_from_checkpoint {option}."

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Evaluate as `Trainer` does; while training with `ema_decay`, use the averaged weights."""
        averaged = self.weight_averaging.averaged() if self.weight_averaging else contextlib.nullcontext()
        with averaged:
            return super().evaluate(*args, **kwargs)

    # ---- best model --------------------------------------------------------------------------------------------------

    def save_best_model(self) -> None:
        """Replace `best/` with the current model.

        Raises:
            FloatingPointError: if a weight is not finite.
            OSError: if the model cannot be saved; the previous best model is kept.
        """
        self.refuse_broken_weights()
        best = os.path.join(self.run_dir, BEST_MODEL_FOLDER)
        with self._explain_failure(best), atomic_dir(best, is_writer=self.args.should_save) as folder:
            self.save_model(folder, _internal_call=True)

    def load_best_model(self) -> bool:
        """Load the weights in `best/`, if there are any. Return whether they were loaded."""
        if self.state.best_metric is None or not self.keeps_best:
            return False
        folder = os.path.join(self.run_dir, BEST_MODEL_FOLDER)
        if not os.path.isdir(folder):
            logger.warning("%s does not exist, so the run ends with its last weights instead of its best", folder)
            return False
        if self.is_fsdp_enabled:
            # With FSDP, `Trainer` expects a sharded checkpoint, but the best model is saved in one file.
            load_full_weights(self.model, folder)
        else:
            self._load_from_checkpoint(folder)
        self.card.on_best_model_loaded(self.state)
        return True

    def refuse_broken_weights(self) -> None:
        """Raise FloatingPointError if a weight is not finite, so that every checkpoint is usable."""
        weights = [getattr(weight, "to_local", weight.detach)() for weight in self.model.parameters()]
        finite = torch.stack([weight.detach().isfinite().all() for weight in weights]).all()
        if not self.accelerator.gather(finite.reshape(1)).all():
            raise self.non_finite_error("a weight is not finite")

    def non_finite_error(self, what: str) -> FloatingPointError:
        """Return an error with the message `what`, the step and advice. Every process must call this."""
        return FloatingPointError(f"{what} at step {self.state.global_step}. {self.advice()}")

    # ---- saving ------------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as [`PushingTrainer`] does.

        Raises:
            OSError: if the folder cannot be written, e.g. because the disk is full. Names the last saved step.
        """
        with contextlib.nullcontext() if _internal_call else self._explain_failure(output_dir or self.args.output_dir):
            super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model, trial) -> None:
        self.refuse_broken_weights()
        run_dir, limit = self._get_output_dir(trial), self.args.save_total_limit
        folder = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            remove_incomplete_checkpoints(run_dir)
            # A leftover checkpoint of the same step would look complete while it is being overwritten.
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, STATE_FILE))
        # `Trainer` considers the highest number the newest, so it might delete the checkpoint that it just saved.
        self.args.save_total_limit = None
        with self._explain_failure(folder):
            try:
                super()._save_checkpoint(model, trial)
            except Exception:
                if self.args.should_save and not is_complete(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            finally:
                self.args.save_total_limit = limit
        self.last_checkpoint = folder
        if self.args.should_save and limit:
            best = None if self.keeps_best else self.state.best_model_checkpoint
            remove_old_checkpoints(run_dir, limit, keep=(folder, best))

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if self.weight_averaging is not None:
            self.weight_averaging.save(output_dir)
        # Each process writes its own file. The state that marks the checkpoint as complete must be written after all of them.
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _explain_failure(self, folder: str) -> Iterator[None]:
        """Turn the errors that torch, safetensors or the system raise on a failing disk into an OSError that says how to continue."""
        try:
            yield
        except Exception as error:
            free = shutil.disk_usage(self.args.output_dir).free / 2**20
            raise OSError(
                f"{folder} could not be saved: {error} ({free:.0f} MiB free on its disk). Fix the cause. {self.advice()}"
            ) from error
