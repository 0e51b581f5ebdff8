"""Read annotations into a `datasets.Dataset` with the columns of the schema, and add negatives to them."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features

from ..schema import (
    FEATURES,
    NEGATIVE_COLUMNS,
    SALIENCY_FEATURES,
    canonical_split,
    check_levels,
    parse_fields,
    parse_rows,
)
from .datasets import AUTHORS_NEGATIVES, DATASETS, find_dataset
from .files import RawRow, raw_rows

logger = logging.getLogger(__name__)

# The split of a single file without a column `split`.
UNNAMED_SPLIT = "test"


def read_annotations(path: str | Path, split: str = "") -> Dataset:
    """Read an annotation file in any format of [`shine_hf.data.files`].

    Args:
        path: The file.
        split: The name of the split, for the qids of formats without qids.

    Returns:
        Rows with the columns of [`FEATURES`], and of [`SALIENCY_FEATURES`] if any row has saliency.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that cannot be read, or rows that break the schema.
    """
    return as_dataset(raw_rows(path, split), str(path))


def read_splits(files: Mapping[str, str | Path]) -> dict[str, Dataset]:
    """Read one file per split, or a single file whose rows may name their splits.

    Args:
        files: Split -> file. An empty name means a single file, whose field `split` assigns its rows to splits; without this field, all
            rows are `test`.

    Returns:
        Split name -> rows.

    Raises:
        FileNotFoundError, ValueError: as [`read_annotations`]; also for two files of the same split, and if only some rows name a split.
    """
    splits: dict[str, Dataset] = {}
    for name, path in files.items():
        found = {name: read_annotations(path, name)} if name else _read_split_column(path)
        for split, rows in found.items():
            if (split := canonical_split(split)) in splits:
                raise ValueError(f"{path}: the split {split} has two files ({', '.join(files)}); pass one")
            splits[split] = rows
    return splits


def as_dataset(rows: Iterable[RawRow], source: str) -> Dataset:
    """Check raw rows and convert them to a dataset.

    Args:
        rows: Raw rows; see [`raw_rows`].
        source: Where the rows come from, for error messages.

    Raises:
        ValueError: for rows that break the schema, or no rows.
    """
    parsed = list(parse_rows(rows))
    if not parsed:
        raise ValueError(f"{source} contains no rows; expected one per query")
    has_saliency = any("saliency_scores" in row for row in parsed)
    features = Features({**FEATURES, **(SALIENCY_FEATURES if has_saliency else {})})
    return Dataset.from_list([{name: row.get(name) for name in features} for row in parsed], features=features)


def _read_split_column(path: str | Path) -> dict[str, Dataset]:
    by_split: dict[str, list[RawRow]] = defaultdict(list)
    unnamed: list[RawRow] = []
    for where, row in raw_rows(path, UNNAMED_SPLIT):
        name = row.get("split") if isinstance(row, Mapping) else None
        if name is None:
            unnamed.append((where, row))
        elif not isinstance(name, str) or not name.strip():
            raise ValueError(
                f"{where}, field split: expected the name of a split; found {json.dumps(name, default=str)}"
            )
        else:
            by_split[name.strip()].append((where, row))
    if not by_split:
        return {UNNAMED_SPLIT: as_dataset(unnamed, str(path))}
    if unnamed:
        raise ValueError(f"{unnamed[0][0]}: no field split, but other rows have it; expected the name of a split")
    return {name: as_dataset(rows, str(path)) for name, rows in by_split.items()}


def read_original(dataset: str, data_dir: str | Path, negatives: str | None = None) -> dict[str, Dataset]:
    """Read all splits of a known dataset from the files that its authors published.

    Args:
        dataset: A name in [`DATASETS`].
        data_dir: Folder with the files, or with a subfolder for them that is named after the dataset. Files may be gzipped.
        negatives: `gpt-3.5-turbo` for the negatives that the authors of SHINE released, a file written by `shine-hf negatives generate`, or
            `none`. The default is the released negatives if they are the dataset's default, else `none`.

    Returns:
        Split name -> rows.

    Raises:
        FileNotFoundError: for missing files.
        ValueError: for an unknown dataset or source of negatives, or rows that break the schema.
    """
    spec = find_dataset(dataset)
    if negatives is None:
        negatives = AUTHORS_NEGATIVES if spec.default_negatives == AUTHORS_NEGATIVES else "none"
    splits = read_splits(spec.find_files(data_dir))
    if negatives == "none":
        return splits
    return merge_negatives(splits, negatives_file(dataset, data_dir, negatives))


def negatives_file(dataset: str, data_dir: str | Path | None, negatives: str) -> Path:
    """Return the file of a source of negatives: the released file of a known dataset, or a path.

    Raises:
        FileNotFoundError: if the released file is missing.
        ValueError: if the source is neither.
    """
    if negatives == AUTHORS_NEGATIVES:
        released = DATASETS[dataset].authors_negatives if dataset in DATASETS else None
        if released is None or data_dir is None:
            raise ValueError(f"negatives {negatives}: the authors of SHINE released none for {dataset}")
        return released.find(data_dir)
    if not is_negatives_file(negatives):
        raise ValueError(
            f"unknown negatives {negatives!r}: expected {AUTHORS_NEGATIVES} (the authors' file), lexical, balanced, random, none, or a .parquet or "
            ".jsonl file written by `shine-hf negatives generate`"
        )
    return Path(negatives)


def is_negatives_file(negatives: str) -> bool:
    """Return whether a source of negatives is a file."""
    return Path(negatives).suffix in (".parquet", ".jsonl")


def merge_negatives(splits: Mapping[str, Dataset], file: Path) -> dict[str, Dataset]:
    """Return the splits with the negatives in a file; see [`add_negatives`]."""
    rows = {name: split.to_list() for name, split in splits.items()}
    add_negatives(rows, read_negatives(file), source=str(file))
    return {name: Dataset.from_list(rows[name], features=split.features) for name, split in splits.items()}


def read_negatives(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read a file of negatives: the jsonl of the authors of SHINE, or a file written by `shine-hf negatives generate`.

    Returns:
        qid -> `query`, `masked_queries`, `negative_queries` and `negative_flags`.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that cannot be read, an invalid field, or a duplicate qid.
    """
    table: dict[str, dict[str, Any]] = {}
    for where, raw in raw_rows(path):
        row = parse_fields(raw, where, ("qid", "query", *NEGATIVE_COLUMNS), ("qid", "query"))
        check_levels(row, where)
        qid = row.pop("qid")
        if qid in table:
            raise ValueError(f"{where}: duplicate qid {qid!r}")
        table[qid] = row | {"negative_flags": row["negative_flags"] or [[] for _ in row["negative_queries"]]}
    return table


