"""Files of negatives: rows as Parquet or JSON lines, with a record of how they were generated in `FILE.provenance.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io import atomic_file

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".parquet", ".jsonl")


def check_output(path: str | Path) -> Path:
    """Return the path after checking that rows can be written to it, so that a typo is found before hours of work and not after.

    Raises:
        ValueError: if the suffix is neither `.parquet` nor `.jsonl`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the output must end in .parquet or .jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_rows(dataset: Dataset, path: str | Path) -> None:
    """Write a dataset to a Parquet or JSON lines file atomically.

    Raises:
        ValueError: if the suffix is neither `.parquet` nor `.jsonl`.
    """
    path = check_output(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with atomic_file(path, "wb") as file:
            # Not `Dataset.to_parquet`, which shows a progress bar.
            pyarrow.parquet.write_table(dataset.with_format("arrow")[:], file)
    else:
        with atomic_file(path) as file:
            for row in dataset:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def provenance_path(path: str | Path) -> Path:
    """Return the path of the provenance file of `path`."""
    return Path(path).with_name(Path(path).name + ".provenance.json")


def write_provenance(path: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write how the rows of `path` were generated to its provenance file."""
    with atomic_file(provenance_path(path)) as file:
        file.write(json.dumps(provenance, indent=2, ensure_ascii=False) + "\n")


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Read how the rows of `path` were generated; empty if unknown."""
    file = provenance_path(path)
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
