"""Measure how often the saliency inside the moment decreases from the query to its negatives, in the order that SHINE trains.

SHINE (arXiv 2407.05118) ranks positive > level 1 > level 2 > level 3 > irrelevant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .intervals import check_confidence, cluster_labels, share_interval


def saliency_hierarchy(
    saliency: np.ndarray,
    negative_saliency: np.ndarray,
    inside: np.ndarray,
    *,
    negative_mask: np.ndarray | None = None,
    clusters: Sequence | None = None,
    confidence: float | None = 0.95,
) -> dict[str, float]:
    """Return how often each link of positive > level 1 > … > irrelevant, and the entire chain, holds inside the moment, with intervals.

    Args:
        saliency (`(N, T)`): Saliency of each clip under the query.
        negative_saliency (`(N, L, T)`): Saliency under its negatives: level 1, 2, …, and last the irrelevant query.
        inside (`(N, T)`): Which clips are inside the moment. False for padding, whose scores are not read.
        negative_mask (`(N, L)`): Which negatives exist; by default all.
        clusters (N): The video of each query, for the intervals. By default, queries count as independent.
        confidence: Confidence level of the intervals; None for no intervals.

    Returns:
        The result of [`saliency_order`] for the mean saliency inside the moment.

    Raises:
        ValueError: for shapes that do not match, a row without a clip inside the moment, or a non-finite score inside it.
    """
    saliency, negative_saliency = np.asarray(saliency, dtype=float), np.asarray(negative_saliency, dtype=float)
    inside = np.asarray(inside, dtype=bool)
    if saliency.ndim != 2 or negative_saliency.ndim != 3 or inside.shape != saliency.shape:
        raise ValueError(
            f"expected saliency (N, T), negative_saliency (N, L, T) and inside (N, T), got {saliency.shape}, "
            f"{negative_saliency.shape} and {inside.shape}"
        )
    if (len(negative_saliency), negative_saliency.shape[2]) != saliency.shape:
        raise ValueError(f"saliency {saliency.shape} and negative_saliency {negative_saliency.shape} do not match")
    present = np.ones(negative_saliency.shape[:2], dtype=bool)
    if negative_mask is not None:
        present = np.asarray(negative_mask, dtype=bool)
        if present.shape != negative_saliency.shape[:2]:
            raise ValueError(f"expected negative_mask {negative_saliency.shape[:2]}, got {present.shape}")
    if not inside.any(axis=1).all():
        raise ValueError(f"row {int(np.argmin(inside.any(axis=1)))}: no clip inside the moment")

    scores = np.concatenate([saliency[:, None], negative_saliency], axis=1)
    present = np.concatenate([np.ones((len(present), 1), dtype=bool), present], axis=1)
    is_read = inside[:, None] & present[:, :, None]
    if not np.isfinite(scores[is_read]).all():
        row = np.argwhere(is_read & ~np.isfinite(scores))[0][0]
        raise ValueError(f"row {row}: a saliency inside the moment is not a finite number")
    means = np.where(is_read, scores, 0.0).sum(axis=2) / inside.sum(axis=1, keepdims=True)
    return saliency_order(np.where(present, means, np.nan), clusters=clusters, confidence=confidence)


def saliency_order(
    levels: np.ndarray, *, clusters: Sequence | None = None, confidence: float | None = None
) -> dict[str, float]:
    """Return how often each link of positive > level 1 > … > irrelevant, and the entire chain, holds, in percent.

    A link counts in rows that have both of its ends. In the chain, a missing level is skipped: its neighbors are compared with each other.
    A tie is a failure, so a model whose saliency ignores the query scores 0 and not 50.

    Args:
        levels (`(N, 1 + L)`): Mean saliency inside the moment under the query, level 1, 2, …, and last the irrelevant query; NaN if
            missing. A row without the query, or without any negative, does not count.
        clusters (N): The video of each row, for the intervals: rows of the same video are not independent. By default, every row is its own
            cluster.
        confidence: Confidence level of the intervals, see [`share_interval`]; None for no intervals.

    Returns:
        `positive>level1`, `level1>level2`, …, `chain`, each with `…_low` and `…_high` if `confidence` is given. A link that no row has is
        left out.

    Raises:
        ValueError: for an array that is not `(N, 1 + L)`, clusters whose number is not N, or a confidence outside (0, 1).
    """
    levels = np.asarray(levels, dtype=float)
    if levels.ndim != 2:
        raise ValueError(f"expected levels (N, 1 + L), got {levels.shape}")
    if confidence is not None:
        check_confidence(confidence)
    videos = cluster_labels(clusters, len(levels))
    metrics = {}
    for name, holds, counts in _links(levels):
        if not counts.any():
            continue
        metrics[name] = 100 * float(holds[counts].mean())
        if confidence is not None:
            low, high = share_interval(holds[counts], videos[counts], confidence)
            metrics |= {f"{name}_low": 100 * low, f"{name}_high": 100 * high}
    return metrics


def _links(levels: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield each link, and the chain, as `(name, whether it holds, whether it counts)`, the last two `(N,)` bool."""
    present = ~np.isnan(levels) & ~np.isnan(levels[:, :1])
    names = ["positive", *(f"level{level}" for level in range(1, levels.shape[1] - 1)), "irrelevant"][
        : levels.shape[1]
    ]
    for index, (above, below) in enumerate(zip(names, names[1:])):
        yield (
            f"{above}>{below}",
            levels[:, index] > levels[:, index + 1],
            present[:, index] & present[:, index + 1],
        )
    # For each column, the nearest earlier one that is present.
    index = np.where(present, np.arange(levels.shape[1]), 0)
    above = np.maximum.accumulate(index, axis=1)[:, :-1]
    holds = np.take_along_axis(levels, above, axis=1) > levels[:, 1:]
    yield "chain", (holds | ~present[:, 1:]).all(axis=1), present[:, 1:].any(axis=1)
