"""How well predicted moments fit the annotated windows."""

from __future__ import annotations

import numpy as np

RECALL_THRESHOLDS = (0.3, 0.5, 0.7)


def temporal_iou(windows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of `(..., 2)` windows that broadcast against each other -> `(...)`; NaN where one of them is."""
    intersection = np.minimum(windows[..., 1], others[..., 1]) - np.maximum(windows[..., 0], others[..., 0])
    intersection = np.maximum(intersection, 0)
    union = (windows[..., 1] - windows[..., 0]) + (others[..., 1] - others[..., 0]) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection + union), where=union != 0)


def moment_retrieval_metrics(moments: np.ndarray, windows: np.ndarray) -> dict[str, float]:
    """R1 and mIoU of the best moment of each query, in percent, against the annotated window that fits it best.

    Args:
        moments (`(N, K, 3)`): Start, end and score, best first; NaN for none.
        windows (`(N, W, 2)`): Annotated windows; NaN for none.
    """
    iou = temporal_iou(moments[:, 0, None, :2], windows)
    best = np.nan_to_num(np.fmax.reduce(iou, axis=1))
    metrics = {f"R1@{threshold}": 100 * float(np.mean(best >= threshold)) for threshold in RECALL_THRESHOLDS}
    return metrics | {"mIoU": 100 * float(np.mean(best))}
