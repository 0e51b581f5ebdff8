"""Load the splits and features that a recipe names, for training, evaluation and prediction."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..schema import FEATURES, NEGATIVE_COLUMNS, canonical_split, parse_rows, trainable
from .annotations import (
    as_dataset,
    is_negatives_file,
    merge_negatives,
    negatives_file,
    read_original,
    read_splits,
)
from .datasets import DATASETS
from .files import is_annotation_file
from .text_files import locate

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ..features.base import FeatureStore
    from ..features.text import TextFeatures

logger = logging.getLogger(__name__)

DEFAULT_TEXT_FEATURES = "words:"
NO_NEGATIVES = "none"
# Files of a folder that are read as its splits.
SPLIT_FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".tsv")


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
            "help": "Source of the negatives: gpt-3.5-turbo (the authors'), lexical, random, none, another config name, or a file written by "
            "`shine-hf negatives generate` (default: that of the dataset)."
        },
    )
    video_features: list[str] = field(
        default_factory=list,
        metadata={
            "help": "One or more feature stores, which are concatenated: a folder, a file or a dataset repository on the Hub, whose layout is "
            "detected (put npy:, npz:, pt:, hdf5: or packed: before it to force one), or simulated:[options] or scenes:[options]. There is no default."
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
        default=None, metadata={"help": "Train on this many queries only, the first ones."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate this many queries per split only, the first ones."}
    )
    irrelevant: str = field(
        default="random", metadata={"help": "Where irrelevant queries come from: random, in_batch or roll."}
    )
    num_levels: int = field(default=3, metadata={"help": "Number of levels of hard negatives to use, nearest first."})
    skip_flagged: bool = field(default=False, metadata={"help": "Leave out negatives that validation flagged."})
    soft_boundary_seconds: float = field(
        default=0.0,
        metadata={"help": "Width in seconds of the transition of the saliency labels at window boundaries."},
    )
    margin_pairs: bool = field(default=True, metadata={"help": "Use the saliency margin term of the base loss."})
    validation_seed: int = field(default=0, metadata={"help": "Seed for choosing the validation videos."})

    def __post_init__(self):
        if self.eval_during_training not in ("validation", "all"):
            raise ValueError(f'eval_during_training must be "validation" or "all", got {self.eval_during_training!r}')

    @property
    def is_simulated(self) -> bool:
        """Whether any video features are computed from the annotations."""
        from ..features.base import is_simulated

        return is_simulated(self.video_features)


def load_splits(args: DataArguments) -> dict[str, Dataset]:
    """Read the splits of a dataset, with negatives.

    Returns:
        Split name -> checked rows with the columns of the schema. `val`, `valid` and `dev` are renamed to `validation`.

    Raises:
        FileNotFoundError, ValueError: for missing files, rows that break the schema, or an unknown source of negatives.
    """
    from ..negatives.splits import GENERATED_SOURCES

    source = args.negatives
    files = dataset_files(args.dataset)
    if args.dataset in DATASETS and args.data_dir:
        splits = read_original(args.dataset, args.data_dir, negatives=NO_NEGATIVES)
        source = source or DATASETS[args.dataset].default_negatives
    elif files:
        splits = read_splits(files)
    else:
        splits = _load_published(args.dataset, source)
        source = source if source and (is_negatives_file(source) or source == NO_NEGATIVES) else None
    if source == NO_NEGATIVES:
        splits = {name: _without_negatives(rows) for name, rows in splits.items()}
    elif source in GENERATED_SOURCES:
        if args.negatives or "train" in splits:
            splits = _generate_negatives(splits, args.dataset, source)
    elif source:
        splits = merge_negatives(splits, negatives_file(args.dataset, args.data_dir, source))
    if args.max_eval_samples is not None:
        splits = {
            name: rows if name == "train" else rows.select(range(min(len(rows), args.max_eval_samples)))
            for name, rows in splits.items()
        }
    return splits


def dataset_files(text: str) -> dict[str, Path]:
    """Parse `--dataset` as files: `SPLIT=FILE,SPLIT=FILE`, one file, or a folder of files named after their splits.

    Paths may contain commas, equals signs and slashes: a comma is only a separator after the suffix of a file and before `SPLIT=`.

    Returns:
        Split -> file, with an empty name for a single file. Empty if the text is the name of a dataset, or a folder in published form.

    Raises:
        ValueError: for several files without split names, or two with the same one.
    """
    if not text.strip():
        raise ValueError("--dataset is empty: give a file, a folder, a Hub name or the name of a known dataset")
    path = Path(text).expanduser()
    if path.is_dir():
        return _folder_files(path)
    if path.is_file():
        return {"": path}
    parts = re.split(r"(?<=\w),(?=[\w.-]+=)", text)
    entries: list[str] = []
    for part in parts:
        if entries and not is_annotation_file(entries[-1]):
            entries[-1] += f",{part}"
        else:
            entries.append(part)
    files: dict[str, Path] = {}
    for entry in entries:
        match = re.fullmatch(r"([\w.-]+)=(.+)", entry, flags=re.DOTALL)
        name, where = match.groups() if match else ("", entry)
        if match is None and not is_annotation_file(entry):
            return {}
        if name in files:
            raise ValueError(f"--dataset {text!r}: the split {name} is given twice")
        files[name] = Path(where).expanduser()
    if "" in files and "," in text and not _exists(files[""]):
        raise ValueError(f"--dataset {text!r}: several files need the names of their splits: SPLIT=FILE,SPLIT=FILE")
    return files


def _folder_files(folder: Path) -> dict[str, Path]:
    """Return split -> file for a folder; empty for one in published form, i.e. with a card or Parquet files."""
    files = [path for path in sorted(folder.iterdir()) if path.name.lower().endswith(SPLIT_FILE_SUFFIXES)]
    if (folder / "README.md").is_file() or any(folder.glob("*.parquet")):
        return {}
    return {path.name.partition(".")[0]: path for path in files}


def _exists(path: Path) -> bool:
    try:
        return locate(path).is_file()
    except FileNotFoundError:
        return False


def _load_published(dataset: str, negatives: str | None) -> dict[str, Dataset]:
    """Load a dataset from the Hub, or from a local folder in the same form.

    Args:
        dataset: The name of a known dataset, a Hub name or a folder.
        negatives: The config to load, unless it is a file or `none`.

    Raises:
        FileNotFoundError: if the dataset cannot be loaded.
        ValueError: for a known dataset that is not on the Hub, or rows that break the schema.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    spec = DATASETS.get(dataset)
    name = spec.hub_id if spec else dataset
    if name is None:
        raise ValueError(
            f"{spec.title} is not on the Hub: give the folder of its annotation files with --data_dir ({spec.source})"
        )
    config = None if negatives is None or negatives == NO_NEGATIVES or is_negatives_file(negatives) else negatives
    if not Path(name).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise FileNotFoundError(
            f"--dataset {dataset!r} is neither a file, a folder, a Hub name (OWNER/NAME) nor one of {', '.join(DATASETS)}"
        )
    try:
        splits = dict(load_dataset(name, config))
    except (DatasetsError, OSError) as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise FileNotFoundError(
            f"dataset {name!r} is neither a readable local folder nor available from the Hub ({reason}). "
            "Give the folder of the original annotation files with --data_dir"
        ) from error
    return {canonical_split(split): _in_schema(rows, f"{name} {split}") for split, rows in splits.items()}


