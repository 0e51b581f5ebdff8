"""A confidence interval for a share of queries that knows which queries share a video and that holds near 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv


def share_interval(
    holds: np.ndarray, clusters: Sequence | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the bounds of the share of queries for which something holds.

    Queries of one video often succeed or fail together, so a thousand queries may say no more than a few hundred independent ones. How many
    is read off the variance that the share has when videos are resampled (in closed form, so nothing is drawn). The interval is the exact
    one of Clopper and Pearson for that many queries, after Korn and Graubard. Unlike a percentile bootstrap it is no point where all
    queries hold. For the variance, two videos of average size are added, one where all queries hold and one where none does: otherwise
    videos that happen to agree would look certain.

    Args:
        holds (`(N,)`): Whether it holds, bool.
        clusters (N): The video of each query; without it, every query is on its own.
        confidence: Of the interval.

    Returns:
        Two fractions in [0, 1].

    Raises:
        ValueError: for no queries, clusters of another length, or a confidence outside (0, 1).

    References:
        E. L. Korn and B. I. Graubard, Confidence intervals for proportions with small expected number of positive counts estimated from
        survey data, Survey Methodology 24 (1998).
    """
    holds = np.asarray(holds, dtype=float)
    if not len(holds):
        raise ValueError("an interval needs at least one query")
    check_confidence(confidence)
    labels = cluster_labels(clusters, len(holds))
    sizes, held = np.bincount(labels), np.bincount(labels, weights=holds)
    sizes, held = sizes[sizes > 0], held[sizes > 0]

    effective = _independent_queries(held, sizes) if len(sizes) < len(holds) else len(holds)
    successes, tail = holds.mean() * effective, (1 - confidence) / 2
    failures = effective - successes
    low = betaincinv(successes, failures + 1, tail) if successes > 0 else 0.0
    high = betaincinv(successes + 1, failures, 1 - tail) if failures > 0 else 1.0
    return float(low), float(high)


def _independent_queries(held: np.ndarray, sizes: np.ndarray) -> float:
    """Return how many independent queries would have the variance that the share has when videos are resampled, at most all of them.

    Args:
        held, sizes (`(videos,)`): For how many queries of a video it holds, and how many it has.
    """
    count = sizes.sum()
    average = (sizes**2).sum() / count  # The average size of the video of a query.
    held, sizes = np.append(held, [average, 0.0]), np.append(sizes, [average, average])
    total = sizes.sum()
    share = held.sum() / total
    variance = len(sizes) / (len(sizes) - 1) * ((held - share * sizes) ** 2).sum() / total**2
    return min(count, share * (1 - share) / variance * count / total)


def cluster_labels(clusters: Sequence | None, count: int) -> np.ndarray:
    """Return `(count,)` integers from 0, equal for queries of one cluster; without clusters, each query has its own.

    Raises:
        ValueError: for clusters of another length.
    """
    if clusters is None:
        return np.arange(count)
    if len(clusters) != count:
        raise ValueError(f"{len(clusters)} clusters for {count} queries")
    return np.unique(np.asarray(clusters), return_inverse=True)[1]


def check_confidence(confidence: float) -> None:
    """Raise ValueError for a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, got {confidence}")
