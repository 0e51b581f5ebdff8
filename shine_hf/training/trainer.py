"""A `Trainer` that adds the SHINE losses to the base loss of any model with saliency scores."""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, IntervalStrategy, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, TrainOutput, has_length, number_of_arguments, seed_worker

from ..losses import ShineLoss
from ..modeling import MomentRetrievalProcessor
from .callbacks import SetEpochCallback, StopWithoutProgress, selection_metric
from .checkpointing_trainer import CheckpointingTrainer
from .cpu_kernels import fast_cpu_kernels
from .evaluation import saliency_inside, score, telling_rows, write_query_results
from .example_recorder import ExampleRecorder
from .loss_watch import LossWatch, describe
from .model_card_callback import SPEED_METRICS
from .sampling import longest_first, restore_order, training_sampler
from .setup import complete_arguments, read_rows, set_up
from .step_loss import LOSS, ROWS, StepLoss, divide, totals
from .stop_on_signal import ignore_foreign_signals

CONFIDENCE = 0.95  # Of the intervals of the saliency order.
STEPS = "steps"


class ShineTrainer(CheckpointingTrainer):
    """
    Trains a moment-retrieval model with its base loss plus the SHINE ranking losses, and evaluates moments and saliency order.

    A model fits if its `forward` takes the batches of [`DataCollatorForMomentRetrieval`] and returns a dict with `saliency_scores (B, T)`,
    `negative_saliency_scores (B, N, T)` and `pred_spans (B, Q, 2)`; `loss`, `loss_dict` and `logits (B, Q, 2)` are used if they are there.

    Args:
        model (`str` or `nn.Module`): `"qd_detr"` or `"moment_detr"` for a new model, a folder or repository of a trained one, or a model.
        args (`TrainingArguments`): Plain ones get the defaults of [`ShineTrainingArguments`] for what they lack.
        data_collator (`DataCollatorForMomentRetrieval`, *optional*): Built from the features if left out.
        train_dataset, eval_dataset: Rows with the columns of the schema: datasets of `datasets` in any format, streams, or torch datasets.
            `eval_dataset` may be a dict of them.
        processing_class (`MomentRetrievalProcessor`, *optional*): Turns outputs into moments, and is saved with the model.
        video_features (`str`, list of `str`, or mapping): Clip features of each `vid`: a folder, a file, or another specification of
            [`FeatureStore.from_spec`]; or `features[vid]` -> `(T, Dv)`.
        text_features (`str` or callable, *optional*): Token features of the queries, see [`TextFeatures.from_spec`]; by default those that a
            trained model was trained with, and `words:` for a new one.
        shine_loss (`ShineLoss`, *optional*): The ranking losses; by default those that `args` describe.
        card (`ModelCardCallback`, *optional*): Collects what the model card says; pass one that knows the data.

    Raises:
        ValueError: if there is neither `data_collator` nor `video_features`, and for rows or features that do not fit.

    Example:
        >>> trainer = ShineTrainer(
        ...     model="qd_detr",
        ...     args=ShineTrainingArguments(output_dir="trained"),
        ...     train_dataset=load_dataset("json", data_files="train.jsonl")["train"],
        ...     video_features="FEATURES",
        ...     text_features="words:",
        ... )
        >>> trainer.train()
    """

    def __init__(
        self,
        model: str | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: MomentRetrievalProcessor | None = None,
        video_features: str | Sequence[str] | Mapping | None = None,
        text_features: str | Callable | None = None,
        shine_loss: ShineLoss | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        model_init: Callable[..., nn.Module] | None = None,
        **kwargs,
    ):
        if args is None:
            raise ValueError(
                "args are needed, at least with the folder to write to: ShineTrainingArguments(output_dir=…)"
            )
        args = complete_arguments(args)
        self._owns_collator = data_collator is None
        if self._owns_collator:
            if video_features is None:
                raise ValueError(
                    'video_features are needed, e.g. video_features="FOLDER", or a data_collator that has features'
                )
            if model is None and model_init is None:
                raise ValueError('a model is needed: "qd_detr", "moment_detr", a folder or repository, or a model')
            like = model if model_init is None else model_init(*[None] * number_of_arguments(model_init))
            built = set_up(like, args, train_dataset, eval_dataset, video_features, text_features, processing_class)
            data_collator, train_dataset, eval_dataset = built.collator, built.train_dataset, built.eval_dataset
            model = None if model_init is not None else built.model
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class or data_collator.processor,
            compute_metrics=self._in_callers_order(compute_metrics or self.compute_moment_metrics),
            model_init=model_init,
            **kwargs,
        )
        self._shine_loss = shine_loss
        self.model_accepts_loss_kwargs = False
        # On the device: the loss terms since the last log of the training; sums and counts of the terms since the start of the evaluation.
        self._terms, self._evaluated = defaultdict(float), defaultdict(float)
        self._watch, self._example = LossWatch(), ExampleRecorder()
        # The order in which the rows of the running evaluation are read, and the rows.
        self._row_order, self._evaluated_rows = None, None
        if hasattr(data_collator, "set_epoch"):
            self.add_callback(SetEpochCallback(data_collator))
        if args.early_stopping_patience is not None and args.eval_strategy != IntervalStrategy.NO:
            self.add_callback(StopWithoutProgress(args.early_stopping_patience))

    # ---- loss ------------------------------------------------------------------------------------------------------

    @property
    def shine_loss(self) -> ShineLoss | None:
        """The ranking losses; None if they are off. A hyper-parameter search changes the arguments from trial to trial, so they are read here."""
        return self._shine_loss or self.args.make_shine_loss()

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict], Any]:
        """Return the batches of a step as `Trainer` does and, where it has the number of items, what each loss term must be divided by.

        Allows for what happens to the loss afterwards: `Trainer` divides it by the number of accumulated batches, and the gradients are averaged
        over the processes.
        """
        if self.control.should_training_stop:  # The run was over before it was resumed.
            return [], None
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        parts = self.accelerator.num_processes * len(batches)
        if parts <= 1:  # `compute_loss` counts by itself.
            return batches, None
        step_loss = StepLoss(self.model, self.shine_loss)
        masks = [None] * (len(batches) - 1) + [self._counted_rows(batches[-1], self._training_remainder())]
        counts = totals(step_loss.counts(batch, counted) for batch, counted in zip(batches, masks))
        counts = self._sum_over_processes(counts)
        return batches, {name: count.clamp(min=1) / parts for name, count in counts.items()}

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the base loss of the model plus the weighted SHINE losses; every term is kept for the next log.

        Args:
            model, inputs, return_outputs: As of `Trainer`.
            num_items_in_batch (`dict`, *optional*): What [`get_batch_samples`] returned; without it, the loss is that of `inputs` only.
        """
        step_loss = StepLoss(self.model, self.shine_loss)
        # Only the last of the accumulated batches can hold rows that fill it up.
        is_last = self.accelerator.sync_gradients
        counted = self._counted_rows(inputs, self._training_remainder()) if is_last and self.model.training else None
        outputs = step_loss.forward(model, inputs)
        counts = step_loss.counts(inputs, counted)
        sums = step_loss.sums(outputs, inputs, counts)
        if num_items_in_batch is None:
            num_items_in_batch = {name: count.clamp(min=1) for name, count in totals([counts]).items()}
        loss, terms = step_loss.weigh(divide(sums, num_items_in_batch), self._ranking_warmup())
        if self.model.training:
            self._watch.record(self.state.global_step + 1, loss, outputs, inputs)
            for name, value in terms.items():
                self._terms[name] += value.detach()
            self._terms[STEPS] += 1
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict, num_items_in_batch: Any = None) -> torch.Tensor:
        """Take a step as `Trainer` does, with faster kernels on a CPU."""
        with self._kernels(model):
            return super().training_step(model, inputs, num_items_in_batch)

    def _kernels(self, model) -> contextlib.AbstractContextManager[None]:
        """Faster layers for a step on a CPU. A compiled model has its own, and would be compiled again for ours."""
        uses_ours = self.args.device.type == "cpu" and not self.args.torch_compile
        return fast_cpu_kernels(model) if uses_ours else contextlib.nullcontext()

    def _ranking_warmup(self) -> float:
        """How much of their weight the terms that compare queries have at this step; all of it if the model is only evaluated."""
        steps = self.args.ranking_warmup_ratio * self.state.max_steps
        return min(1.0, (self.state.global_step + 1) / steps) if self.model.training and steps else 1.0

    def _training_remainder(self) -> int:
        """How many rows of an epoch are left for the last batches of all processes; 0 where these are full.

        Not Accelerate's remainder, which is wrong in an epoch that is resumed in its middle.
        """
        if self.args.dataloader_drop_last or not has_length(self.train_dataset):
            return 0
        return len(self.train_dataset) % (self._train_batch_size * self.accelerator.num_processes)

    def _counted_rows(self, inputs, remainder: int) -> torch.Tensor | None:
        """Which rows count, `(B,)` bool, None for all: Accelerate fills up the last batches of the processes, which have `remainder` rows in all,
        with rows from the start of the data."""
        is_last = self.accelerator.gradient_state.end_of_dataloader
        if self.accelerator.num_processes == 1 or not is_last or remainder <= 0:
            return None
        rows = torch.arange(len(inputs["video_attention_mask"]), device=self.args.device)
        return rows + self.accelerator.process_index * len(rows) < remainder

    def _sum_over_processes(self, values: dict) -> dict:
        """Sums `(K,)` of all processes, which have the same names and sizes, in one transfer."""
        summed = self.accelerator.reduce(torch.cat([value.float() for value in values.values()]), "sum")
        return dict(zip(values, summed.split([len(value) for value in values.values()])))

    # ---- logs ------------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """
        Add the loss terms to the logs of training steps, and stop on a non-finite loss.

        Raises:
            FloatingPointError: if the mean loss since the last log is not finite; names the first such step and its queries.
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
            # Not at an evaluation: what broke since the last log of the training is still to be reported.
            self._watch.clear()
        super().log(logs, start_time)

    def non_finite_error(self, what: str) -> FloatingPointError:
        """Return the error that says `what` was found, and where it began. Every process must call this."""
        where = describe(gather_object([self._watch.first_broken()]))
        return FloatingPointError(
            f"{what} at step {self.state.global_step}, {where}. Look at the features and windows of these queries, lower the learning rate, "
            f"or train in float32. {self.advice()}"
        )

    def _mean_terms(self) -> dict[str, float]:
        """Means of the loss terms over the training steps and the processes since the last call."""
        steps = self._terms.pop(STEPS, 0)
        means = {
            name: value.reshape(1) / steps / self.accelerator.num_processes for name, value in self._terms.items()
        }
        self._terms.clear()
        return {name: value.item() for name, value in self._sum_over_processes(means).items()} if means else {}

    # ---- data --------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of the training rows, in an order that does not depend on the number of processes and accumulated batches."""
        if self.train_dataset is None:
            raise ValueError("ShineTrainer: training needs a train_dataset")
        if self._owns_collator:
            # Read here for the same reason as `shine_loss`.
            self.data_collator.hard_negatives = self.args.fine_weight > 0
        rows_of_step = self.get_total_train_batch_size(self.args)
        sampler = training_sampler(self.train_dataset, self.args, rows_of_step, lambda: int(self.state.epoch or 0))
        seed_workers = functools.partial(
            seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
        )
        return self._make_dataloader(
            self.train_dataset, self.data_collator, self._train_batch_size, sampler, worker_init_fn=seed_workers
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return the loader of an evaluation: the longest videos come first, and the draws of the collator are the same at every evaluation."""
        if eval_dataset is None or isinstance(eval_dataset, str):
            rows = self.eval_dataset[eval_dataset] if eval_dataset is not None else self.eval_dataset
        else:
            rows = read_rows(eval_dataset, "eval_dataset") if self._owns_collator else eval_dataset
        if rows is None:
            raise ValueError("ShineTrainer: evaluation needs an eval_dataset")
        collator = self.data_collator
        if hasattr(collator, "for_evaluation"):
            collator = collator.for_evaluation()
        order = longest_first(rows, self.args)
        loader = self._make_dataloader(rows, collator, self.args.eval_batch_size, order)
        loader.row_order = order
        return loader

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Return the loader of [`predict`], which is that of an evaluation."""
        return self.get_eval_dataloader(test_dataset)

    def _make_dataloader(self, rows, collator, batch_size: int, sampler, worker_init_fn=None) -> DataLoader:
        args, is_training = self.args, worker_init_fn is not None
        loader = DataLoader(
            rows,
            batch_size,
            sampler=sampler,
            collate_fn=collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            # Those of an evaluation would outlive it, and there is another loader for the next one.
            persistent_workers=args.dataloader_persistent_workers and is_training,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            in_order=args.dataloader_in_order,
            drop_last=args.dataloader_drop_last and is_training,
            worker_init_fn=functools.partial(ignore_foreign_signals, worker_init_fn),
        )
        # Each process reads its share of a stream: batches that one reads for all hold tensors only, and ours have qids.
        self.accelerator.dataloader_config.dispatch_batches = False
        return self.accelerator.prepare(loader)

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def train(self, *args, **kwargs) -> TrainOutput:
        """Train as [`CheckpointingTrainer`] does, after a look at whether an evaluation finds `metric_for_best_model`.

        Raises:
            ValueError: if no evaluation will produce `metric_for_best_model`.
            Exception: as [`CheckpointingTrainer.train`].
        """
        self._check_selection_metric()
        return super().train(*args, **kwargs)

    def _check_selection_metric(self) -> None:
        args = self.args
        # A sharded model cannot be evaluated before it is trained.
        if not args.metric_for_best_model or args.eval_strategy == IntervalStrategy.NO or self.is_sharded:
            return
        wanted, found = selection_metric(args), set()
        datasets = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        # The loader draws a seed for its workers, which must not change the training.
        with torch.random.fork_rng(devices=[]):
            for name, rows in datasets.items():
                prefix = f"eval_{name}" if name else "eval"
                found |= self.predict(telling_rows(rows), metric_key_prefix=prefix).metrics.keys()
        if wanted not in found:
            names = sorted(name.removeprefix("eval_") for name in found if not name.endswith(SPEED_METRICS))
            raise ValueError(
                f"metric_for_best_model is {args.metric_for_best_model!r}, which no evaluation during the training will produce; there are "
                f"{', '.join(names)}"
            )

    @property
    def is_sharded(self) -> bool:
        """Whether no process has all weights."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `Trainer` does; the results come in the order of the rows, and the loss terms are among the metrics."""
        self._evaluated.clear()
        self._example.clear()
        self._evaluated_rows, self._row_order = dataloader.dataset, getattr(dataloader, "row_order", None)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        predictions, labels = (restore_order(part, self._row_order) for part in (output.predictions, output.label_ids))
        terms = self._evaluated_terms() if self._evaluated else {}
        metrics = output.metrics | {f"{metric_key_prefix}_{name}": value for name, value in terms.items()}
        split = metric_key_prefix.removeprefix("eval_")
        if example := self._example.describe(split, dataloader.dataset, self.processing_class.clip_length):
            self.card.note_example(example)
        self._last_evaluation = output._replace(predictions=predictions, label_ids=labels, metrics=metrics)
        return self._last_evaluation

    def _in_callers_order(self, compute_metrics):
        @functools.wraps(compute_metrics)
        def compute(prediction: EvalPrediction, **kwargs) -> dict[str, float]:
            parts = (prediction.predictions, prediction.label_ids, prediction.inputs, prediction.losses)
            return compute_metrics(EvalPrediction(*(restore_order(part, self._row_order) for part in parts)), **kwargs)

        return compute

    def prediction_step(
        self, model: nn.Module, inputs: dict, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple:
        """Reduce the outputs to what the metrics read: moments `(B, Q, 3)` and mean saliency inside the moment."""
        inputs = self._prepare_inputs(inputs)
        step_loss = StepLoss(self.model, self.shine_loss)
        counts = step_loss.counts(inputs, self._counted_rows(inputs, self.accelerator.gradient_state.remainder))
        with torch.no_grad(), self.compute_loss_context_manager(), self._kernels(model):
            outputs = step_loss.forward(model, inputs)
            sums = step_loss.sums(outputs, inputs, counts)
        for kind, values in (("sums", sums), ("counts", totals([counts]))):
            for name, value in values.items():
                self._evaluated[kind, name] += value
        if prediction_loss_only:
            return None, None, None
        labels = inputs["labels"]
        moments = self.processing_class.decode_moments(
            outputs.get("logits"),
            outputs["pred_spans"],
            inputs["video_attention_mask"],
            labels["durations"],
            self.args.round_to_clip_length,
            self.args.nms_threshold,
            outputs["saliency_scores"],
            outputs.get("saliency_weight"),
        )
        self._example.record(inputs, outputs, moments)
        return None, (moments.float(), saliency_inside(outputs, inputs)), labels["windows"]

    def _evaluated_terms(self) -> dict[str, float]:
        """Loss and terms over all rows that were evaluated, `loss` first; a term that no row has is left out."""
        summed = self._sum_over_processes(self._evaluated)
        self._evaluated.clear()
        counts = {name: total for (kind, name), total in summed.items() if kind == "counts"}
        sums = {
            name: total
            for (kind, name), total in summed.items()
            if kind == "sums" and counts.get(name, counts[ROWS]).any()
        }
        terms = divide(sums, {name: count.clamp(min=1) for name, count in counts.items()})
        loss, scalars = StepLoss(self.model, self.shine_loss).weigh(terms)
        return {LOSS: loss.item(), **{name: value.item() for name, value in scalars.items()}}

    def compute_moment_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return R1@0.3/0.5/0.7, mIoU and mAP of the moments, and how often the saliency is in the order that SHINE trains, in percent.

        Rows without a window have no answer: they are not scored. Without any answer there are no figures.
        """
        confidence = None if self.is_in_train else CONFIDENCE
        return score(prediction.predictions, prediction.label_ids, self._evaluated_rows, confidence)

    def save_query_results(self, split: str, rows: Any) -> None:
        """
        Write what the last evaluation found for every query to `output_dir/queries/{split}.jsonl`: `qid`, `vid`, the first `moment`
        `[start, end]` in seconds, its `iou` with the annotated window that it fits best, and the mean `saliency` inside the moment under the
        query, level 1, 2, … and the irrelevant query (null for what does not exist). This is what a comparison of two models per query needs.

        Args:
            split: Name of the file.
            rows: What was evaluated.
        """
        if self.is_world_process_zero():
            path = os.path.join(self.args.output_dir, "queries", f"{split}.jsonl")
            write_query_results(path, rows, self._last_evaluation.predictions, self._last_evaluation.label_ids)

    # ---- optimization --------------------------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return all of them: the public code decays biases and norms too."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create a step decay at `lr_drop_epoch` if that is set, else the scheduler of `Trainer`."""
        if self.args.lr_drop_epoch is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps_per_epoch = math.ceil(len(self.train_dataset) / self.get_total_train_batch_size(self.args))
        drop = self.args.lr_drop_epoch * steps_per_epoch
        self.lr_scheduler: Any = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: 0.1 if step >= drop else 1.0
        )
        return self.lr_scheduler
