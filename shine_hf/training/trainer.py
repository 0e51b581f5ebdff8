"""A `Trainer` that adds the SHINE losses to the base loss of any model with saliency scores."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import EvalPrediction, IntervalStrategy
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..hub.push import BEST_MODEL_FOLDER
from ..losses import ShineLoss
from ..metrics import moment_retrieval_metrics, saliency_order
from ..modeling.moment_retrieval_loss import is_inside, masked_mean
from .callbacks import SaveAfterEvaluation, SetEpochCallback, StopWithoutProgress, ignore_sigterm
from .checkpoints import STATE_FILE, is_whole, last_whole_checkpoint, remove_half_written, whole_folder
from .loss_watch import LossWatch, describe
from .pushing import PushingTrainer
from .saliency_example import ExampleRecorder
from .training_args import ShineTrainingArguments

logger = logging.getLogger(__name__)

BOOTSTRAP_RESAMPLES = 1000
LOCAL_ARGUMENTS = ("output_dir", "run_name", "resume_from_checkpoint", "logging_dir", "deepspeed", "fsdp_config")


class ShineTrainer(PushingTrainer):
    """
    Trains a moment-retrieval model with its base loss plus the SHINE ranking losses, and evaluates moments and saliency order.

    A model fits if its `forward` takes the batches of [`DataCollatorForMomentRetrieval`] and returns a dict with `saliency_scores (B, T)`,
    `negative_saliency_scores (B, N, T)` and `pred_spans (B, Q, 2)`; `loss`, `loss_dict` and `logits (B, Q, 2)` are used where they are there.

    Args:
        model, args, data_collator, train_dataset, eval_dataset: As of `Trainer`; the datasets have the columns of the schema.
        processing_class (`MomentRetrievalProcessor`): Turns outputs into moments, and is saved with the model.
        shine_loss (`ShineLoss`, *optional*): The ranking losses; by default those that `args` describe.
        card (`ModelCardCallback`, *optional*): Collects what the model card says; pass one that knows the data.
    """

    def __init__(
        self,
        model=None,
        args: ShineTrainingArguments | None = None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        shine_loss: ShineLoss | None = None,
        compute_metrics=None,
        **kwargs,
    ):
        processing_class = processing_class or data_collator.processor
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics or self.compute_moment_metrics,
            **kwargs,
        )
        self.shine_loss = shine_loss or args.make_shine_loss()
        self.model_accepts_loss_kwargs = False
        # Sums of the loss terms since the last log (training) or since the start of the evaluation, on the device.
        self._terms = {True: defaultdict(float), False: defaultdict(float)}
        self._watch = LossWatch()
        self._example = ExampleRecorder()
        self.add_callback(SaveAfterEvaluation())
        if hasattr(data_collator, "set_epoch"):
            self.add_callback(SetEpochCallback(data_collator))
        if args.early_stopping_patience is not None and args.eval_strategy != IntervalStrategy.NO:
            self.add_callback(StopWithoutProgress(args.early_stopping_patience))

    # ---- loss ------------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Base loss of the model plus the weighted SHINE losses; every term is kept for the next log."""
        # The names of the rows are for messages, not for the model: strings would have it compiled anew for each batch.
        labels = {name: value for name, value in inputs["labels"].items() if name != "qids"}
        outputs = model(**{**inputs, "labels": labels})
        loss, terms = outputs.get("loss"), dict(outputs.get("loss_dict") or {})
        if self.shine_loss is not None:
            negatives = outputs.get("negative_saliency_scores")
            if negatives is None:
                raise ValueError(
                    f"{type(self.model).__name__} returned no negative_saliency_scores: the SHINE losses need the scores under the "
                    "negatives of the batch (or set coarse_weight and fine_weight to 0)"
                )
            ranking, ranking_terms = self.shine_loss(
                outputs["saliency_scores"],
                negatives,
                inputs["labels"]["saliency"],
                inputs["video_attention_mask"],
                negative_mask=inputs["negative_text_attention_mask"].any(dim=-1),
            )
            loss, terms = ranking if loss is None else loss + ranking, terms | ranking_terms
        if loss is None:
            raise ValueError(f"{type(self.model).__name__} returned no loss, and the SHINE losses are off")
        if self.model.training:
            self._watch.record(self.state.global_step + 1, loss, outputs, inputs)
        sums = self._terms[self.model.training]
        for name, value in terms.items():
            sums[name] += value.detach()
        sums["steps"] += 1
        return (loss, outputs) if return_outputs else loss

    def _mean_terms(self, training: bool, prefix: str) -> dict[str, float]:
        """Means of the loss terms over steps and processes since the last call."""
        sums = self._terms[training]
        steps = sums.pop("steps", 0)
        means = {
            f"{prefix}{name}": self.accelerator.gather((value / steps).reshape(1)).mean().item()
            for name, value in sums.items()
        }
        sums.clear()
        return means

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """
        Add the loss terms to the logs of training steps, and stop on a loss that is not a number.

        Raises:
            FloatingPointError: The mean loss since the last log is not finite; names the first such step and its queries.
        """
        if "loss" in logs:
            logs |= self._mean_terms(training=True, prefix="")
            if not math.isfinite(logs["loss"]):
                broken = [
                    name for name, value in logs.items() if name.startswith("loss_") and not math.isfinite(value)
                ]
                raise self._not_a_number(
                    f"the loss is {logs['loss']} (terms: {', '.join(broken) or 'none of its parts'})"
                )
        elif "train_loss" in logs:
            # The last steps of a training that did not end on a logging step; this mean is that of one process.
            loss = self.accelerator.gather(torch.tensor([logs["train_loss"]], device=self.args.device)).sum().item()
            if not math.isfinite(loss):
                raise self._not_a_number(f"the loss is {loss}")
        self._watch.clear()
        super().log(logs, start_time)

    def _not_a_number(self, what: str) -> FloatingPointError:
        """The error that says `what` was found, and where it began. Every process must call this."""
        where = describe(gather_object([self._watch.first_broken()]))
        checkpoint = last_whole_checkpoint(self.args.output_dir)
        return FloatingPointError(
            f"{what} at step {self.state.global_step}, {where}. Look at the features and windows of these queries, lower the learning rate, "
            f"or train in float32. "
            + (f"The weights in {checkpoint} are good" if checkpoint else "No checkpoint was saved")
        )

    def _run_epoch(self, *args, **kwargs) -> None:
        """As in `Trainer`, but a run that was over when its checkpoint was saved takes no further step."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _get_dataloader(self, *args, **kwargs):
        dataloader = super()._get_dataloader(*args, **kwargs)
        if dataloader.num_workers:
            dataloader.worker_init_fn = functools.partial(ignore_sigterm, dataloader.worker_init_fn)
        return dataloader

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset=None):
        """As in `Trainer`, with a collator whose draws are the same at every evaluation."""
        training_collator = self.data_collator
        if hasattr(training_collator, "for_evaluation"):
            self.data_collator = training_collator.for_evaluation()
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        self._terms[False].clear()
        self._example.clear()
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update(self._mean_terms(training=False, prefix=f"{metric_key_prefix}_"))
        split = metric_key_prefix.removeprefix("eval_")
        if example := self._example.describe(split, dataloader.dataset, self.processing_class.clip_length):
            self.card.note_example(example)
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Reduce the outputs to what the metrics read: moments `(B, Q, 3)` and mean saliency inside the moment."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        labels, video_mask = inputs["labels"], inputs["video_attention_mask"]
        moments = self.processing_class.decode_moments(
            outputs.get("logits"),
            outputs["pred_spans"],
            video_mask,
            labels["durations"],
            self.args.round_to_clip_length,
            self.args.nms_threshold,
        )
        self._example.record(inputs, outputs, moments)
        return loss.detach(), (moments.float(), _saliency_inside(outputs, inputs)), labels["windows"]

    def compute_moment_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """R1@0.3/0.5/0.7, mIoU and mAP of the moments, and how often the saliency is in the order that SHINE trains (in percent)."""
        moments, scores = prediction.predictions
        windows = prediction.label_ids
        # Absent windows are negative (padding of the collator and of the Trainer); real ones end after 0.
        windows = np.where(windows[..., 1:] >= 0, windows, np.nan)
        moments = np.where(moments[..., 2:] >= 0, moments, np.nan)
        # The Trainer pads batches with fewer levels by -100, behind the others: hence the irrelevant query comes first.
        scores = np.where(scores == -100, np.nan, scores)
        levels = np.concatenate([scores[:, :1], scores[:, 2:], scores[:, 1:2]], axis=1)
        bootstrap = 0 if self.is_in_train else BOOTSTRAP_RESAMPLES
        return moment_retrieval_metrics(moments, windows) | saliency_order(levels, bootstrap=bootstrap)

    # ---- optimisation and checkpoints ----------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model) -> list[str]:
        """All of them: the public code decays biases and norms too."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """A step decay at `lr_drop_epoch` where it is set, else the scheduler of `Trainer`."""
        if self.args.lr_drop_epoch is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps_per_epoch = math.ceil(len(self.train_dataset) / self.get_total_train_batch_size(self.args))
        drop = self.args.lr_drop_epoch * steps_per_epoch
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: 0.1 if step >= drop else 1.0
        )
        return self.lr_scheduler

    def _determine_best_metric(self, metrics, trial):
        is_new_best = super()._determine_best_metric(metrics, trial)
        if is_new_best:
            # Transformers leaves it out where no checkpoints are saved.
            self.state.best_global_step = self.state.global_step
        if is_new_best and self.args.keep_best:
            self._refuse_broken_weights()
            best = os.path.join(self.args.output_dir, BEST_MODEL_FOLDER)
            with self._explain_failure(best), whole_folder(best, is_writer=self.args.should_save) as folder:
                self.save_model(folder, _internal_call=True)
        return is_new_best

    def load_best_model(self) -> bool:
        """Load the weights of `output_dir/best`, if there are any, and say whether."""
        if self.state.best_metric is None or not self.args.keep_best:
            return False
        folder = os.path.join(self.args.output_dir, BEST_MODEL_FOLDER)
        if not os.path.isdir(folder):
            logger.warning("%s is not there, so the run ends with its last weights instead of its best", folder)
            return False
        self._load_from_checkpoint(folder)
        self.card.on_best_model_loaded(self.state)
        return True

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        As in `Trainer`.

        Raises:
            OSError: The folder could not be written, the disk being full say; names the last whole checkpoint.
        """
        with contextlib.nullcontext() if _internal_call else self._explain_failure(output_dir or self.args.output_dir):
            super().save_model(output_dir, _internal_call)

    def _refuse_broken_weights(self) -> None:
        """Raise FloatingPointError on weights that are not finite: whatever is saved during training can be gone on from."""
        weights = [getattr(weight, "to_local", weight.detach)() for weight in self.model.parameters()]
        finite = torch.stack([weight.detach().isfinite().all() for weight in weights]).all()
        if not self.accelerator.gather(finite.reshape(1)).all():
            raise self._not_a_number("a weight is not a number")

    def _save_checkpoint(self, model, trial) -> None:
        """As in `Trainer`, but a half-written checkpoint is never taken for a whole one, whatever happens meanwhile."""
        self._refuse_broken_weights()
        folder = os.path.join(self._get_output_dir(trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save:
            remove_half_written(self.args.output_dir)
            # Written over by a run that was resumed from further back, it would look whole all along.
            with contextlib.suppress(FileNotFoundError):
                os.remove(os.path.join(folder, STATE_FILE))
        with self._explain_failure(folder):
            try:
                super()._save_checkpoint(model, trial)
            except Exception:
                if self.args.should_save and not is_whole(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                raise

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Every process writes a file of its own, and the state that marks the checkpoint as whole must come after all of them.
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _explain_failure(self, folder: str) -> Iterator[None]:
        """Turn what a failing disk raises, an error of torch, safetensors or the system, into an OSError that says how to go on."""
        try:
            yield
        except Exception as error:
            free = shutil.disk_usage(self.args.output_dir).free / 2**20
            checkpoint = last_whole_checkpoint(self.args.output_dir)
            advice = (
                f"{checkpoint} is whole: mend the cause and resume with --resume_from_checkpoint true"
                if checkpoint
                else "there is no whole checkpoint yet: mend the cause and start again"
            )
            raise OSError(
                f"{folder} could not be saved: {error} ({free:.0f} MiB free on its disk); {advice}"
            ) from error

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        output_dir = output_dir or self.args.output_dir
        if self.args.should_save:
            # The arguments as JSON instead of a pickle: transformers masks tokens, and paths of this machine are left out.
            os.remove(os.path.join(output_dir, "training_args.bin"))
            settings = {name: value for name, value in self.args.to_dict().items() if name not in LOCAL_ARGUMENTS}
            with open(os.path.join(output_dir, "training_args.json"), "w", encoding="utf-8") as file:
                json.dump(settings, file, indent=2, default=str)


def _saliency_inside(outputs, inputs) -> torch.Tensor:
    """Mean saliency of the clips inside the moment under the query, the irrelevant query, and levels 1, 2, …: `(B, 1 + N)`.

    NaN for what does not exist.
    """
    inside = is_inside(inputs["labels"]["saliency"]) & inputs["video_attention_mask"].bool()
    scores, present = outputs["saliency_scores"].unsqueeze(1), inside.any(dim=1, keepdim=True)
    negatives = outputs.get("negative_saliency_scores")
    if negatives is not None:
        scores = torch.cat([scores, negatives[:, -1:], negatives[:, :-1]], dim=1)
        exists = inputs["negative_text_attention_mask"].any(dim=-1).roll(1, dims=1)
        present = torch.cat([present, present & exists], dim=1)
    return masked_mean(scores.float(), inside.unsqueeze(1), 2).masked_fill(~present, torch.nan)
