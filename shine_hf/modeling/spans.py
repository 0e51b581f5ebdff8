"""Convert between spans (center, width) and windows (start, end), and compute their overlap. All functions broadcast."""

import torch


def span_to_window(spans: torch.Tensor) -> torch.Tensor:
    """Convert `(..., 2)` center and width to `(..., 2)` start and end, in the same unit."""
    center, width = spans.unbind(-1)
    return torch.stack([center - width / 2, center + width / 2], dim=-1)


def window_to_span(windows: torch.Tensor) -> torch.Tensor:
    """Convert `(..., 2)` start and end to `(..., 2)` center and width, in the same unit."""
    start, end = windows.unbind(-1)
    return torch.stack([(start + end) / 2, end - start], dim=-1)


def temporal_iou(windows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union of `(..., 2)` windows, `(...)`; 0 if both are empty."""
    intersection, union, _ = _overlap(windows, others)
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def generalized_temporal_iou(windows: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the generalized IoU (arXiv 1902.09630) of `(..., 2)` windows, `(...)` in [-1, 1]."""
    intersection, union, hull = _overlap(windows, others)
    tiny = torch.finfo(union.dtype).tiny
    return intersection / union.clamp(min=tiny) - (hull - union) / hull.clamp(min=tiny)


def _overlap(windows: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the lengths of intersection, union and hull, `(...)` each."""
    start, end = windows.unbind(-1)
    other_start, other_end = others.unbind(-1)
    intersection = (torch.minimum(end, other_end) - torch.maximum(start, other_start)).clamp(min=0)
    union = (end - start) + (other_end - other_start) - intersection
    hull = (torch.maximum(end, other_end) - torch.minimum(start, other_start)).clamp(min=0)
    return intersection, union, hull


def inverse_sigmoid(probability: torch.Tensor, eps: float = 1e-3) -> torch.Tensor:
    """Return the logit of a probability, with the probability and its complement clamped to at least `eps`."""
    return torch.log(probability.clamp(eps, 1.0) / (1 - probability).clamp(eps, 1.0))
