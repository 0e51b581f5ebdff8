"""Turn a model's predictions for each row, i.e. moments and the mean saliency inside the moment, into metrics and result files."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..io import atomic_file
from ..metrics import first_moment_iou, moment_retrieval_metrics, saliency_order
from ..modeling.moment_retrieval_loss import is_inside, masked_mean

logger = logging.getLogger(__name__)

# Rows of a stream that are evaluated to see which metrics there are.
SAMPLE_ROWS = 8


def unpad(
    predictions: tuple[np.ndarray, np.ndarray], windows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Undo the padding by the collator and `Trainer`.

    Args:
        predictions: Moments `(N, Q, 3)` and saliency `(N, 1 + L)` in the order of [`saliency_inside`].
        windows (`(N, W, 2)`): Annotated windows.

    Returns:
        Moments `(N, Q, 3)`, saliency `(N, 1 + L)` of the query, level 1, 2, … and the irrelevant query, and windows `(N, W, 2)`; NaN for none.
    """
    moments, scores = predictions
    # Padded windows are negative; real ones end after 0.
    windows = np.where(windows[..., 1:] >= 0, windows, np.nan)
    moments = np.where(moments[..., 2:] >= 0, moments, np.nan)
    # `Trainer` pads batches with fewer levels at the end with -100, so the irrelevant query comes second.
    scores = np.where(scores == -100, np.nan, scores)
    return moments, np.concatenate([scores[:, :1], scores[:, 2:], scores[:, 1:2]], axis=1), windows


def saliency_inside(outputs: Mapping, inputs: Mapping) -> torch.Tensor:
    """Return the mean saliency of the clips inside the moment under the query, the irrelevant query, and levels 1, 2, …: `(B, 1 + N)`.

    The value is NaN for a missing query, or if no clip is inside the moment.
    """
    inside = is_inside(inputs["labels"]["saliency"]) & inputs["video_attention_mask"].bool()
    scores, present = outputs["saliency_scores"].unsqueeze(1), inside.any(dim=1, keepdim=True)
    negatives = outputs.get("negative_saliency_scores")
    if negatives is not None:
        scores = torch.cat([scores, negatives[:, -1:], negatives[:, :-1]], dim=1)
        exists = inputs["negative_text_attention_mask"].any(dim=-1).roll(1, dims=1)
        present = torch.cat([present, present & exists], dim=1)
    return masked_mean(scores.float(), inside.unsqueeze(1), 2).masked_fill(~present, torch.nan)


def score(
    predictions: tuple[np.ndarray, np.ndarray], windows: np.ndarray, rows: Any, confidence: float | None
) -> dict[str, float]:
    """Return the metrics of the moments and of the saliency order, see [`ShineTrainer.compute_moment_metrics`].

    Args:
        predictions, windows: See [`unpad`].
        rows: The evaluated rows. If they name the video of each row, the intervals account for the dependence of queries of the same video.
        confidence: Confidence level of the intervals; None for no intervals.
    """
    moments, levels, windows = unpad(predictions, windows)
    answered = np.isfinite(windows).any(axis=(1, 2))
    if not answered.any():
        return {}
    if not answered.all():
        logger.warning("%d of %d rows have no window and are not scored", (~answered).sum(), len(answered))
    videos = None
    if isinstance(rows, Dataset) and "vid" in rows.column_names and len(rows) == len(answered):
        videos = [video for video, is_answered in zip(rows["vid"], answered) if is_answered]
    order = saliency_order(levels[answered], clusters=videos, confidence=confidence)
    return moment_retrieval_metrics(moments[answered], windows[answered]) | order


def write_query_results(
    path: str, rows: Iterable[Mapping], predictions: tuple[np.ndarray, np.ndarray], windows: np.ndarray
) -> None:
    """Write the results of an evaluation as JSON lines, see [`ShineTrainer.save_query_results`]."""
    moments, levels, windows = unpad(predictions, windows)
    with atomic_file(path) as file:
        for row, moment, iou, saliency in zip(rows, moments, first_moment_iou(moments, windows), levels):
            found = {"moment": _numbers(moment[0, :2]), "saliency": _numbers(saliency)}
            file.write(json.dumps({"qid": row["qid"], "vid": row["vid"], "iou": float(iou), **found}) + "\n")


def _numbers(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def representative_rows(rows: Sequence[Mapping]) -> list[Mapping]:
    """Return a few rows that produce every metric: the ones with the most windows and the most levels of negatives."""
    if not isinstance(rows, Dataset):
        return list(itertools.islice(rows, SAMPLE_ROWS))
    chosen = {0}
    for name in {"relevant_windows", "negative_queries"} & set(rows.column_names):
        chosen.add(int(np.argmax([sum(map(bool, entry or ())) for entry in rows[name]])))
    return [rows[index] for index in sorted(chosen)]
