"""Metrics for moments, highlights and the order of saliency, in NumPy, and the statistical comparison of two models."""

from .comparison import Difference, paired_bootstrap
from .highlight_detection import highlight_detection_metrics
from .intervals import share_interval
from .moment_retrieval import first_moment_iou, moment_retrieval_metrics, temporal_iou
from .saliency_hierarchy import saliency_hierarchy, saliency_order
from .submission import evaluate_submission, official_layout, read_rows

__all__ = [
    "Difference",
    "evaluate_submission",
    "first_moment_iou",
    "highlight_detection_metrics",
    "moment_retrieval_metrics",
    "official_layout",
    "paired_bootstrap",
    "read_rows",
    "saliency_hierarchy",
    "saliency_order",
    "share_interval",
    "temporal_iou",
]
