"""Weights of hard negatives in the losses: lower if a negative may be true of the moment, or if few of its words differ. Not from the paper."""

from __future__ import annotations

from collections.abc import Mapping

from ..negatives.alignment import changed_share
from ..negatives.validation import MAY_BE_TRUE


def negative_weight(row: Mapping, level: int, doubtful_weight: float = 1.0, by_changed_words: bool = False) -> float:
    """Return the weight of the negative of a row at a level.

    Args:
        row: A row of the schema with `query`, `negative_queries` and `negative_flags`.
        level: Counted from 1. A level that the row lacks has weight 1.
        doubtful_weight: Factor for a negative that is flagged as possibly true ([`MAY_BE_TRUE`]).
        by_changed_words: Multiply by [`changed_share`].
    """
    queries, flags = row.get("negative_queries") or (), row.get("negative_flags") or ()
    weight = 1.0
    if level <= len(flags) and not MAY_BE_TRUE.isdisjoint(flags[level - 1] or ()):
        weight *= doubtful_weight
    if by_changed_words and level <= len(queries) and queries[level - 1]:
        weight *= changed_share(row["query"], queries[level - 1])
    return weight
