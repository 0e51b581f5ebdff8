"""From what a recipe says about data to splits, feature sources and a collator. Training, evaluation and prediction share it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

# The datasets that are read from their original files -> which negatives they get if none are named.
DEFAULT_NEGATIVES = {"charades_cg": "gpt-3.5-turbo", "activitynet_cg": "lexical"}
HUB_DATASETS = {"charades_cg": "shine/charades-cg-negatives", "activitynet_cg": "shine/activitynet-cg-negatives"}
VALIDATION = "validation"
DEFAULT_TEXT_FEATURES = "words:"
NEGATIVE_COLUMNS = ("masked_queries", "negative_queries", "negative_flags")
NEGATIVES_SUFFIXES = (".parquet", ".jsonl")


@dataclass
class DataArguments:
    """Which annotations, negatives and features to use. Every field is a recipe key and a command-line option."""

    dataset: str = field(
        default="charades_cg",
        metadata={
            "help": "charades_cg or activitynet_cg (their original files under --data_dir, else from the Hub), a dataset in the same "
            "columns (Hub name or local folder), or a .jsonl file with a `split` column or one file per split as SPLIT=FILE,…"
        },
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of the original annotation files; without it the Hub is asked."}
    )
    negatives: str | None = field(
        default=None,
        metadata={
            "help": "Source of the negatives: gpt-3.5-turbo (the authors'), lexical, random, none, another config name, or a file of `shine-hf negatives generate`; the dataset's default if left out."
        },
    )
    video_features: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Feature stores, concatenated: a folder, a file or a dataset repository of the Hub, whose layout is detected (i3d:, npz:, pt:, hdf5: or packed: before it forces one), or simulated:[options]. Never chosen silently."
        },
    )
    text_features: str | None = field(
        default=None,
        metadata={
            "help": "words:[options], clip:MODEL, or a feature store keyed by qid. If left out: words: for a new model, else the encoder that the model was trained with."
        },
    )
    validation_fraction: float = field(
        default=0.05, metadata={"help": "Share of the training videos that is set apart to select the model on."}
    )
    eval_splits: list[str] | None = field(
        default=None, metadata={"help": "Test splits to evaluate at the end; all if left out."}
    )
    eval_during_training: str = field(
        default="validation",
        metadata={"help": "Splits that are evaluated while training: validation, or all (the test splits too)."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first so many queries only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate so many queries per split only."})
    irrelevant: str = field(
        default="random", metadata={"help": "Where irrelevant queries come from: random, in_batch or roll."}
    )
    num_levels: int = field(
        default=3, metadata={"help": "Levels of hard negatives that are used, from the nearest on."}
    )
    skip_flagged: bool = field(default=False, metadata={"help": "Leave out negatives that validation flagged."})
    soft_boundary_seconds: float = field(
        default=0.0, metadata={"help": "Width of the transition of the saliency labels around a boundary."}
    )
    margin_pairs: bool = field(default=True, metadata={"help": "Use the saliency margin term of the base loss."})
    validation_seed: int = field(default=0, metadata={"help": "Seed by which the validation videos are chosen."})

    def __post_init__(self):
        if self.eval_during_training not in ("validation", "all"):
            raise ValueError(f'eval_during_training must be "validation" or "all", got {self.eval_during_training!r}')


def load_splits(args: DataArguments) -> dict:
    """Split name -> `datasets.Dataset` in the columns of the schema, checked.

    Raises:
        FileNotFoundError, ValueError: for missing files, rows that break the schema, or an unknown source of negatives.
    """
    from ..negatives.splits import GENERATED_SOURCES

    if args.dataset in DEFAULT_NEGATIVES and args.data_dir:
        from .annotations import read_compositional

        source = args.negatives or DEFAULT_NEGATIVES[args.dataset]
        generated = source in GENERATED_SOURCES
        splits = read_compositional(args.dataset, args.data_dir, negatives="none" if generated else source)
        if generated:
            splits = _generate_negatives(splits, args.dataset, source)
    elif ".jsonl" in args.dataset:
        splits = _read_jsonl_splits(args.dataset)
        if args.negatives in GENERATED_SOURCES:
            splits = _generate_negatives(splits, args.dataset, args.negatives)
        elif args.negatives == "none":
            splits = {
                name: rows.map(_without_negatives, desc="Leaving out negatives") for name, rows in splits.items()
            }
        elif args.negatives:
            splits = _merge_negatives(splits, args.negatives)
    else:
        splits = _load_published_splits(HUB_DATASETS.get(args.dataset, args.dataset), args.negatives)
    if args.max_eval_samples is not None:
        splits = {
            name: rows if name == "train" else rows.select(range(min(len(rows), args.max_eval_samples)))
            for name, rows in splits.items()
        }
    return splits


def _load_published_splits(name: str, negatives: str | None) -> dict:
    """A dataset of the Hub or a local folder of the same form. `negatives` is a config of it, or a file to merge in by qid."""
    from datasets import load_dataset

    from ..schema import check_rows

    from_file = negatives is not None and Path(negatives).suffix in NEGATIVES_SUFFIXES
    try:
        splits = dict(load_dataset(name) if from_file or not negatives else load_dataset(name, negatives))
    except (OSError, ConnectionError) as error:
        raise FileNotFoundError(
            f"dataset {name!r} is neither a local folder nor to be had from the Hub ({error}). "
            "Give the folder of the original annotation files with --data_dir"
        ) from error
    for split, rows in splits.items():
        check_rows(rows.remove_columns("video") if "video" in rows.column_names else rows, source=f"{name} {split}")
        splits[split] = _with_all_columns(rows)
    return _merge_negatives(splits, negatives) if from_file else splits


def _read_jsonl_splits(spec: str) -> dict:
    """`train=a.jsonl,test=b.jsonl`, or one file, which becomes the split `test`."""
    from .annotations import read_jsonl

    parts = [part.rpartition("=") for part in spec.split(",")]
    return {name or "test": read_jsonl(Path(path)) for name, _, path in parts}


def _with_all_columns(rows):
    """The rows with every column of the schema: what a dataset leaves out is empty, as in the common jsonl format."""
    from ..schema import FEATURES

    for name, feature in FEATURES.items():
        if name not in rows.column_names:
            rows = rows.add_column(name, [[] for _ in range(len(rows))], feature=feature)
    return rows


def _without_negatives(row: dict) -> dict:
    return {name: [] for name in NEGATIVE_COLUMNS}


def _generate_negatives(splits: dict, dataset: str, source: str) -> dict:
    """Write negatives for the training rows, here and now; `shine-hf negatives generate` writes them once into a file."""
    from ..negatives.splits import GENERATED_SOURCES, generate_for_splits

    if "train" not in splits:
        raise ValueError(
            f"{source} negatives are made of the words of the training queries, but {dataset} has no split train"
        )
    logger.info("writing %s negatives for the training queries of %s", source, dataset)
    rows = {name: split.to_list() for name, split in splits.items()}
    generated = generate_for_splits(dataset, rows, GENERATED_SOURCES[source], only=["train"])["train"]
    train = [{**row, **{name: new[name] for name in NEGATIVE_COLUMNS}} for row, new in zip(rows["train"], generated)]
    return splits | {"train": type(splits["train"]).from_list(train, features=splits["train"].features)}


def _merge_negatives(splits: dict, file: str) -> dict:
    from .annotations import add_negatives, read_negatives

    rows = {name: split.to_list() for name, split in splits.items()}
    add_negatives(rows, read_negatives(Path(file)), source=file)
    return {name: type(split).from_list(rows[name], features=split.features) for name, split in splits.items()}


def training_rows(rows):
    """Rows that can be trained on. How many are left out, and why, is logged: an empty or reversed window, or one outside the video."""
    from ..schema import trainable

    kept = rows.filter(trainable, load_from_cache_file=False, desc="Choosing training rows")
    if len(kept) < len(rows):
        logger.warning(
            "%d of %d training rows are left out: their window is empty, reversed or outside the video",
            len(rows) - len(kept),
            len(rows),
        )
    return kept


def split_validation(rows, fraction: float, seed: int = 0):
    """Set apart a share of the *videos*: `(training rows, validation rows)`.

    By video, since queries of one video share its features. Depends on the set of videos and the seed alone.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, got {fraction}")
    videos = sorted(set(rows["vid"]))
    count = max(1, round(fraction * len(videos)))
    if count >= len(videos):
        raise ValueError(f"cannot set apart {fraction:.0%} of {len(videos)} videos and keep one to train on")
    chosen = set(np.random.default_rng(seed).permutation(videos)[:count].tolist())
    held_out = np.fromiter((vid in chosen for vid in rows["vid"]), dtype=bool, count=len(rows))
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


