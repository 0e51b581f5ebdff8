"""Moment retrieval metrics: recall, mean IoU and average precision, computed as in the QVHighlights scorer.

All queries are scored at once, in arrays padded with NaN. The only loop is over the ranks of the predictions, because which window a
prediction may claim depends on what the better-ranked ones have claimed.
"""

from __future__ import annotations

import numpy as np

AVERAGE_PRECISION_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
RECALL_THRESHOLDS = (0.3, *AVERAGE_PRECISION_THRESHOLDS)
# The usual thresholds; `every_threshold` adds the rest.
HEADLINE_RECALL_THRESHOLDS = (0.3, 0.5, 0.7)
HEADLINE_AVERAGE_PRECISION_THRESHOLDS = (0.5, 0.75)
# The official scorer reads at most this many predictions per query.
MAX_PREDICTIONS = 10


def moment_retrieval_metrics(
    moments: np.ndarray, windows: np.ndarray, *, every_threshold: bool = False
) -> dict[str, float]:
    """Compute recall, mean IoU and mean average precision of ranked moments, in percent, not rounded.

    R1 and mIoU use the first moment of a row, R5 the first five. Average precision ranks the first ten by score, and equal scores in the
    given order. A query without predictions counts as a miss in every metric.

    Args:
        moments (`(N, K, 3)`): Start, end and score of the predictions, best first; NaN for none. Any unit of time.
        windows (`(N, W, 2)`): Start and end of the annotated windows in the same unit; NaN for none.
        every_threshold: Report every IoU threshold of 0.5:0.95 (recall also 0.3) instead of the usual ones.

    Returns:
        `R1@t` and `R5@t` at 0.3, 0.5 and 0.7, `mIoU`, `mAP@0.5`, `mAP@0.75`, and `mAP`, the mean over the thresholds 0.5:0.95.

    Raises:
        ValueError: for arrays of the wrong shape, or without queries.
    """
    moments, windows = np.asarray(moments, dtype=float), np.asarray(windows, dtype=float)
    if moments.ndim != 3 or moments.shape[2] != 3 or windows.ndim != 3 or windows.shape[2] != 2:
        raise ValueError(f"expected moments (N, K, 3) and windows (N, W, 2), got {moments.shape} and {windows.shape}")
    if len(moments) != len(windows) or not len(moments):
        raise ValueError(
            f"expected the same number of queries in both, at least one; got {len(moments)} and {len(windows)}"
        )
    moments = moments[:, :MAX_PREDICTIONS]
    iou = temporal_iou(moments[:, :, None, :2], windows[:, None])

    fit = _fit_of_best_window(moments, windows, iou)
    first, first_five = fit[:, :1].max(axis=1, initial=0), fit[:, :5].max(axis=1, initial=0)
    recall_thresholds = RECALL_THRESHOLDS if every_threshold else HEADLINE_RECALL_THRESHOLDS
    metrics = {f"R1@{threshold}": 100 * float(np.mean(first >= threshold)) for threshold in recall_thresholds}
    metrics |= {f"R5@{threshold}": 100 * float(np.mean(first_five >= threshold)) for threshold in recall_thresholds}
    metrics["mIoU"] = 100 * float(np.mean(first))

    precision = average_precision(iou, moments[..., 2], ~np.isnan(windows[..., 0]), AVERAGE_PRECISION_THRESHOLDS)
    by_threshold = precision.mean(axis=0)
    for threshold, value in zip(AVERAGE_PRECISION_THRESHOLDS, by_threshold):
        if every_threshold or threshold in HEADLINE_AVERAGE_PRECISION_THRESHOLDS:
            metrics[f"mAP@{threshold}"] = 100 * float(value)
    metrics["mAP"] = 100 * float(by_threshold.mean())
    return metrics


