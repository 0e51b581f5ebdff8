"""Metrics of moments, highlights and saliency order, in numpy."""

from .moment_retrieval import moment_retrieval_metrics, temporal_iou
from .saliency_hierarchy import saliency_order

__all__ = ["moment_retrieval_metrics", "saliency_order", "temporal_iou"]