def video_store(args: DataArguments, splits: dict, clip_length: float):
    """Open the feature store that `video_features` describes.

    Args:
        args: Of the recipe.
        splits: All splits, which `simulated:` plants into its features.
        clip_length: Seconds per clip of the model.

    Raises:
        ValueError: where no features are named (simulated ones are never chosen silently), or they are known to be of another clip length.
    """
    from ..features.base import FeatureStore

    if not args.video_features:
        raise ValueError(
            "no video features are named. Give --video_features a folder, a file or a dataset repository of the Hub, or simulated: to try "
            "things out on features made from the annotations"
        )
    rows = [
        row
        for split in splits.values()
        for row in split.select_columns(["vid", "query", "duration", "relevant_windows"])
    ]
    store = FeatureStore.from_specs(args.video_features, rows=rows, clip_length=clip_length)
    if store.clip_length not in (None, clip_length):
        raise ValueError(
            f"{store.spec} holds a clip for every {store.clip_length} s, but clip_length is {clip_length}: set clip_length to "
            f"{store.clip_length}, or extract the features again"
        )
    return store


def text_source(args: DataArguments):
    """Open the text features that `text_features` describes."""
    from ..features.text import TextFeatures

    return TextFeatures.from_spec(args.text_features or DEFAULT_TEXT_FEATURES)


def text_features_of(config, asked: str | None = None) -> str:
    """The text features for a trained model: those that are asked for, else of the encoder that its configuration records.

    Raises:
        ValueError: where nothing is asked for and the model was trained on features of a store, or of unknown origin.
    """
    from ..encoders import is_text_encoder_spec

    recorded = config.text_encoder or ""
    if asked is None and not is_text_encoder_spec(recorded):
        raise ValueError(
            f"the model was trained with text features of a store ({recorded or 'unknown'}): name them with --text_features"
        )
    if asked is not None and is_text_encoder_spec(recorded) and asked != recorded:
        logger.warning("the model was trained with the text features %s, and is given %s", recorded, asked)
    return asked or recorded
