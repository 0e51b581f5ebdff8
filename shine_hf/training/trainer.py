"""A `Trainer` that adds the SHINE losses to the base loss of any model with saliency scores."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, IntervalStrategy, TrainingArguments
from transformers.trainer_utils import has_length, number_of_arguments, seed_worker

from ..losses import ShineLoss
from ..modeling import MomentRetrievalProcessor
from .callbacks import SetEpochCallback, StopWithoutProgress
from .evaluating_trainer import EvaluatingTrainer
from .loss_watch import LossWatch, describe
from .sampling import training_sampler
from .setup import complete_arguments, set_up
from .step_loss import StepLoss, divide, totals

STEPS = "steps"


class ShineTrainer(EvaluatingTrainer):
    """
    Train a moment-retrieval model with its base loss plus the SHINE ranking losses, and evaluate moments and saliency order.

    Any model works whose `forward` takes the batches of [`DataCollatorForMomentRetrieval`] and returns a dict with `saliency_scores (B, T)`,
    `negative_saliency_scores (B, N, T)` and `pred_spans (B, Q, 2)`. If present, `loss`, `loss_dict` and `logits (B, Q, 2)` are used too.

    Args:
        model (`str` or `nn.Module`): `"qd_detr"` or `"moment_detr"` for a new model, the folder or repository of a trained one, or a model.
        args (`TrainingArguments`): Plain `TrainingArguments` are completed with the defaults of [`ShineTrainingArguments`].
        data_collator (`DataCollatorForMomentRetrieval`, *optional*): By default, built from the features.
        train_dataset, eval_dataset: Rows with the columns of the schema: `datasets` datasets in any format, streams, or torch datasets.
            `eval_dataset` may be a dict of them.
        processing_class (`MomentRetrievalProcessor`, *optional*): Converts outputs to moments, and is saved with the model.
        video_features (`str`, list of `str`, or mapping): Clip features of each `vid`: a folder, a file, or another specification for
            [`FeatureStore.from_spec`]; or `features[vid]` -> `(T, Dv)`.
        text_features (`str` or callable, *optional*): Token features of the queries, see [`TextFeatures.from_spec`]. By default, the features
            that a trained model was trained with, or `words:` for a new model.
        shine_loss (`ShineLoss`, *optional*): The ranking losses; by default built from `args`.
        card (`ModelCardCallback`, *optional*): Collects the facts for the model card. Pass one that describes the data.

    Raises:
        ValueError: without `data_collator` and `video_features`, or for rows or features that do not fit.

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
            raise ValueError("args are required, at least with an output folder: ShineTrainingArguments(output_dir=…)")
        args = complete_arguments(args)
        self._owns_collator = data_collator is None
        if self._owns_collator:
            if video_features is None:
                raise ValueError(
                    'video_features are required, e.g. video_features="FOLDER", or a data_collator that has features'
                )
            if model is None and model_init is None:
                raise ValueError('model is required: "qd_detr", "moment_detr", a folder or repository, or a model')
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
            compute_metrics=compute_metrics,
            reads_rows=self._owns_collator,
            model_init=model_init,
            **kwargs,
        )
        self._shine_loss = shine_loss
        self.model_accepts_loss_kwargs = False
        # Sums of the loss terms since the last log, on the device.
        self._terms = defaultdict(float)
        self._watch = LossWatch()
        if hasattr(data_collator, "set_epoch"):
            self.add_callback(SetEpochCallback(data_collator))
        if args.early_stopping_patience is not None and args.eval_strategy != IntervalStrategy.NO:
            self.add_callback(StopWithoutProgress(args.early_stopping_patience))

    # ---- loss ------------------------------------------------------------------------------------------------------

    @property
    def shine_loss(self) -> ShineLoss | None:
        """The ranking losses; None if they are off. They are not cached, since a hyperparameter search changes the arguments in each trial."""
        return self._shine_loss or self.args.make_shine_loss()

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict], Any]:
        """Return the batches of a step as `Trainer` does, and instead of the number of items, the divisor of each loss term.

        The divisors account for later averaging: `Trainer` divides the loss by the number of accumulated batches, and gradients are averaged
        over the processes.
        """
        if self.control.should_training_stop:  # The run was over before it was resumed.
            return [], None
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        parts = self.accelerator.num_processes * len(batches)
        if parts <= 1:  # Then `compute_loss` counts.
            return batches, None
        step_loss = StepLoss(self.model, self.shine_loss)
        masks = [None] * (len(batches) - 1) + [self._counted_rows(batches[-1], self._training_remainder())]
        counts = totals(step_loss.counts(batch, counted) for batch, counted in zip(batches, masks))
        counts = self._sum_over_processes(counts)
        return batches, {name: count.clamp(min=1) / parts for name, count in counts.items()}

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the base loss of the model plus the weighted SHINE losses, and record every term for the next log.

        Args:
            model, inputs, return_outputs: See `Trainer`.
            num_items_in_batch (`dict`, *optional*): The divisors from [`get_batch_samples`]. Without them, the loss is averaged over `inputs`.
        """
        step_loss = StepLoss(self.model, self.shine_loss)
        # Only the last of the accumulated batches can be filled up with repeated rows.
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

    def _ranking_warmup(self) -> float:
        """Return the current factor, 0 to 1, of the terms that compare queries; 1 in an evaluation."""
        steps = self.args.ranking_warmup_ratio * self.state.max_steps
        return min(1.0, (self.state.global_step + 1) / steps) if self.model.training and steps else 1.0

    def _training_remainder(self) -> int:
        """Return how many rows of an epoch are left for the last batches of all processes; 0 if these are full.

        Accelerate's own remainder is wrong in an epoch that is resumed midway.
        """
        if self.args.dataloader_drop_last or not has_length(self.train_dataset):
            return 0
        return len(self.train_dataset) % (self._train_batch_size * self.accelerator.num_processes)

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
            # Steps after the last log of training are only checked here. This mean is of a single process.
            loss = self.accelerator.gather(torch.tensor([logs["train_loss"]], device=self.args.device)).sum().item()
            if not math.isfinite(loss):
                raise self.non_finite_error(f"the loss is {loss}")
        if "loss" in logs or "train_loss" in logs:
            # Not after an evaluation, since steps after the last training log are not checked yet.
            self._watch.clear()
        super().log(logs, start_time)

    def non_finite_error(self, what: str) -> FloatingPointError:
        """Return an error with the message `what`, and the first step and queries with the problem. Every process must call this."""
        where = describe(gather_object([self._watch.first_broken()]))
        return FloatingPointError(
            f"{what} at step {self.state.global_step}, {where}. Check the features and windows of these queries, lower the learning rate, "
            f"or train in float32. {self.advice()}"
        )

    def _mean_terms(self) -> dict[str, float]:
        """Return the means of the loss terms over processes and over the training steps since the last call."""
        steps = self._terms.pop(STEPS, 0)
        means = {
            name: value.reshape(1) / steps / self.accelerator.num_processes for name, value in self._terms.items()
        }
        self._terms.clear()
        return {name: value.item() for name, value in self._sum_over_processes(means).items()} if means else {}

    # ---- data --------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """Return the data loader of the training rows. Their order does not depend on the number of processes and accumulated batches."""
        if self.train_dataset is None:
            raise ValueError("ShineTrainer: training needs a train_dataset")
        if self._owns_collator:
            # Set here for the same reason that `shine_loss` is not cached.
            self.data_collator.hard_negatives = self.args.needs_hard_negatives
        rows_of_step = self.get_total_train_batch_size(self.args)
        sampler = training_sampler(self.train_dataset, self.args, rows_of_step, lambda: int(self.state.epoch or 0))
        seed_workers = functools.partial(
            seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
        )
        return self._make_dataloader(
            self.train_dataset, self.data_collator, self._train_batch_size, sampler, worker_init_fn=seed_workers
        )

    # ---- optimization --------------------------------------------------------------------------------------------------

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return all parameters, since the public code decays biases and norms too."""
        return [name for name, _ in model.named_parameters()]

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create a step decay at `lr_drop_epoch` if it is set, or else the scheduler of `Trainer`."""
        if self.args.lr_drop_epoch is None or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps_per_epoch = math.ceil(len(self.train_dataset) / self.get_total_train_batch_size(self.args))
        drop = self.args.lr_drop_epoch * steps_per_epoch
        self.lr_scheduler: Any = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer, lambda step: 0.1 if step >= drop else 1.0
        )
        return self.lr_scheduler
