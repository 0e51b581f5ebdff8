"""Moments of many queries from stored features, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from tqdm import tqdm


@torch.no_grad()
def predict_from_features(
    model,
    processor,
    rows: Sequence[Mapping],
    video_features: Mapping[str, np.ndarray],
    text_features: Callable[..., np.ndarray],
    batch_size: int = 64,
    progress: bool = True,
    **post_processing,
) -> Iterator[dict]:
    """Predict the moments of each row.

    Args:
        model, processor: Of `from_pretrained`.
        rows: With `qid`, `vid`, `query`, and `duration` (seconds) where it is known; no annotations are needed.
        video_features: `video_features[vid]` -> `(T, Dv)`, a [`FeatureStore`] say.
        text_features: `text_features(query=…, qid=…, level=None)` -> `(L, Dt)`, a [`TextFeatures`] say.
        batch_size: Queries per forward pass.
        progress: Show a progress bar.
        post_processing: `top_k`, `score_threshold`, `round_to_clip_length`, `nms_threshold` of `processor.post_process`.

    Yields:
        For each row, in order: `{"qid", "vid", "query", "moments", "saliency", "clip_length"}`.
    """
    model.eval()
    for start in tqdm(range(0, len(rows), batch_size), desc="Predicting", unit="batch", disable=not progress):
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        inputs = processor(
            [video_features[row["vid"]] for row in batch],
            [text_features(query=row["query"], qid=row["qid"], level=None) for row in batch],
            names=[row["qid"] for row in batch],
        ).to(model.device)
        mask = inputs["video_attention_mask"]
        # Where a duration is not known, the clips say how long the video is.
        durations = [row.get("duration") or np.inf for row in batch]
        results = processor.post_process(model(**inputs), mask, durations=durations, **post_processing)
        for row, result in zip(batch, results):
            yield {"qid": row["qid"], "vid": row["vid"], "query": row["query"], **result}


def as_submission(result: Mapping) -> dict:
    """A prediction in the field's submission format, which `shine-hf evaluate --submission` scores."""
    return {
        "qid": result["qid"],
        "query": result["query"],
        "vid": result["vid"],
        "pred_relevant_windows": [
            [round(moment[key], 4) for key in ("start", "end", "score")] for moment in result["moments"]
        ],
        "pred_saliency_scores": [round(score, 4) for score in result["saliency"]],
    }
