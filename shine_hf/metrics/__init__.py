"""Metrics of moments, highlights and saliency order, in numpy."""

from .highlight_detection import highlight_detection_metrics
from .moment_retrieval import moment_retrieval_metrics, temporal_iou
from .saliency_hierarchy import saliency_hierarchy, saliency_order
from .submission import evaluate_submission, official_layout, read_rows

__all__ = [
    "evaluate_submission",
    "highlight_detection_metrics",
    "moment_retrieval_metrics",
    "official_layout",
    "read_rows",
    "saliency_hierarchy",
    "saliency_order",
    "temporal_iou",
]
