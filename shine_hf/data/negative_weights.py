"""Weights of hard negatives in the losses: lower if a negative may be true of the moment, or if few of its words differ. Not from the paper."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from difflib import SequenceMatcher

from ..negatives.alignment import words_of
from ..negatives.validation import MAY_BE_TRUE


@functools.lru_cache(maxsize=100_000)
def word_difference(query: str, negative: str) -> float:
    """Return the share of the words that differ, 0 to 1: one of five replaced words is 0.2. Case and punctuation do not count.

    Inserted and deleted words count half, since only the longer sentence has them. The statistics of negatives do not count inserted words,
    with which such a negative would have no weight at all.
    """
    return 1 - SequenceMatcher(None, words_of(query), words_of(negative), autojunk=False).ratio()


def negative_weight(row: Mapping, level: int, doubtful_weight: float = 1.0, by_changed_words: bool = False) -> float:
    """Return the weight of the negative of a row at a level.

    Args:
        row: A row of the schema with `query`, `negative_queries` and `negative_flags`.
        level: Counted from 1. A level that the row lacks has weight 1.
        doubtful_weight: Factor for a negative that is flagged as possibly true ([`MAY_BE_TRUE`]).
        by_changed_words: Multiply by [`word_difference`].
    """
    queries, flags = row.get("negative_queries") or (), row.get("negative_flags") or ()
    weight = 1.0
    if level <= len(flags) and not MAY_BE_TRUE.isdisjoint(flags[level - 1] or ()):
        weight *= doubtful_weight
    if by_changed_words and level <= len(queries) and queries[level - 1]:
        weight *= word_difference(row["query"], queries[level - 1])
    return weight
