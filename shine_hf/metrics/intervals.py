"""A confidence interval for a share of queries that accounts for queries of the same video and is valid near 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv


def share_interval(
    holds: np.ndarray, clusters: Sequence | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Return a confidence interval for the share of queries that satisfy a condition.

    Queries of the same video often succeed or fail together, so a thousand queries may carry no more information than a few hundred
    independent ones. This effective number follows from the variance of the share under resampling of videos, computed in closed form. The
    interval is the exact Clopper-Pearson interval for the effective number of queries, after Korn and Graubard. Unlike a percentile bootstrap,
    it does not collapse to a point if all queries satisfy the condition. For the variance, two videos of average size are added, one with only
    successes and one with only failures. Without them, videos that happen to agree would suggest certainty.

    Args:
        holds (`(N,)`): Whether each query satisfies the condition, bool.
        clusters (N): The video of each query. By default, every query is its own cluster.
        confidence: Confidence level of the interval.

    Returns:
        Two fractions in [0, 1].

    Raises:
        ValueError: for no queries, clusters whose number is not N, or a confidence outside (0, 1).

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
    """Return the number of independent queries with the variance that the share has under resampling of videos, at most all of them.

    Args:
        held, sizes (`(videos,)`): Number of successes, and number of queries, of each video.
    """
    count = sizes.sum()
    average = (sizes**2).sum() / count  # Averaged over queries, not over videos.
    held, sizes = np.append(held, [average, 0.0]), np.append(sizes, [average, average])
    total = sizes.sum()
    share = held.sum() / total
    variance = len(sizes) / (len(sizes) - 1) * ((held - share * sizes) ** 2).sum() / total**2
    return min(count, share * (1 - share) / variance * count / total)


def cluster_labels(clusters: Sequence | None, count: int) -> np.ndarray:
    """Return `(count,)` integers from 0 that are equal within a cluster. Without clusters, each query is its own.

    Raises:
        ValueError: if the number of clusters is not `count`.
    """
    if clusters is None:
        return np.arange(count)
    if len(clusters) != count:
        raise ValueError(f"{len(clusters)} clusters for {count} queries")
    return np.unique(np.asarray(clusters), return_inverse=True)[1]


def check_confidence(confidence: float) -> None:
    """Raise ValueError for a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must be between 0 and 1, got {confidence}")
