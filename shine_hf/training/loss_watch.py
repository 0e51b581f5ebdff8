"""Name the queries for which a loss became non-finite, without a device-to-host transfer until then."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch

MAX_STEPS = 1000


class LossWatch:
    """For each training step since the last log: the loss `()` and a total per row `(B,)`, on the device, and the qids."""

    def __init__(self):
        # The bound matters only to runs that are never logged.
        self._steps = deque(maxlen=MAX_STEPS)

    def record(self, step: int, loss: torch.Tensor, outputs: Mapping, inputs: Mapping) -> None:
        """
        Record a step, or one of its accumulated batches.

        Args:
            step: Number of the step.
            loss: Scalar loss.
            outputs: Model outputs, with `saliency_scores (B, T)`, `pred_spans (B, Q, 2)` and optionally `negative_saliency_scores (B, N, T)`.
            inputs: Model inputs from the collator, with `labels`.
        """
        qids = inputs["labels"].get("qids")
        if qids is not None:
            self._steps.append((step, loss.detach(), _row_totals(outputs, inputs), qids))

    def clear(self) -> None:
        """Forget all steps so far, whose losses were finite."""
        self._steps.clear()

    def first_broken(self) -> tuple[int, list[str], int] | None:
        """
        Return the first step of this process whose loss or outputs are not finite.

        Returns:
            The step, the qids of the rows whose outputs or targets are not finite, and the number of rows; None if all steps are finite.
        """
        for step, loss, totals, qids in self._steps:
            broken = (~totals.isfinite()).tolist()
            if any(broken) or not loss.isfinite():
                return step, [qid for qid, is_broken in zip(qids, broken) if is_broken], len(qids)
        return None


@torch.no_grad()
def _row_totals(outputs, inputs) -> torch.Tensor:
    """Return one number per row, `(B,)`, which is finite if all outputs and targets of the row are: NaN and infinity survive a sum."""
    labels, clips = inputs["labels"], inputs["video_attention_mask"].bool()
    totals = (
        outputs["pred_spans"].float().sum(dim=(1, 2)) + labels["spans"].sum(dim=(1, 2)) + labels["saliency"].sum(dim=1)
    )
    # Values for padding and missing negatives are meaningless.
    totals = totals + outputs["saliency_scores"].float().masked_fill(~clips, 0).sum(dim=1)
    negatives = outputs.get("negative_saliency_scores")
    if negatives is not None:
        present = inputs["negative_text_attention_mask"].any(dim=-1, keepdim=True) & clips.unsqueeze(1)
        totals = totals + negatives.float().masked_fill(~present, 0).sum(dim=(1, 2))
    return totals


def describe(broken: list[tuple[int, list[str], int] | None]) -> str:
    """Describe in words what [`LossWatch.first_broken`] found in each process."""
    found = [entry for entry in broken if entry is not None]
    if not found:
        return "the losses so far are finite, so an update of the weights broke them"
    first = min(step for step, _, _ in found)
    qids = [qid for step, names, _ in found if step == first for qid in names]
    rows = sum(size for step, _, size in found if step == first)
    if not qids:
        return f"first at step {first}, where the outputs of all queries are finite: the loss itself overflowed"
    if len(qids) == rows:
        return f"first at step {first}, for all {rows} queries of its batch, which points to the weights, not the data: {', '.join(qids[:3])}, …"
    return f"first at step {first}, for {len(qids)} of {rows} queries: {', '.join(qids)}"
