"""Arguments of [`ShineTrainer`]: `TrainingArguments` plus settings of the SHINE losses and the evaluation."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from ..losses import ShineLoss
from ..losses.decoder_negatives import FORMS
from ..losses.fine_ranking import COMPARISONS, DISTANCES


@dataclass
class ShineTrainingArguments(TrainingArguments):
    """
    `TrainingArguments` with the defaults of the paper, and:

    Args:
        coarse_weight, fine_weight (`float`): Weights of the two SHINE losses; both 0 trains the base model.
        intra_margin, inter_margin (`float`), top_k_divisor (`int`), fine_margins (`list[float]`), compare_to (`str`), fine_distance (`str`): See
            [`ShineLoss`].
        decoder_negative_weight (`float`), decoder_negative_form (`str`), decoder_negative_margin (`float`): Hard negatives for the decoder, off
            by default, see [`ShineLoss`]. The decoder then reads the negatives too, which makes a step longer.
        clip_contrast_weight (`float`): Weight of the contrast between the query and its negatives on each clip, off by default.
        ranking_warmup_ratio (`float`): Share of training over which the weights of the terms that compare queries (all but intra) increase from 0.
            Until a model has learned what words look like, its saliency under another query is not meaningful. 0, as in the paper, uses the
            full weights from the start.
        lr_drop_epoch (`int`, *optional*): Epoch after which the learning rate is divided by 10; `None` leaves it to `lr_scheduler_type`.
        nms_threshold (`float`, *optional*), round_to_clip_length (`bool`): Post-processing of the moments in evaluations.
        early_stopping_patience (`int`, *optional*): Stop after this many evaluations without a better `metric_for_best_model`.
        save_query_results (`bool`): Write the results of the final evaluation for every query, see [`ShineTrainer.save_query_results`].
        keep_best (`bool`): Save the best model so far under `output_dir/best`, and load it at the end of training.
        ema_decay (`float`, *optional*): Decay of an exponential moving average of the weights, e.g. 0.999, which is evaluated, selected and saved
            instead of the weights of a single step, see [`WeightAveraging`].
        keep_freed_memory (`bool`): When a recipe trains on a CPU, keep freed memory for the next step, see [`keep_freed_memory`].
    """

    coarse_weight: float = field(default=1.0, metadata={"help": "Weight of the coarse ranking loss; 0 leaves it out."})
    fine_weight: float = field(default=1.0, metadata={"help": "Weight of the fine ranking loss; 0 leaves it out."})
    intra_margin: float = field(default=1.0, metadata={"help": "Margin between clips inside and outside the moment."})
    inter_margin: float = field(default=2.0, metadata={"help": "Margin between the query and an irrelevant one."})
    top_k_divisor: int = field(default=8, metadata={"help": "q: the coarse loss averages the T+/q best clips."})
    fine_margins: list[float] = field(
        default_factory=lambda: [0.25, 0.25, 0.25, 0.25],
        metadata={"help": "Margins of level 1, 2, …, and last the irrelevant query."},
    )
    compare_to: str = field(
        default="previous",
        metadata={"help": "What each level is compared with: the previous one, the first, or the query."},
    )
    ranking_warmup_ratio: float = field(
        default=0.0,
        metadata={
            "help": "Share of training over which the weights of the losses that compare queries (all but intra) increase from 0."
        },
    )
    fine_distance: str = field(
        default="cross_entropy",
        metadata={
            "help": "What the fine loss ranks: the paper's cross_entropy, the saliency inside the moment, or standardized_saliency."
        },
    )
    decoder_negative_weight: float = field(
        default=0.0, metadata={"help": "Weight of the decoder's loss under hard negatives; 0 leaves it out."}
    )
    decoder_negative_form: str = field(
        default="background",
        metadata={
            "help": "What the decoder learns under a negative: all candidates are background, or ranking below the query's matched candidate."
        },
    )
    decoder_negative_margin: float = field(
        default=1.0, metadata={"help": "Margin of the ranking form, in log-odds of the foreground."}
    )
    clip_contrast_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the contrast between the query and its negatives on each clip; 0 leaves it out."},
    )
    lr_drop_epoch: int | None = field(
        default=None, metadata={"help": "Epoch after which the learning rate is divided by 10, as in the public code."}
    )
    nms_threshold: float | None = field(default=None, metadata={"help": "IoU of temporal NMS in the evaluation."})
    round_to_clip_length: bool = field(
        default=False, metadata={"help": "Round evaluated moments to multiples of the clip length."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better metric_for_best_model."}
    )
    save_query_results: bool = field(
        default=False, metadata={"help": "Write the results of every query to output_dir/queries/SPLIT.jsonl."}
    )
    keep_best: bool = field(default=True, metadata={"help": "Keep the best model in output_dir/best and end with it."})
    ema_decay: float | None = field(
        default=None,
        metadata={"help": "Evaluate and save a moving average of the weights with this decay, e.g. 0.999."},
    )
    keep_freed_memory: bool = field(
        default=True,
        metadata={"help": "Train faster on a CPU by keeping freed memory; set false if memory is scarce."},
    )

    # Fields of transformers with other defaults.
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(default=1e-4, metadata={"help": "Weight decay, on all parameters."})
    max_grad_norm: float = field(default=0.1, metadata={"help": "Gradients are clipped to this norm."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Queries per device and step."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Queries per device in the evaluation."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule of the learning rate."})
    # The collator needs every column, and the loss terms depend on nothing but `labels`.
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Leave False: the collator needs all columns."}
    )
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "Do not change."})
    # Pinned memory needs an accelerator to copy to.
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin the memory of batches."}
    )
    # Batches of videos of similar length have less padding.
    train_sampling_strategy: str = field(
        default="group_by_length", metadata={"help": "How training rows are ordered: group_by_length or random."}
    )
    length_column_name: str = field(default="duration", metadata={"help": "Column with the length of a row."})
    # Every parameter gets a gradient in every step, so searching for unused ones would waste time.
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Set True for your own model if a step may leave parameters unused."}
    )
    # A non-finite loss must not be hidden.
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Leave False: NaN stops training."})

    # Otherwise, a resumed run would reset its count of evaluations without progress.
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Leave True: a resumed run continues exactly where it was."}
    )

    def __post_init__(self):
        super().__post_init__()
        # Raise on invalid settings here, before any data is read.
        if self.compare_to not in COMPARISONS:
            raise ValueError(f"compare_to must be one of {', '.join(COMPARISONS)}, got {self.compare_to!r}")
        if self.fine_distance not in DISTANCES:
            raise ValueError(f"fine_distance must be one of {', '.join(DISTANCES)}, got {self.fine_distance!r}")
        if self.decoder_negative_form not in FORMS:
            raise ValueError(
                f"decoder_negative_form must be one of {', '.join(FORMS)}, got {self.decoder_negative_form!r}"
            )
        if self.top_k_divisor < 1:
            raise ValueError(f"top_k_divisor must be at least 1, got {self.top_k_divisor}")
        if not 0 <= self.ranking_warmup_ratio <= 1:
            raise ValueError(f"ranking_warmup_ratio must be a share from 0 to 1, got {self.ranking_warmup_ratio}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay must be between 0 and 1, e.g. 0.999, got {self.ema_decay}")
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            raise ValueError("early_stopping_patience needs metric_for_best_model, e.g. validation_mIoU")
        if not self.fine_margins:
            raise ValueError("fine_margins needs at least the margin of the irrelevant query")

    @property
    def needs_hard_negatives(self) -> bool:
        """Whether a loss uses negatives other than the irrelevant query."""
        return any((self.fine_weight, self.decoder_negative_weight, self.clip_contrast_weight))

    def make_shine_loss(self) -> ShineLoss | None:
        """Return the ranking losses for these arguments; None if all weights are 0."""
        if not (self.coarse_weight or self.needs_hard_negatives):
            return None
        return ShineLoss(
            coarse_weight=self.coarse_weight,
            fine_weight=self.fine_weight,
            intra_margin=self.intra_margin,
            inter_margin=self.inter_margin,
            top_k_divisor=self.top_k_divisor,
            fine_margins=tuple(self.fine_margins),
            compare_to=self.compare_to,
            fine_distance=self.fine_distance,
            decoder_negative_weight=self.decoder_negative_weight,
            decoder_negative_form=self.decoder_negative_form,
            decoder_negative_margin=self.decoder_negative_margin,
            clip_contrast_weight=self.clip_contrast_weight,
        )
