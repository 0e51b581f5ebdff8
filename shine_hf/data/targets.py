"""Compute training targets from windows in seconds: normalized spans, clip-wise saliency, pairs of clips."""

from collections.abc import Sequence

import numpy as np

from ..features.grid import TimeGrid
from ..modeling.processing_moment_retrieval import covered_seconds
from ..schema import SALIENCY_CLIP_LENGTH


def clip_windows(windows: Sequence[Sequence[float]], num_clips: int, clip_length: float) -> np.ndarray:
    """Clip windows `(W, 2)` in seconds to the part of the video that the clips cover, and drop empty ones."""
    clipped = np.asarray(windows, dtype=np.float64).reshape(-1, 2).clip(0, covered_seconds(num_clips, clip_length))
    return clipped[clipped[:, 1] > clipped[:, 0]]


def span_targets(windows: np.ndarray, num_clips: int, clip_length: float) -> np.ndarray:
    """Convert clipped windows `(W, 2)` to center and width `(W, 2)`, as fractions of the covered video, float32."""
    start, end = (windows / covered_seconds(num_clips, clip_length)).T
    return np.stack([(start + end) / 2, end - start], axis=1).astype(np.float32)


def saliency_targets(
    windows: np.ndarray, num_clips: int, clip_length: float, soft_boundary_seconds: float = 0.0
) -> np.ndarray:
    """Return the saliency label of each clip, `(T,)`: 1 for every clip that overlaps a window, however little, else 0.

    With `soft_boundary_seconds` > 0, the label rises over that many seconds around each boundary, from 0 outside to 1 inside. This does not
    change which clips count as inside (label >= 0.5). The paper names hard boundaries as one of its limitations.

    Args:
        windows: Windows from [`clip_windows`].
        num_clips, clip_length: The clips of the model.
        soft_boundary_seconds: Width of the transition.
    """
    # A window that ends on the edge of a clip must not reach the next clip by a rounding error.
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
    """Return QVHighlights' saliency on the clips of a model, `(T,)`: the sum of the annotators' scores (0 to 4), 0 for irrelevant clips.

    Args:
        clip_ids: Relevant clips, always of 2 s each.
        scores: The annotators' scores of each of these clips.
        num_clips, clip_length: The clips of the model. One that covers several annotated clips gets their mean.
    """
    clips = TimeGrid(clip_length, num_clips)
    covering = TimeGrid.of_video(clips.duration, SALIENCY_CLIP_LENGTH)
    grid = TimeGrid(SALIENCY_CLIP_LENGTH, max(covering.num_clips, max(clip_ids, default=-1) + 1))
    saliency = np.zeros(grid.num_clips)
    for clip_id, clip_scores in zip(clip_ids, scores):
        saliency[clip_id] = sum(clip_scores)
    return grid.resample(saliency, clips).astype(np.float32)


def margin_pairs(inside: np.ndarray, rng: np.random.Generator, pairs: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Draw the indices of `pairs` clips inside the windows and as many outside, `(P,)` each, without replacement if there are enough.

    All indices are -1 if no clip is inside, or none is outside.
    """
    drawn = []
    for pool in (np.flatnonzero(inside), np.flatnonzero(~inside)):
        if not len(pool):
            return np.full(pairs, -1), np.full(pairs, -1)
        drawn.append(rng.choice(pool, size=pairs, replace=len(pool) < pairs))
    return drawn[0], drawn[1]
