"""The options that choose annotations, negatives and features."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DataArguments:
    """Choose annotations, negatives and features. Every field is a recipe key and a command-line option."""

    dataset: str = field(
        default="charades_cg",
        metadata={
            "help": "charades_cg, activitynet_cg, charades_sta, activitynet_captions, tacos, qvhighlights or didemo (their original "
            "files under --data_dir); a file with a `split` column, or one file per split as SPLIT=FILE,… (JSON lines, JSON, CSV, Parquet); a "
            "folder of such files; or a dataset with the same columns, by its Hub name or folder. The split `validation` (also val, valid, "
            "dev) is used to select the model."
        },
    )
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder with the original annotation files, or with a subfolder of the dataset's name (default: load from the Hub)."
        },
    )
    negatives: str | None = field(
        default=None,
        metadata={
            "help": "Source of the negatives: gpt-3.5-turbo (the authors'), lexical, balanced, random, none, another config name, or a file written by "
            "`shine-hf negatives generate` (default: that of the dataset)."
        },
    )
    video_features: list[str] = field(
        default_factory=list,
        metadata={
            "help": "One or more feature stores, which are concatenated: a folder, a file or a dataset repository on the Hub, whose layout is "
            "detected (prefix npy:, npz:, pt:, hdf5: or packed: to force one), or simulated:[options] or scenes:[options]. There is no default."
        },
    )
    text_features: str | None = field(
        default=None,
        metadata={
            "help": "words:[options], clip:MODEL, or a feature store keyed by qid (default: words: for a new model, else the encoder that the "
            "model was trained with)."
        },
    )
    validation_fraction: float = field(
        default=0.05,
        metadata={
            "help": "Share of the training videos to hold out for model selection if there is no split `validation`."
        },
    )
    eval_splits: list[str] | None = field(
        default=None, metadata={"help": "Test splits to evaluate at the end (default: all)."}
    )
    eval_during_training: str = field(
        default="validation",
        metadata={"help": "Splits to evaluate during training: validation, or all (the test splits too)."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on only this many queries, from the start of the split."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate only this many queries of each split, from its start."}
    )
    irrelevant: str = field(
        default="random", metadata={"help": "Where irrelevant queries come from: random, in_batch or roll."}
    )
    num_levels: int = field(default=3, metadata={"help": "Number of levels of hard negatives to use, nearest first."})
    skip_flagged: bool = field(default=False, metadata={"help": "Leave out negatives that validation flagged."})
    doubtful_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of negatives that validation flagged as possibly true (near synonyms, inflections, other queries of the moment): "
            "0 to 1."
        },
    )
    weigh_changed_words: bool = field(
        default=False, metadata={"help": "Weight the losses of a negative by the share of its words that differ."}
    )
    soft_boundary_seconds: float = field(
        default=0.0,
        metadata={"help": "Width in seconds of the transition of the saliency labels at window boundaries."},
    )
    margin_pairs: bool = field(default=True, metadata={"help": "Use the saliency margin term of the base loss."})
    validation_seed: int = field(default=0, metadata={"help": "Seed for choosing the validation videos."})

    def __post_init__(self):
        if self.eval_during_training not in ("validation", "all"):
            raise ValueError(f'eval_during_training must be "validation" or "all", got {self.eval_during_training!r}')
        if not 0 <= self.doubtful_weight <= 1:
            raise ValueError(f"doubtful_weight must be from 0 to 1, got {self.doubtful_weight}")

    @property
    def is_simulated(self) -> bool:
        """Whether any video features are computed from the annotations."""
        from ..features.base import is_simulated

        return is_simulated(self.video_features)
