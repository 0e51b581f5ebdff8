"""Keep one query of an evaluation, with its saliency and its negatives' saliency, for the figure in the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ..cards.facts import SaliencyExample


class ExampleRecorder:
    """Record the query with the most hard negatives, from the first evaluation batch that has any."""

    def __init__(self):
        self._found: dict | None = None

    def clear(self) -> None:
        """Forget the query of the previous evaluation."""
        self._found = None

    def record(self, inputs: Mapping, outputs: Mapping, moments: torch.Tensor) -> None:
        """
        Examine a batch. Most batches are skipped without reading a value from the device.

        Args:
            inputs: Model inputs from the collator, with `labels`.
            outputs: Model outputs, with `saliency_scores (B, T)` and `negative_saliency_scores (B, N, T)`, the irrelevant query last.
            moments (`(B, Q, 3)`): Decoded moments, best first.
        """
        scores, qids = outputs.get("negative_saliency_scores"), inputs["labels"].get("qids")
        if self._found is not None or scores is None or scores.shape[1] < 2 or qids is None:
            return
        exists = inputs["negative_text_attention_mask"].any(dim=-1).tolist()
        counts = [sum(levels[:-1]) for levels in exists]
        row = counts.index(max(counts))
        if not counts[row]:
            return
        clips = inputs["video_attention_mask"][row].bool()
        self._found = {
            "qid": qids[row],
            "exists": exists[row],
            "moments": [moment for moment in moments[row].float().tolist() if moment[2] >= 0],
            "windows": [window for window in inputs["labels"]["windows"][row].tolist() if window[1] >= 0],
            "saliency": outputs["saliency_scores"][row, clips].float().tolist(),
            "negatives": scores[row][:, clips].float().tolist(),
        }

    def describe(self, split: str, rows: Iterable[Mapping], clip_length: float) -> SaliencyExample | None:
        """Return the recorded query with its sentences from the evaluated `rows`; None if no query has hard negatives."""
        if self._found is None:
            return None
        found = self._found
        row = next(row for row in rows if row["qid"] == found["qid"])
        labels = [f"level {level}: {query}" for level, query in enumerate(row["negative_queries"], start=1)]
        # Missing levels of the row are padded; the irrelevant query comes last.
        curves = [*zip(labels, found["negatives"], found["exists"])]
        curves.append(("a query of another video", found["negatives"][-1], found["exists"][-1]))
        return SaliencyExample(
            split=split,
            query=row["query"],
            duration_seconds=row["duration"],
            clip_length_seconds=clip_length,
            windows=found["windows"],
            moments=found["moments"],
            saliency=found["saliency"],
            negative_saliency={label: curve for label, curve, exists in curves if exists},
        )
