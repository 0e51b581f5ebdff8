"""Load the splits that a recipe names, for training, evaluation and prediction."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..schema import FEATURES, NEGATIVE_COLUMNS, canonical_split, parse_rows
from .annotations import (
    as_dataset,
    is_negatives_file,
    merge_negatives,
    negatives_file,
    read_original,
    read_splits,
)
from .arguments import DataArguments
from .datasets import DATASETS
from .files import is_annotation_file
from .text_files import locate

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

NO_NEGATIVES = "none"
# Suffixes of the files in a folder that are read as its splits.
SPLIT_FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".tsv")


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

    Paths may contain commas, equals signs and slashes: a comma only separates files between the suffix of one and the `SPLIT=` of the next.

    Returns:
        Split -> file, with an empty name for a single file. Empty if the text is the name of a dataset, or a folder in published form.

    Raises:
        ValueError: for several files without split names, or two with the same one.
    """
    if not text.strip():
        raise ValueError("--dataset is empty: pass a file, a folder, a Hub name or the name of a known dataset")
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
            f"{spec.title} is not on the Hub: pass the folder of its annotation files with --data_dir ({spec.source})"
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
            "Pass the folder of the original annotation files with --data_dir"
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
