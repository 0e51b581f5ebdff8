"""A `Trainer` that adds the SHINE losses to the base loss of any model with saliency scores."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
from collections import defaultdict

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import EvalPrediction, IntervalStrategy
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..io import atomic_file
from ..losses import ShineLoss
from ..metrics import first_moment_iou, moment_retrieval_metrics, saliency_order
from ..modeling.moment_retrieval_loss import is_inside, masked_mean
from .callbacks import SetEpochCallback, StopWithoutProgress
from .checkpointing_trainer import CheckpointingTrainer
from .cpu_kernels import fast_cpu_kernels
from .loss_watch import LossWatch, describe
from .saliency_example import ExampleRecorder
from .sampling import EpochLengthGroupedSampler
from .stop_on_signal import ignore_foreign_signals
from .training_args import ShineTrainingArguments

logger = logging.getLogger(__name__)

CONFIDENCE = 0.95  # Of the intervals of the saliency order.
# Beside the names of loss terms: the loss of a model that has no terms, the number of rows, the number of steps.
LOSS, ROWS, STEPS = "loss", "rows", "steps"


class ShineTrainer(CheckpointingTrainer):
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
        # On the device: the loss terms since the last log of the training; sums and counts of the terms since the start of the evaluation.
        self._terms, self._evaluated = defaultdict(float), defaultdict(float)
        self._watch = LossWatch()
        self._example = ExampleRecorder()
        if hasattr(data_collator, "set_epoch"):
            self.add_callback(SetEpochCallback(data_collator))
        if args.early_stopping_patience is not None and args.eval_strategy != IntervalStrategy.NO:
            self.add_callback(StopWithoutProgress(args.early_stopping_patience))

    # ---- loss ------------------------------------------------------------------------------------------------------

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As in `Trainer`, with what each loss term must be divided by where `Trainer` has the number of items.

        The step is one batch, whatever it is split into: a term is the sum over all rows divided by the count over all rows. Both `Trainer`,
        which divides by the accumulated batches, and the mean of the gradients over the processes are allowed for here.
        """
        if self.control.should_training_stop:
            # A run that was over before it was resumed.
            return [], None
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        for batch in batches[:-1]:
            batch["labels"]["counted"] = None
        # Not Accelerate's remainder, which is wrong in an epoch that is resumed in its middle.
        rows_of_round = self._train_batch_size * self.accelerator.num_processes
        remainder = 0 if self.args.dataloader_drop_last else len(self.train_dataset) % rows_of_round
        batches[-1]["labels"]["counted"] = self._counted_rows(batches[-1], remainder)
        totals = defaultdict(float)
        for batch in batches:
            for name, rows in self._row_counts(batch).items():
                totals[name] += rows.sum(dim=0)
        totals = self._sum_over_processes(totals)
        parts = self.accelerator.num_processes * len(batches)
        return batches, {name: total.clamp(min=1) / parts for name, total in totals.items()}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Base loss of the model plus the weighted SHINE losses; every term is kept for the next log.

        Args:
            num_items_in_batch (`dict`, *optional*): What [`get_batch_samples`] returned; without it, the loss is that of `inputs` alone.
        """
        outputs, sums = self._forward(model, inputs)
        if num_items_in_batch is None:
            counts = {name: rows.sum(dim=0) for name, rows in self._row_counts(inputs).items()}
            num_items_in_batch = {name: count.clamp(min=1) for name, count in counts.items()}
        loss, terms = self._weigh(_divide({name: rows.sum(dim=0) for name, rows in sums.items()}, num_items_in_batch))
        if self.model.training:
            self._watch.record(self.state.global_step + 1, loss, outputs, inputs)
            for name, value in terms.items():
                self._terms[name] += value.detach()
            self._terms[STEPS] += 1
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """As in `Trainer`, with faster kernels on a CPU."""
        with self._kernels(model):
            return super().training_step(model, inputs, num_items_in_batch)

    def _kernels(self, model) -> contextlib.AbstractContextManager[None]:
        """Faster layers for a step on a CPU. A compiled model has its own, and would be compiled again for ours."""
        uses_ours = self.args.device.type == "cpu" and not self.args.torch_compile
        return fast_cpu_kernels(model) if uses_ours else contextlib.nullcontext()

    def _forward(self, model, inputs) -> tuple[dict, dict[str, torch.Tensor]]:
        """The outputs of the model, and what each loss term sums up in each row, `(B, K)`."""
        # What is for messages or for the trainer is not for the model: strings would have it compiled anew for each batch.
        labels = {name: value for name, value in inputs["labels"].items() if name not in ("qids", "counted")}
        outputs = model(**{**inputs, "labels": labels})
        sums = dict(outputs.get("loss_sums") or {})
        if not sums and outputs.get("loss") is not None:
            # A model that only knows the means over its batch: as if each row had them.
            means = {LOSS: outputs["loss"], **(outputs.get("loss_dict") or {})}
            sums = {name: value.expand(len(outputs["saliency_scores"]), 1) for name, value in means.items()}
        if self.shine_loss is not None:
            negatives = outputs.get("negative_saliency_scores")
            if negatives is None:
                raise ValueError(
                    f"{type(self.model).__name__} returned no negative_saliency_scores: the SHINE losses need the scores under the "
                    "negatives of the batch (or set coarse_weight and fine_weight to 0)"
                )
            sums |= self.shine_loss.sums(outputs["saliency_scores"], negatives, *_saliency_masks(inputs))
        if not sums:
            raise ValueError(f"{type(self.model).__name__} returned no loss, and the SHINE losses are off")
        counted = inputs["labels"].get("counted")
        if counted is not None:
            sums = {name: rows.masked_fill(~counted.unsqueeze(1), 0) for name, rows in sums.items()}
        return outputs, sums

    def _row_counts(self, inputs) -> dict[str, torch.Tensor]:
        """Over how many elements of each row each loss term is a mean, `(B, K)`; `ROWS`, 1 per row, for those that are not named."""
        labels, video_mask = inputs["labels"], inputs["video_attention_mask"]
        counts = {ROWS: torch.ones(len(video_mask), 1, device=video_mask.device)}
        if hasattr(self.model, "loss_counts"):
            counts |= self.model.loss_counts(**inputs)
        if self.shine_loss is not None:
            counts |= self.shine_loss.counts(*_saliency_masks(inputs))
        counted = labels.get("counted")
        return counts if counted is None else {name: rows * counted.unsqueeze(1) for name, rows in counts.items()}

    def _weigh(self, terms: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Terms `(K,)` of the model and of the SHINE losses -> the loss, and each term as a scalar."""
        ranking = {
            name: terms[name] for name in terms if self.shine_loss is not None and name in self.shine_loss.weights
        }
        base = {name: value for name, value in terms.items() if name not in ranking}
        if hasattr(self.model, "weigh_losses"):
            loss, scalars = self.model.weigh_losses(base)
        else:
            scalars = {name: value.sum() for name, value in base.items()}
            loss = scalars.pop(LOSS, 0.0)
        if ranking:
            ranking_loss, ranking = self.shine_loss.weigh(ranking, self._ranking_warmup())
            loss = loss + ranking_loss
        return loss, scalars | ranking

    def _ranking_warmup(self) -> float:
        """How much of their weight the terms that compare queries have at this step of the training; all of it where the model is only evaluated."""
        steps = self.args.ranking_warmup_ratio * self.state.max_steps
        return min(1.0, (self.state.global_step + 1) / steps) if self.model.training and steps else 1.0

    def _counted_rows(self, inputs, remainder: int) -> torch.Tensor | None:
        """Which rows count, `(B,)`, None for all: Accelerate fills up the last batches of the processes, which have `remainder` rows in all, with rows
        from the start of the data."""
        is_last = self.accelerator.gradient_state.end_of_dataloader
        if self.accelerator.num_processes == 1 or not is_last or remainder <= 0:
            return None
        rows = torch.arange(len(inputs["video_attention_mask"]), device=self.args.device)
        return rows + self.accelerator.process_index * len(rows) < remainder

    def _sum_over_processes(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sums `(K,)` of all processes, which have the same names and sizes, in one transfer."""
        summed = self.accelerator.reduce(torch.cat([value.float() for value in values.values()]), "sum")
        return dict(zip(values, summed.split([len(value) for value in values.values()])))

    def _mean_terms(self) -> dict[str, float]:
        """Means of the loss terms over the steps of the training and the processes since the last call."""
        steps = self._terms.pop(STEPS, 0)
        means = {
            name: value.reshape(1) / steps / self.accelerator.num_processes for name, value in self._terms.items()
        }
        self._terms.clear()
        return {name: value.item() for name, value in self._sum_over_processes(means).items()} if means else {}

    def _evaluated_terms(self) -> dict[str, float]:
        """Loss and terms over all rows that were evaluated, `loss` first; a term that no row has is left out."""
        totals = self._sum_over_processes(self._evaluated)
        self._evaluated.clear()
        counts = {name: total for (kind, name), total in totals.items() if kind == "counts"}
        sums = {
            name: total
            for (kind, name), total in totals.items()
            if kind == "sums" and counts.get(name, counts[ROWS]).any()
        }
        loss, terms = self._weigh(_divide(sums, {name: count.clamp(min=1) for name, count in counts.items()}))
        return {LOSS: loss.item(), **{name: value.item() for name, value in terms.items()}}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """
        Add the loss terms to the logs of training steps, and stop on a loss that is not a number.

        Raises:
            FloatingPointError: The mean loss since the last log is not finite; names the first such step and its queries.
        """
        if "loss" in logs:
            logs |= self._mean_terms()
            if not math.isfinite(logs["loss"]):
                broken = [
                    name for name, value in logs.items() if name.startswith("loss_") and not math.isfinite(value)
                ]
                raise self.non_finite_error(
                    f"the loss is {logs['loss']} (terms: {', '.join(broken) or 'none of its parts'})"
                )
        elif "train_loss" in logs:
            # The last steps of a training that did not end on a logging step; this mean is that of one process.
            loss = self.accelerator.gather(torch.tensor([logs["train_loss"]], device=self.args.device)).sum().item()
            if not math.isfinite(loss):
                raise self.non_finite_error(f"the loss is {loss}")
        if "loss" in logs or "train_loss" in logs:
            # Not at an evaluation: what broke since the last log of the training is still to be told.
            self._watch.clear()
        super().log(logs, start_time)

    def non_finite_error(self, what: str) -> FloatingPointError:
        """Return the error that says `what` was found, and where it began. Every process must call this."""
        where = describe(gather_object([self._watch.first_broken()]))
        return FloatingPointError(
            f"{what} at step {self.state.global_step}, {where}. Look at the features and windows of these queries, lower the learning rate, "
            f"or train in float32. {self.advice()}"
        )

    def _get_dataloader(self, *args, **kwargs):
        dataloader = super()._get_dataloader(*args, **kwargs)
        if dataloader.num_workers:
            # What accelerate wraps starts the workers; an attribute of the wrapper would not reach it.
            inner = getattr(dataloader, "base_dataloader", dataloader)
            inner.worker_init_fn = functools.partial(ignore_foreign_signals, inner.worker_init_fn)
        return dataloader

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset=None):
        """As in `Trainer`, with a collator whose draws are the same at every evaluation."""
        if not isinstance(eval_dataset, str):
            # `Trainer` would give the loader of any other dataset, kept for its persistent workers.
            getattr(self, "_eval_dataloaders", {}).pop("eval", None)
        training_collator = self.data_collator
        if hasattr(training_collator, "for_evaluation"):
            self.data_collator = training_collator.for_evaluation()
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = training_collator

    def _get_eval_sampler(self, eval_dataset) -> list[int]:
        """The places of the rows, those of the longest videos first: batches hold little padding, and what does not fit in memory shows at once."""
        is_grouped = self.args.train_sampling_strategy == "group_by_length"
        has_lengths = self.args.length_column_name in getattr(eval_dataset, "column_names", ())
        lengths = (
            eval_dataset[self.args.length_column_name] if is_grouped and has_lengths else [0.0] * len(eval_dataset)
        )
        return np.argsort(-np.asarray(lengths), kind="stable").tolist()

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        self._evaluated.clear()
        self._example.clear()
        self._evaluated_rows = dataloader.dataset
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        self._last_evaluation = output
        if self._evaluated:
            terms = self._evaluated_terms()
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in terms.items()})
        split = metric_key_prefix.removeprefix("eval_")
        if example := self._example.describe(split, dataloader.dataset, self.processing_class.clip_length):
            self.card.note_example(example)
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Reduce the outputs to what the metrics read: moments `(B, Q, 3)` and mean saliency inside the moment."""
        inputs = self._prepare_inputs(inputs)
        inputs["labels"]["counted"] = self._counted_rows(inputs, self.accelerator.gradient_state.remainder)
        with torch.no_grad(), self.compute_loss_context_manager(), self._kernels(model):
            outputs, sums = self._forward(model, inputs)
        for kind, rows in (("sums", sums), ("counts", self._row_counts(inputs))):
            for name, values in rows.items():
                self._evaluated[kind, name] += values.sum(dim=0)
        if prediction_loss_only:
            return None, None, None
        labels, video_mask = inputs["labels"], inputs["video_attention_mask"]
        moments = self.processing_class.decode_moments(
            outputs.get("logits"),
            outputs["pred_spans"],
            video_mask,
            labels["durations"],
            self.args.round_to_clip_length,
            self.args.nms_threshold,
            outputs["saliency_scores"],
            outputs.get("saliency_weight"),
        )
        self._example.record(inputs, outputs, moments)
        return None, (moments.float(), _saliency_inside(outputs, inputs)), labels["windows"]

    def compute_moment_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return R1@0.3/0.5/0.7, mIoU and mAP of the moments, and how often the saliency is in the order that SHINE trains, in percent.

        Rows without a window have no answer: they are not scored. Without any answer there are no figures.
        """
        moments, levels, windows = _unpadded(prediction)
        answered = np.isfinite(windows).any(axis=(1, 2))
        if not answered.any():
            return {}
        if not answered.all():
            logger.warning("%d of %d rows have no window and are not scored", (~answered).sum(), len(answered))
        confidence, clusters = None if self.is_in_train else CONFIDENCE, self._evaluated_videos(len(levels))
        if clusters is not None:
            clusters = [video for video, is_answered in zip(clusters, answered) if is_answered]
        order = saliency_order(levels[answered], clusters=clusters, confidence=confidence)
        return moment_retrieval_metrics(moments[answered], windows[answered]) | order

    def _evaluated_videos(self, count: int) -> list[str] | None:
        """The video of each row of the evaluation, in its order; None where the rows do not say."""
        rows = self._evaluated_rows
        if "vid" not in (getattr(rows, "column_names", None) or ()) or len(rows) != count:
            return None
        vids = rows["vid"]
        return [vids[place] for place in self._get_eval_sampler(rows)]

    def save_query_results(self, split: str, rows) -> None:
        """
        Write what the last evaluation found for every query to `output_dir/queries/{split}.jsonl`: `qid`, `vid`, the first `moment`
        `[start, end]` in seconds, its `iou` with the annotated window that it fits best, and the mean `saliency` inside the moment under the
        query, level 1, 2, … and the irrelevant query (null for what does not exist). What a comparison of two models query by query needs.

        Args:
            rows: What was evaluated.
        """
        if not self.is_world_process_zero():
            return
        moments, levels, windows = _unpadded(self._last_evaluation)
        path = os.path.join(self.args.output_dir, "queries", f"{split}.jsonl")
        places = np.argsort(self._get_eval_sampler(rows))
        ious = first_moment_iou(moments, windows)
        with atomic_file(path) as file:
            for row, moment, iou, saliency in zip(rows, moments[places], ious[places], levels[places]):
                found = {name: [None if np.isnan(value) else float(value) for value in values]
                         for name, values in (("moment", moment[0, :2]), ("saliency", saliency))}  # fmt: skip
                file.write(json.dumps({"qid": row["qid"], "vid": row["vid"], "iou": float(iou), **found}) + "\n")

    # ---- optimisation and checkpoints ----------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model) -> list[str]:
        """All of them: the public code decays biases and norms too."""
        return [name for name, _ in model.named_parameters()]

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
            rows_of_step = self.get_total_train_batch_size(self.args)
            return EpochLengthGroupedSampler(rows_of_step, sampler.lengths, seed, lambda: int(self.state.epoch or 0))
        return sampler

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


def _unpadded(prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moments `(N, Q, 3)`, saliency `(N, 1 + L)` of the query, level 1, 2, … and the irrelevant query, and windows `(N, W, 2)`; NaN for none."""
    moments, scores = prediction.predictions
    windows = prediction.label_ids
    # Absent windows are negative (padding of the collator and of the Trainer); real ones end after 0.
    windows = np.where(windows[..., 1:] >= 0, windows, np.nan)
    moments = np.where(moments[..., 2:] >= 0, moments, np.nan)
    # The Trainer pads batches with fewer levels by -100, behind the others: hence the irrelevant query comes first.
    scores = np.where(scores == -100, np.nan, scores)
    return moments, np.concatenate([scores[:, :1], scores[:, 2:], scores[:, 1:2]], axis=1), windows


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


def _divide(sums: dict[str, torch.Tensor], counts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Sums `(K,)` of loss terms -> the terms `(K,)`; those that are not counted on their own are means over the rows."""
    return {name: total / counts.get(name, counts[ROWS]) for name, total in sums.items()}


def _saliency_masks(inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the SHINE losses read of a batch: labels `(B, T)`, valid clips `(B, T)`, and which negatives exist `(B, N)`."""
    negatives = inputs["negative_text_attention_mask"].any(dim=-1)
    return inputs["labels"]["saliency"], inputs["video_attention_mask"], negatives
