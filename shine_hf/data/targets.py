"""Windows in seconds -> what a model is trained on: normalized spans, clip-wise saliency, pairs of clips."""

from collections.abc import Sequence

import numpy as np

from ..features.grid import TimeGrid
from ..modeling.processing_moment_retrieval import covered_seconds
from ..schema import SALIENCY_CLIP_LENGTH


def clip_windows(windows: Sequence[Sequence[float]], num_clips: int, clip_length: float) -> np.ndarray:
    """Cut windows `(W, 2)` in seconds to the part of the video that the clips cover, and drop those with nothing left."""
    clipped = np.asarray(windows, dtype=np.float64).reshape(-1, 2).clip(0, covered_seconds(num_clips, clip_length))
    return clipped[clipped[:, 1] > clipped[:, 0]]


def span_targets(windows: np.ndarray, num_clips: int, clip_length: float) -> np.ndarray:
    """Turn clipped windows `(W, 2)` into `(W, 2)` center and width as fractions of the covered video, float32."""
    start, end = (windows / covered_seconds(num_clips, clip_length)).T
    return np.stack([(start + end) / 2, end - start], axis=1).astype(np.float32)


def saliency_targets(
    windows: np.ndarray, num_clips: int, clip_length: float, soft_boundary_seconds: float = 0.0
) -> np.ndarray:
    """Return clip-wise saliency `(T,)`: 1 for every clip that a window touches, however little, else 0.

    With `soft_boundary_seconds` > 0 the label rises over that many seconds around each boundary, from 0 outside to 1 inside. Which
    clips count as inside (label >= 0.5) stays the same. The paper names hard boundaries as one of its limitations.
    """
    # A boundary on the edge of a clip must not touch the next clip by a rounding error.
    tolerance = 1e-6 * clip_length
    begin = np.arange(num_clips)[:, None] * clip_length
    overlap = np.minimum(begin + clip_length, windows[:, 1]) - np.maximum(begin, windows[:, 0])
    inside = (overlap > tolerance).any(axis=1)
    if soft_boundary_seconds <= 0 or not len(windows):
        return inside.astype(np.float32)
    center = begin + clip_length / 2
    depth = np.minimum(center - windows[:, 0], windows[:, 1] - center).max(axis=1)
    soft = (0.5 + depth / soft_boundary_seconds).clip(0, 1)
    return np.where(inside, np.maximum(soft, 0.5), np.minimum(soft, np.nextafter(np.float32(0.5), 0))).astype(
        np.float32
    )


def graded_saliency(
    clip_ids: Sequence[int], scores: Sequence[Sequence[float]], num_clips: int, clip_length: float
) -> np.ndarray:
    """Return QVHighlights' saliency `(T,)` on the clips of a model: the sum of the annotators' scores (0 to 4 each), 0 where none is relevant.

    Args:
        clip_ids: Relevant clips, of 2 s each whatever the model's clip length is.
        scores: The scores of each of these clips.
        num_clips, clip_length: The clips of the model; one that lies across several annotated clips gets their mean.
    """
    clips = TimeGrid(clip_length, num_clips)
    covering = TimeGrid.of_video(clips.duration, SALIENCY_CLIP_LENGTH)
    grid = TimeGrid(SALIENCY_CLIP_LENGTH, max(covering.num_clips, max(clip_ids, default=-1) + 1))
    saliency = np.zeros(grid.num_clips)
    for clip_id, clip_scores in zip(clip_ids, scores):
        saliency[clip_id] = sum(clip_scores)
    return grid.resample(saliency, clips).astype(np.float32)


def margin_pairs(inside: np.ndarray, rng: np.random.Generator, pairs: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw `pairs` clips inside and as many outside, `(P,)` indices each; without replacement where there are enough.

    Both are -1 where no clip is inside, or none is outside.
    """
    drawn = []
    for pool in (np.flatnonzero(inside), np.flatnonzero(~inside)):
        if not len(pool):
            return np.full(pairs, -1), np.full(pairs, -1)
        drawn.append(rng.choice(pool, size=pairs, replace=len(pool) < pairs))
    return drawn[0], drawn[1]
