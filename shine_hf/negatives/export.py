"""Columns that say how negatives were made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .columns import with_column
from .files import read_provenance

if TYPE_CHECKING:
    from datasets import Dataset

PROVENANCE_COLUMNS = ("source", "model", "seed", "tagger", "masking_rule", "repaired", "shine_hf_version")
# Of the last answer to each question: column -> entry of the cache.
ANSWER_COLUMNS = {
    "model_versions": "model_version",
    "prompt_versions": "prompt_version",
    "received_ats": "received_at",
    "prompt_tokens": "prompt_tokens",
    "completion_tokens": "completion_tokens",
}


def with_provenance(dataset: Dataset, negatives: str) -> Dataset:
    """Add the columns `PROVENANCE_COLUMNS`, from what was written beside a file of negatives; or only the name of their source."""
    provenance = read_provenance(negatives) or {"source": negatives}
    for name in PROVENANCE_COLUMNS:
        value = provenance.get(name)
        dataset = with_column(dataset, name, [None if value is None else str(value)] * len(dataset))
    return dataset


def with_answers(dataset: Dataset, cache: str | Path) -> Dataset:
    """Add the columns `ANSWER_COLUMNS`, one entry per level, from the cache of a language model.

    Raises:
        FileNotFoundError: there is no such cache. ValueError: the file is none.
    """
    from .llm.cache import AnswerCache

    if not Path(cache).is_file():
        raise FileNotFoundError(f"no cache at {cache}")
    with AnswerCache(cache) as answers:
        # The last answer to each question is the one that was kept, or none was good.
        rows = sorted(map(dict, answers), key=lambda row: (row["attempt"], row["received_at"]))
    last = {(row["qid"], row["masked_query"]): row for row in rows}
    for column, name in ANSWER_COLUMNS.items():
        values = [
            [last.get((row["qid"], template), {}).get(name) for template in row["masked_queries"]] for row in dataset
        ]
        dataset = with_column(dataset, column, values)
    return dataset