def add_negatives(splits: dict[str, list[dict]], table: Mapping[str, Mapping], source: str) -> None:
    """Add negatives to the rows with their qids, in place.

    Args:
        splits: Split name -> rows.
        table: Negatives as returned by [`read_negatives`].
        source: Where the negatives come from, for messages.

    Raises:
        ValueError: if no row has the qid of some negatives, or if its query differs.
    """
    # Qids are only unique within a split: two splits may both count from 1.
    rows = defaultdict(list)
    for split in splits.values():
        for row in split:
            rows[row["qid"]].append(row)
    for qid, negatives in table.items():
        if qid not in rows:
            raise ValueError(f"{source}: qid {qid!r} is in none of the annotation files")
        same = [row for row in rows[qid] if row["query"] == negatives["query"]]
        if not same:
            raise ValueError(
                f"{source}: the query of qid {qid!r} is {negatives['query']!r}, but {rows[qid][0]['query']!r} in the annotations"
            )
        for row in same:
            row.update(negatives)
    for name, split in splits.items():
        with_negatives = sum(row["query"] == table[row["qid"]]["query"] for row in split if row["qid"] in table)
        if 0 < with_negatives < len(split):
            logger.warning(
                "%s has negatives for %d of the %d rows of %s", source, with_negatives, len(split), name or "the file"
            )