def first_moment_iou(moments: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Return the IoU `(N,)`, 0 to 1, of each query's first moment with its best-fitting window. R1 and mIoU are averages of it.

    Args:
        moments (`(N, K, 3)`), windows (`(N, W, 2)`): See [`moment_retrieval_metrics`].
    """
    moments, windows = np.asarray(moments, dtype=float)[:, :1], np.asarray(windows, dtype=float)
    iou = temporal_iou(moments[:, :, None, :2], windows[:, None])
    return _fit_of_best_window(moments, windows, iou).max(axis=1, initial=0)


def temporal_iou(windows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union `(...)` of `(..., 2)` windows that broadcast against each other.

    It is 0 for two windows of length 0, and NaN if either window is NaN.
    """
    intersection = np.minimum(windows[..., 1], others[..., 1]) - np.maximum(windows[..., 0], others[..., 0])
    intersection = np.maximum(intersection, 0)
    union = (windows[..., 1] - windows[..., 0]) + (others[..., 1] - others[..., 0]) - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union != 0)


def average_precision(
    iou: np.ndarray, scores: np.ndarray, is_window: np.ndarray, thresholds: tuple[float, ...]
) -> np.ndarray:
    """Compute the interpolated average precision of each query at each IoU threshold.

    From the highest score down, each prediction claims the best-fitting free window whose IoU reaches the threshold (the last of equally
    good ones, as in the official scorer). A prediction that finds no such window is a false positive.

    Args:
        iou (`(N, K, W)`): IoU of each prediction with each window; NaN if either does not exist.
        scores (`(N, K)`): Scores of the predictions; NaN for none.
        is_window (`(N, W)`): Which windows exist.
        thresholds: `T` thresholds.

    Returns:
        `(N, T)`, 0 to 1; 0 for a query without predictions or windows.
    """
    if not iou.size:
        return np.zeros((len(iou), len(thresholds)))
    order = np.argsort(-scores, axis=1, kind="stable")  # NaN last
    iou = np.nan_to_num(np.take_along_axis(iou, order[:, :, None], axis=1), nan=-1.0)[:, :, ::-1]
    is_hit = _is_hit(iou, np.asarray(thresholds))

    # With the ranks in the first axis, sums over them are accumulated in the order of the official scorer and round alike.
    hits = is_hit.cumsum(axis=0)  # (K, N, T)
    precision = hits / np.arange(1, len(hits) + 1)[:, None, None]
    interpolated = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = hits / np.maximum(is_window.sum(axis=1), 1)[:, None]
    gained = np.diff(recall, axis=0, prepend=0)
    return (gained * interpolated).sum(axis=0)


def _is_hit(iou: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return whether each prediction finds a free window: `(N, K, W)`, with the windows in reverse order -> `(K, N, T)`."""
    rows, ranks, windows = iou.shape
    is_free = np.ones((rows, len(limits), windows), dtype=bool)
    is_hit = np.zeros((ranks, rows, len(limits)), dtype=bool)
    for rank in range(ranks):
        overlap = iou[:, rank, None]
        is_open = is_free & (overlap >= limits[:, None])
        is_hit[rank] = is_open.any(axis=2)
        best = np.where(is_open, overlap, -1.0).argmax(axis=2)[..., None]
        claimed = np.take_along_axis(is_free, best, axis=2) & ~is_hit[rank][..., None]
        np.put_along_axis(is_free, best, claimed, axis=2)
    return is_hit


def _fit_of_best_window(moments: np.ndarray, windows: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Return the IoU `(N, K)` of each prediction with its best-fitting window; 0 for none.

    The official scorer divides by the hull of the two here, not by their union. For windows that overlap, these are equal up to rounding.
    Rounding decides whether a prediction exactly reaches a threshold, so use the hull too.
    """
    if not iou.size:
        return np.zeros(moments.shape[:2])
    best = np.nan_to_num(iou, nan=-1.0).argmax(axis=2)
    window = np.take_along_axis(windows, best[..., None], axis=1)
    intersection = np.minimum(moments[..., 1], window[..., 1]) - np.maximum(moments[..., 0], window[..., 0])
    hull = np.maximum(moments[..., 1], window[..., 1]) - np.minimum(moments[..., 0], window[..., 0])
    fit = np.divide(np.maximum(intersection, 0), hull, out=np.zeros_like(hull), where=hull != 0)
    return np.nan_to_num(fit, nan=0.0)
