"""Writing one column of a dataset anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def with_column(dataset: Dataset, name: str, values: list) -> Dataset:
    """The dataset with the values of a column replaced (type and place kept), or with a new column at the end."""
    from datasets import Dataset, Features

    if name not in dataset.column_names:
        return dataset.add_column(name, values)
    data = {column: values if column == name else dataset[column][:] for column in dataset.column_names}
    return Dataset.from_dict(data, features=Features(dataset.features))
