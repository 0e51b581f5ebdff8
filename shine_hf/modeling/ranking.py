"""Rank candidate moments: non-maximum suppression, and the contrast of the saliency inside and outside a window."""

import torch

from .spans import temporal_iou


def temporal_nms(moments: torch.Tensor, threshold: float) -> torch.Tensor:
    """Apply temporal non-maximum suppression to a batch.

    Args:
        moments (`(B, Q, 3)`): Start, end and score, best first.
        threshold (`float`): A moment is dropped if its IoU with a better, kept one is above this.

    Returns:
        `(B, Q, 3)`: the kept moments followed by the dropped ones, which have the score -1. The order is otherwise unchanged.
    """
    overlap = temporal_iou(moments[..., None, :2], moments[:, None, :, :2]) > threshold
    keep = moments[..., 2] >= 0
    for rank in range(moments.shape[1] - 1):
        keep[:, rank + 1 :] &= ~(overlap[:, rank, rank + 1 :] & keep[:, rank, None])
    moments = torch.cat([moments[..., :2], moments[..., 2:].masked_fill(~keep.unsqueeze(-1), -1.0)], dim=-1)
    order = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return moments.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))


def saliency_contrast(saliency_scores: torch.Tensor, length: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Return the mean saliency inside each window minus the mean outside, `(B, Q)`; 0 if nothing is inside or outside.

    Args:
        saliency_scores (`(B, T)`): One score per clip.
        length (`(B, 1)`): Length of the video in clips. The last clip may count only partly.
        windows (`(B, Q, 2)`): Start and end in clips. A clip that is partly covered counts in proportion.
    """
    clips = torch.arange(saliency_scores.shape[1], device=windows.device, dtype=windows.dtype)
    start, end = windows.split(1, dim=-1)
    inside = (torch.minimum(end, clips + 1) - torch.maximum(start, clips)).clamp(0, 1)
    outside = (length.unsqueeze(1) - clips).clamp(0, 1) - inside
    scores = saliency_scores.to(windows.dtype).unsqueeze(1)
    # Less than a thousandth of a clip is rounding error.
    means = [(scores * part).sum(-1) / part.sum(-1).clamp(min=1e-3) for part in (inside, outside)]
    exists = (inside.sum(-1) > 1e-3) & (outside.sum(-1) > 1e-3)
    return (means[0] - means[1]).masked_fill(~exists, 0.0)