def _in_schema(rows: Dataset, source: str) -> Dataset:
    """Check published rows, convert values if necessary, and add missing columns."""
    known = [name for name in rows.column_names if name != "video"]
    raw = rows.select_columns(known)
    where = [f"{source}, row {index}" for index in range(len(raw))]
    same = True
    for row, parsed in zip(raw, parse_rows(zip(where, raw))):
        same &= all(row[name] == value for name, value in parsed.items() if name in row and name != "annotation_flags")
    if not same or not len(rows):
        return as_dataset(zip(where, raw), source)
    for name, feature in FEATURES.items():
        if name not in rows.column_names:
            rows = rows.add_column(name, [[] for _ in range(len(rows))], feature=feature)
    return rows


def _without_negatives(rows: Dataset) -> Dataset:
    kept = rows.remove_columns(list(NEGATIVE_COLUMNS))
    for name in NEGATIVE_COLUMNS:
        kept = kept.add_column(name, [[] for _ in range(len(rows))], feature=FEATURES[name])
    return kept.select_columns(rows.column_names)


def _generate_negatives(splits: Mapping[str, Dataset], dataset: str, source: str) -> dict[str, Dataset]:
    """Generate negatives for the training rows in memory. (`shine-hf negatives generate` writes them to a file.)

    Raises:
        ValueError: if there are no training rows.
    """
    from ..negatives.splits import GENERATED_SOURCES, generate_for_splits

    if "train" not in splits:
        raise ValueError(
            f"{source} negatives are made from the words of the training queries, but {dataset} has no split train; its splits are "
            f"{', '.join(splits)}"
        )
    logger.info("generating %s negatives for the training queries of %s", source, dataset)
    rows = {name: split.to_list() for name, split in splits.items()}
    generated = generate_for_splits(dataset, rows, GENERATED_SOURCES[source], only=["train"])["train"]
    train = [{**row, **{name: new[name] for name in NEGATIVE_COLUMNS}} for row, new in zip(rows["train"], generated)]
    return {**splits, "train": type(splits["train"]).from_list(train, features=splits["train"].features)}


