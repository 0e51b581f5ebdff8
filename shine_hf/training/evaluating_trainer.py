"""The part of [`ShineTrainer`] that evaluates moments, saliency order and loss terms over all rows, in row order."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, IntervalStrategy
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from ..losses import ShineLoss
from .callbacks import selection_metric
from .checkpointing_trainer import CheckpointingTrainer
from .cpu_kernels import fast_cpu_kernels
from .evaluation import representative_rows, saliency_inside, score, write_query_results
from .example_recorder import ExampleRecorder
from .model_card_callback import SPEED_METRICS
from .sampling import longest_first, restore_order
from .setup import read_rows
from .step_loss import LOSS, ROWS, StepLoss, divide, totals
from .stop_on_signal import ignore_foreign_signals

CONFIDENCE = 0.95  # Confidence level of the intervals of the saliency order.


class EvaluatingTrainer(CheckpointingTrainer):
    """
    A `Trainer` that evaluates moment retrieval. Results are in row order, whatever order they were computed in.

    Args:
        compute_metrics (*optional*): See `Trainer`; by default [`compute_moment_metrics`].
        reads_rows (`bool`): Whether to convert the evaluated rows to the schema.
        kwargs: Passed to [`CheckpointingTrainer`].
    """

    shine_loss: ShineLoss | None
    model_wrapped: nn.Module

    def __init__(
        self,
        *args,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        reads_rows: bool = False,
        **kwargs,
    ):
        compute_metrics = self._in_callers_order(compute_metrics or self.compute_moment_metrics)
        super().__init__(*args, compute_metrics=compute_metrics, **kwargs)
        self._reads_rows = reads_rows
        # Sums and counts of the loss terms since the start of the evaluation, on the device.
        self._evaluated = defaultdict(float)
        self._example = ExampleRecorder()
        # The rows of the current evaluation, and the order in which they are read.
        self._row_order, self._evaluated_rows = None, None

    # ---- data --------------------------------------------------------------------------------------------------------

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return the data loader of an evaluation. The longest videos come first, and the collator draws the same values in every evaluation."""
        if eval_dataset is None or isinstance(eval_dataset, str):
            rows = self.eval_dataset[eval_dataset] if eval_dataset is not None else self.eval_dataset
        else:
            rows = read_rows(eval_dataset, "eval_dataset") if self._reads_rows else eval_dataset
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
        """Return the data loader of [`predict`], the same as for an evaluation."""
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
            # Each evaluation has its own loader, whose workers would stay alive afterwards.
            persistent_workers=args.dataloader_persistent_workers and is_training,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            in_order=args.dataloader_in_order,
            drop_last=args.dataloader_drop_last and is_training,
            worker_init_fn=functools.partial(ignore_foreign_signals, worker_init_fn),
        )
        # Let each process read its share of a stream. Dispatched batches may contain only tensors, but ours have qids.
        self.accelerator.dataloader_config.dispatch_batches = False
        return self.accelerator.prepare(loader)

    # ---- what to select on -----------------------------------------------------------------------------------------------

    def train(self, *args, **kwargs) -> TrainOutput:
        """Train as [`CheckpointingTrainer`] does, after checking that evaluations produce `metric_for_best_model`.

        Raises:
            ValueError: if no evaluation will produce `metric_for_best_model`.
            Exception: see [`CheckpointingTrainer.train`].
        """
        self._check_selection_metric()
        self._forget_evaluation()
        return super().train(*args, **kwargs)

    def _check_selection_metric(self) -> None:
        args = self.args
        # A sharded model cannot be evaluated before it is trained.
        if not args.metric_for_best_model or args.eval_strategy == IntervalStrategy.NO or self.is_sharded:
            return
        wanted, found = selection_metric(args), set()
        datasets = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
        # The loader draws a seed for its workers, which must not affect training.
        with torch.random.fork_rng(devices=[]):
            for name, rows in datasets.items():
                prefix = f"eval_{name}" if name else "eval"
                found |= self.predict(representative_rows(rows), metric_key_prefix=prefix).metrics.keys()
        if wanted not in found:
            names = sorted(name.removeprefix("eval_") for name in found if not name.endswith(SPEED_METRICS))
            raise ValueError(
                f"metric_for_best_model is {args.metric_for_best_model!r}, which no evaluation during training will produce; available: "
                f"{', '.join(names)}"
            )

    def _forget_evaluation(self) -> None:
        """Let training prepare the model again after an evaluation.

        Accelerate prepares a model once, and for an evaluation without `DistributedDataParallel`. Each process would then train on its own.
        """
        modules = self.model_wrapped.modules()
        if self.is_sharded or any(isinstance(module, nn.parallel.DistributedDataParallel) for module in modules):
            return
        self.model_wrapped = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        vars(self.model_wrapped).pop("_is_accelerate_prepared", None)

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are split across processes, so that none has all of them."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    # ---- evaluation --------------------------------------------------------------------------------------------------

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate as `Trainer` does, with results in row order and the loss terms among the metrics."""
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
        """Reduce the outputs to what the metrics need: moments `(B, Q, 3)` and the mean saliency inside the moment."""
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
        """Return the loss and its terms over all evaluated rows, `loss` first. A term that no row has is left out."""
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

        Rows without a window have no answer and are not scored. If no row has an answer, there are no metrics.
        """
        confidence = None if self.is_in_train else CONFIDENCE
        return score(prediction.predictions, prediction.label_ids, self._evaluated_rows, confidence)

    def save_query_results(self, split: str, rows: Any) -> None:
        """
        Write the results of the last evaluation to `output_dir/queries/{split}.jsonl`, e.g. to compare two models query by query.

        Each row has the `qid`, the `vid`, the first `moment` `[start, end]` in seconds, its `iou` with the best-fitting annotated window, and
        the mean `saliency` inside the moment under the query, level 1, 2, … and the irrelevant query (null if missing).

        Args:
            split: Name of the file.
            rows: The evaluated rows.
        """
        if self.is_world_process_zero():
            path = os.path.join(self.args.output_dir, "queries", f"{split}.jsonl")
            write_query_results(path, rows, self._last_evaluation.predictions, self._last_evaluation.label_ids)

    # ---- shared by training and evaluation steps ---------------------------------------------------------------------

    def _kernels(self, model) -> contextlib.AbstractContextManager[None]:
        """Return the context of a step: on a CPU, faster layers. A compiled model already has fast kernels and would be recompiled."""
        is_faster = self.args.device.type == "cpu" and not self.args.torch_compile
        return fast_cpu_kernels(model) if is_faster else contextlib.nullcontext()

    def _counted_rows(self, inputs, remainder: int) -> torch.Tensor | None:
        """Return which rows count, `(B,)` bool, or None for all.

        In an epoch, `remainder` rows are left for the last batches of all processes. Accelerate fills these up with rows from the start.
        """
        is_last = self.accelerator.gradient_state.end_of_dataloader
        if self.accelerator.num_processes == 1 or not is_last or remainder <= 0:
            return None
        rows = torch.arange(len(inputs["video_attention_mask"]), device=self.args.device)
        return rows + self.accelerator.process_index * len(rows) < remainder

    def _sum_over_processes(self, values: dict) -> dict:
        """Sum values `(K,)` over all processes in one transfer. Names and sizes must be the same in each process."""
        summed = self.accelerator.reduce(torch.cat([value.float() for value in values.values()]), "sum")
        return dict(zip(values, summed.split([len(value) for value in values.values()])))
