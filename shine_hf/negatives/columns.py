"""Replace a column of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def with_column(dataset: Dataset, name: str, values: list) -> Dataset:
    """Return the dataset with a column replaced, keeping its position, or with a new column at the end."""
    from datasets import List, Value

    strings = List(Value("string"))
    # Explicit types, since a column of empty lists would get the type null.
    types = {"masked_queries": strings, "negative_queries": strings, "level_sources": strings}
    types["negative_flags"] = List(strings)
    order = dataset.column_names if name in dataset.column_names else [*dataset.column_names, name]
    if name in dataset.column_names:
        dataset = dataset.remove_columns(name)
    return dataset.add_column(name, values, feature=types.get(name)).select_columns(order)
