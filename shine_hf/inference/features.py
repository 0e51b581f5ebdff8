"""Predict the moments of many queries from stored features, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from tqdm import tqdm

from ..metrics.submission import submitted_saliency
from ..modeling import MomentRetrievalProcessor
from ..modeling.windows import find_moments


@torch.no_grad()
def predict_from_features(
    model: torch.nn.Module,
    processor: MomentRetrievalProcessor,
    rows: Sequence[Mapping],
    video_features: Mapping[str, np.ndarray],
    text_features: Callable[..., np.ndarray],
    batch_size: int = 64,
    progress: bool = True,
    **post_processing,
) -> Iterator[dict]:
    """Predict the moments of each row. A video that is too long for the model is split into overlapping windows (see [`find_moments`]).

    Args:
        model, processor: From `from_pretrained`.
        rows: Rows with `qid`, `vid`, `query`, and, if known, `duration` (seconds); no annotations are needed.
        video_features: `video_features[vid]` -> `(T, Dv)`, e.g. a [`FeatureStore`].
        text_features: `text_features(query=…, qid=…, level=None)` -> `(L, Dt)`, e.g. [`TextFeatures`].
        batch_size: Queries per forward pass.
        progress: Show a progress bar.
        post_processing: Options of `processor.post_process_moment_retrieval`: `top_k`, `threshold`, `round_to_clip_length`, `nms_threshold`.

    Yields:
        For each row, in order: `{"qid", "vid", "query", "moments", "saliency", "clip_length"}`.
    """
    model.eval()
    for start in tqdm(range(0, len(rows), batch_size), desc="Predicting", unit="batch", disable=not progress):
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        videos = [video_features[row["vid"]] for row in batch]
        texts = [text_features(query=row["query"], qid=row["qid"], level=None) for row in batch]
        longest = processor.max_video_length or max(map(len, videos))
        fitting = [item for item in zip(batch, videos, texts) if len(item[1]) <= longest]
        results = iter(_predict_batch(model, processor, fitting, **post_processing))
        for row, video, text in zip(batch, videos, texts):
            if len(video) <= longest:
                result = next(results)
            else:
                (result,) = find_moments(
                    model, processor, video, [text], duration=row.get("duration"), **post_processing
                )
            yield {"qid": row["qid"], "vid": row["vid"], "query": row["query"], **result}


def _predict_batch(model, processor, items: Sequence[tuple], **post_processing) -> list[dict]:
    """Return the results of `(row, video, text)` items whose videos fit into the model."""
    if not items:
        return []
    rows, videos, texts = map(list, zip(*items))
    inputs = processor(videos, texts, names=[row["qid"] for row in rows]).to(model.device, model.dtype)
    # Without a duration, the clips determine the length of the video.
    durations = [row.get("duration") or np.inf for row in rows]
    return processor.post_process_moment_retrieval(
        model(**inputs), inputs["video_attention_mask"], durations=durations, **post_processing
    )


def as_submission(result: Mapping) -> dict:
    """Return a prediction in the field's submission format, which `shine-hf evaluate --submission` scores."""
    return {
        "qid": result["qid"],
        "query": result["query"],
        "vid": result["vid"],
        "pred_relevant_windows": [
            [round(moment[key], 4) for key in ("start", "end", "score")] for moment in result["moments"]
        ],
        "pred_saliency_scores": submitted_saliency(result["saliency"], result["clip_length"]),
    }
