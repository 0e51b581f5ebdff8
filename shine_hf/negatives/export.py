"""Add columns that record how negatives were generated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .columns import with_column
from .files import read_provenance

if TYPE_CHECKING:
    from datasets import Dataset

PROVENANCE_COLUMNS = ("source", "model", "seed", "tagger", "masking_rule", "repaired", "shine_hf_version")
# Column -> field of the cache, taken from the last answer to each question.
ANSWER_COLUMNS = {
    "model_versions": "model_version",
    "prompt_versions": "prompt_version",
    "received_ats": "received_at",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
}


def with_provenance(dataset: Dataset, negatives: str) -> Dataset:
    """Add the columns `PROVENANCE_COLUMNS`.

    Args:
        dataset: Rows with negatives.
        negatives: A file of negatives with a provenance file, or the name of their source if nothing else is known.
    """
    provenance = read_provenance(negatives) or {"source": negatives}
    for name in PROVENANCE_COLUMNS:
        value = provenance.get(name)
        dataset = with_column(dataset, name, [None if value is None else str(value)] * len(dataset))
    return dataset


def with_answers(dataset: Dataset, cache: str | Path) -> Dataset:
    """Add the columns `ANSWER_COLUMNS`, one entry per level, from the cache of a language model.

    Raises:
        FileNotFoundError: if the cache does not exist.
        ValueError: if the file is not a cache.
    """
    from .llm.cache import AnswerCache

    if not Path(cache).is_file():
        raise FileNotFoundError(f"no cache at {cache}")
    with AnswerCache(cache) as answers:
        # If any answer to a question was usable, it is the last one.
        rows = sorted(map(dict, answers), key=lambda row: (row["attempt"], row["received_at"]))
    last = {(row["qid"], row["masked_query"]): row for row in rows}
    for column, name in ANSWER_COLUMNS.items():
        values = [
            [last.get((row["qid"], template), {}).get(name) for template in row["masked_queries"]] for row in dataset
        ]
        dataset = with_column(dataset, column, values)
    return dataset
