"""A `Trainer` that adds the SHINE losses to the base loss of any model with saliency scores."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict

import numpy as np
import torch
from transformers import EvalPrediction, IntervalStrategy, Trainer

from ..losses import ShineLoss
from ..metrics import moment_retrieval_metrics, saliency_order
from ..modeling.moment_retrieval_loss import is_inside, masked_mean
from .callbacks import SetEpochCallback, StopWithoutProgress
from .training_args import ShineTrainingArguments

BEST_MODEL_FOLDER = "best"
BOOTSTRAP_RESAMPLES = 1000
LOCAL_ARGUMENTS = ("output_dir", "run_name", "resume_from_checkpoint", "logging_dir", "deepspeed", "fsdp_config")


class ShineTrainer(Trainer):
    """
    Trains a moment-retrieval model with its base loss plus the SHINE ranking losses, and evaluates moments and saliency order.

    A model fits if its `forward` takes the batches of [`DataCollatorForMomentRetrieval`] and returns a dict with `saliency_scores (B, T)`,
    `negative_saliency_scores (B, N, T)` and `pred_spans (B, Q, 2)`; `loss`, `loss_dict` and `logits (B, Q, 2)` are used where they are there.

    Args:
        model, args, data_collator, train_dataset, eval_dataset: As of `Trainer`; the datasets have the columns of the schema.
        processing_class (`MomentRetrievalProcessor`): Turns outputs into moments, and is saved with the model.
        shine_loss (`ShineLoss`, *optional*): The ranking losses; by default those that `args` describe.
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
        if hasattr(data_collator, "set_epoch"):
            self.add_callback(SetEpochCallback(data_collator))
        if args.early_stopping_patience is not None and args.eval_strategy != IntervalStrategy.NO:
            self.add_callback(StopWithoutProgress(args.early_stopping_patience))

    # ---- loss ------------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Base loss of the model plus the weighted SHINE losses; every term is kept for the next log."""
        outputs = model(**inputs)
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
        """Add the loss terms to the logs of training steps, and stop on a loss that is not a number."""
        if "loss" in logs:
            logs |= self._mean_terms(training=True, prefix="")
            if not math.isfinite(logs["loss"]):
                broken = [
                    name for name, value in logs.items() if name.startswith("loss_") and not math.isfinite(value)
                ]
                raise FloatingPointError(
                    f"the loss is {logs['loss']} at step {self.state.global_step} (terms: {', '.join(broken) or 'none of its parts'}). "
                    "Lower the learning rate, or train in float32; the last checkpoint is still good"
                )
        super().log(logs, start_time)

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

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self._terms[False].clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update(self._mean_terms(training=False, prefix=f"{metric_key_prefix}_"))
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
        if is_new_best and self.args.keep_best:
            self.save_model(os.path.join(self.args.output_dir, BEST_MODEL_FOLDER))
        return is_new_best

    def load_best_model(self) -> bool:
        """Load the weights of `output_dir/best`, if there are any, and say whether."""
        folder = os.path.join(self.args.output_dir, BEST_MODEL_FOLDER)
        if self.state.best_metric is None or not os.path.isdir(folder):
            return False
        self._load_from_checkpoint(folder)
        return True

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        super()._save(output_dir, state_dict)
        output_dir = output_dir or self.args.output_dir
        if self.args.should_save:
            # The arguments as JSON instead of a pickle: transformers masks tokens, and paths of this machine are left out.
            os.remove(os.path.join(output_dir, "training_args.bin"))
            settings = {name: value for name, value in self.args.to_dict().items() if name not in LOCAL_ARGUMENTS}
            with open(os.path.join(output_dir, "training_args.json"), "w", encoding="utf-8") as file:
                json.dump(settings, file, indent=2, default=str)


def last_whole_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint of a run that was saved to its end; None where there is none.

    The trainer's state is written last, so a checkpoint without it, or with half of it, was interrupted.
    """
    if not os.path.isdir(output_dir):
        return None
    candidates = sorted(
        (name for name in os.listdir(output_dir) if name.startswith("checkpoint-") and name[11:].isdigit()),
        key=lambda name: int(name[11:]),
        reverse=True,
    )
    for name in candidates:
        folder = os.path.join(output_dir, name)
        try:
            with open(os.path.join(folder, "trainer_state.json"), encoding="utf-8") as file:
                json.load(file)
        except (OSError, ValueError):
            continue
        return folder
    return None


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
