"""Write splits to files with the columns of the schema."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..io import write_rows

if TYPE_CHECKING:
    from datasets import Dataset


def write_splits(splits: Mapping[str, Dataset], folder: str | Path, form: str = "jsonl") -> dict[str, Path]:
    """Write `{split}.jsonl` or `{split}.parquet` files to a folder.

    JSON lines leave out columns that are empty in the entire split, since `load_dataset("json", …)` would infer the type null for them.
    Parquet has types, so it has every column.

    Args:
        splits: Split name -> rows.
        folder: Where to write. Created if it does not exist.
        form: `jsonl` or `parquet`.

    Returns:
        Split name -> file.

    Raises:
        ValueError: for a split name that is not a file name.
        OSError: if the files cannot be written.
    """
    files = {}
    for split, rows in splits.items():
        if Path(split).name != split or split.startswith("."):
            raise ValueError(f"the split {split!r} is not a file name; rename it")
        kept = (
            rows
            if form == "parquet"
            else rows.select_columns([name for name in rows.column_names if _has_content(rows[name])])
        )
        files[split] = Path(folder) / f"{split}.{form}"
        write_rows(kept, files[split])
    return files


def _has_content(column) -> bool:
    """Return whether any value is something other than None, an empty list, or a list of empty lists."""
    return any(
        value is not None and (not isinstance(value, list) or any(item != [] for item in value)) for value in column
    )