def has_answers(rows: Dataset) -> bool:
    """Return whether any row has a window. Without windows, a split can be predicted but not scored."""
    return "relevant_windows" in rows.column_names and any(map(len, rows["relevant_windows"]))


def training_rows(rows: Dataset) -> Dataset:
    """Return the rows that can be trained on, and log how many are left out, see [`~shine_hf.schema.annotation_flags`].

    Raises:
        ValueError: if no row is left.
    """
    columns = rows.select_columns(["duration", "relevant_windows"])
    kept = rows.select([index for index, row in enumerate(columns) if trainable(row)])
    if len(kept) < len(rows):
        logger.warning(
            "%d of %d training rows are left out: their window is missing, empty, reversed or outside the video",
            len(rows) - len(kept),
            len(rows),
        )
    if not len(kept):
        raise ValueError(
            f"none of the {len(rows)} rows of the split train has a window inside its video (relevant_windows, in seconds)"
        )
    return kept


def split_validation(rows: Dataset, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split off a share of the videos for validation. The choice depends only on the set of videos and the seed.

    Videos are split, not queries, since the queries of a video share its features.

    Args:
        rows: The training rows.
        fraction: Share of the videos.
        seed: Seed of the choice.

    Returns:
        Training rows, validation rows.

    Raises:
        ValueError: for a fraction that is not between 0 and 1, or too few videos.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, got {fraction}")
    videos = sorted(set(rows["vid"]))
    count = max(1, round(fraction * len(videos)))
    if count >= len(videos):
        raise ValueError(
            f"cannot hold out {fraction:.0%} of {len(videos)} videos for validation and keep one to train on"
        )
    chosen = set(np.random.default_rng(seed).permutation(videos)[:count].tolist())
    held_out = np.fromiter((vid in chosen for vid in rows["vid"]), dtype=bool, count=len(rows))
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


def video_store(args: DataArguments, splits: Mapping[str, Dataset], clip_length: float) -> FeatureStore:
    """Open the feature store that `video_features` describes.

    Args:
        args: The data arguments of the recipe.
        splits: All splits, from which simulated features are computed.
        clip_length: Seconds per clip of the model.

    Raises:
        ValueError: if no features are named, or they are known to have another clip length.
        FileNotFoundError: if the features do not exist.
    """
    from ..features.base import FeatureStore

    if not args.video_features:
        raise ValueError(
            "no video features given. Pass --video_features with a folder, a file or a dataset repository on the Hub, or simulated: to try "
            "things out with features computed from the annotations"
        )
    rows = [
        row
        for split in splits.values()
        for row in split.select_columns(["vid", "query", "duration", "relevant_windows"])
    ]
    store = FeatureStore.from_specs(args.video_features, rows=rows, clip_length=clip_length)
    if store.clip_length not in (None, clip_length):
        raise ValueError(
            f"{store.spec} has clips of {store.clip_length} s, but clip_length is {clip_length}: set clip_length to "
            f"{store.clip_length}, or extract the features again"
        )
    return store


def text_source(args: DataArguments) -> TextFeatures:
    """Open the text features that `text_features` describes."""
    from ..features.text import TextFeatures

    return TextFeatures.from_spec(args.text_features or DEFAULT_TEXT_FEATURES)


def text_features_of(config: PretrainedConfig, asked: str | None = None) -> str:
    """Return the text features for a trained model: the requested ones, or the encoder that its configuration records.

    Args:
        config: The configuration of the model.
        asked: The specification that the user gave, if any.

    Raises:
        ValueError: if none are requested and the model was trained on features of a store, or of unknown origin.
    """
    from ..encoders import is_text_encoder_spec

    recorded = config.text_encoder or ""
    if asked is None and not is_text_encoder_spec(recorded):
        raise ValueError(
            f"the model was trained with text features from a store ({recorded or 'unknown'}): give them with --text_features"
        )
    if asked is not None and is_text_encoder_spec(recorded) and asked != recorded:
        logger.warning("the model was trained with the text features %s, but is used with %s", recorded, asked)
    return asked or recorded
