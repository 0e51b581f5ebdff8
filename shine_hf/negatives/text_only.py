"""Measure how well words alone tell queries from their negatives, without the video.

A model can satisfy a ranking loss on such negatives without looking at the video: it only learns which words occur in queries. This is the
"hypothesis-only" test of natural language inference (https://arxiv.org/abs/1803.02324, https://arxiv.org/abs/1805.01042).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .alignment import words_of

FOLDS = 5


def text_only_accuracy(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return, for each level, how often a classifier that sees only words prefers the query to its negative.

    The classifier is naive Bayes on the words of queries and of negatives of all levels, with five-fold cross-validation. It is slightly
    pessimistic: if queries and negatives have the same words equally often, a row that is left out makes its own query look unlikely.

    Args:
        rows: Rows with `query` and `negative_queries`. Negatives without words are skipped.

    Returns:
        One share per level, 0 to 1, where ties count half: 0.5 or less if words do not help, 1 if they always give the negative away; NaN for a level
        without negatives.
    """
    positives, negatives = ([Counter() for _ in range(FOLDS)] for _ in range(2))
    examples: list[tuple[int, set[str], list[set[str]]]] = []
    for index, row in enumerate(rows):
        query, fold = set(words_of(row["query"])), index % FOLDS
        levels = [set(words_of(text)) for text in row["negative_queries"]]
        examples.append((fold, query, levels))
        if any(levels):
            positives[fold].update(query)
            for level in levels:
                negatives[fold].update(level)
    evidence = [_log_odds(positives, negatives, fold) for fold in range(FOLDS)]
    wins: list[list[float]] = [[] for _ in range(max((len(levels) for *_, levels in examples), default=0))]
    for fold, query, levels in examples:
        for won, level in zip(wins, levels):
            if level:
                # Words in both texts cancel, so a difference of 0 is exact.
                difference = _score(query - level, evidence[fold]) - _score(level - query, evidence[fold])
                won.append(0.5 if difference == 0 else float(difference > 0))
    return [sum(won) / len(won) if won else math.nan for won in wins]


def _log_odds(positives: Sequence[Counter[str]], negatives: Sequence[Counter[str]], left_out: int) -> dict[str, float]:
    """Return how much each word speaks for a query, in nats, from all folds but one."""
    counts = [
        sum((counter for fold, counter in enumerate(folds) if fold != left_out), Counter())
        for folds in (positives, negatives)
    ]
    vocabulary = set().union(*positives, *negatives)
    totals = [counter.total() + len(vocabulary) for counter in counts]
    return {
        word: math.log((counts[0][word] + 1) / totals[0]) - math.log((counts[1][word] + 1) / totals[1])
        for word in vocabulary
    }


def _score(words: set[str], evidence: Mapping[str, float]) -> float:
    return math.fsum(evidence[word] for word in words)
