"""Score highlight detection (QVHighlights): whether the clips with the highest predicted saliency are the ones that annotators liked."""

from __future__ import annotations

import numpy as np

# Name -> lowest grade (0 to 4) of a highlight.
HIGHLIGHT_GRADES = {"Fair": 2, "Good": 3, "VeryGood": 4}


def highlight_detection_metrics(scores: np.ndarray, grades: np.ndarray) -> dict[str, float]:
    """Compute mean average precision and HIT@1 of clip scores, in percent, not rounded.

    Average precision is computed per annotator and averaged. The best clip is a hit if any annotator liked it. As in the official scorer,
    clips without a score count as 0 for the average precision; a best clip past the end of the video is a miss; an annotator who liked no
    clip gives an average precision of 0, and one who liked every clip 1.

    Args:
        scores (`(N, S)`): Predicted saliency of each clip; NaN for none.
        grades (`(N, T, A)`): Grades 0 to 4 of each clip by each of `A` annotators; NaN for clips past the end of the video.

    Returns:
        `min-Fair-mAP`, `min-Fair-Hit1`, `min-Good-mAP`, …, for each of [`HIGHLIGHT_GRADES`].

    Raises:
        ValueError: for arrays of the wrong shape, without queries, or with a query without clips.
    """
    scores, grades = np.asarray(scores, dtype=float), np.asarray(grades, dtype=float)
    if scores.ndim != 2 or grades.ndim != 3 or len(scores) != len(grades) or not len(scores):
        raise ValueError(
            f"expected scores (N, S) and grades (N, T, A) with N > 0, got {scores.shape} and {grades.shape}"
        )
    is_clip, is_scored = ~np.isnan(grades[:, :, 0]), ~np.isnan(scores)
    if not (is_clip.any(axis=1).all() and is_scored.any(axis=1).all()):
        raise ValueError("every query needs at least one clip with grades and one with a score")
    rows = np.arange(len(scores))
    best = np.where(is_scored, scores, -np.inf).argmax(axis=1)
    inside = best < grades.shape[1]
    best_grades = np.where(inside[:, None], grades[rows, np.where(inside, best, 0)], np.nan)

    ranked_grades, ends_group = _rank(_fit_to_clips(scores, grades.shape[1]), grades)
    num_clips = is_clip.sum(axis=1)
    metrics = {}
    for name, grade in HIGHLIGHT_GRADES.items():
        # Comparisons with NaN are false: a clip past the end is no highlight.
        precision = _average_precision(ranked_grades >= grade, ends_group, num_clips)
        metrics[f"min-{name}-mAP"] = 100 * float(precision.mean())
        metrics[f"min-{name}-Hit1"] = 100 * float((best_grades >= grade).any(axis=1).mean())
    return metrics


def _fit_to_clips(scores: np.ndarray, num_clips: int) -> np.ndarray:
    """Truncate scores or pad them with 0 to `(N, num_clips)`."""
    fitted = np.zeros((len(scores), num_clips))
    known = np.nan_to_num(scores[:, :num_clips], nan=0.0)
    fitted[:, : known.shape[1]] = known
    return fitted


def _rank(scores: np.ndarray, grades: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort the clips by score. Return their grades `(N, A, T)`, and which clip is the last of a group with equal scores `(N, 1, T)`."""
    scores = np.where(np.isnan(grades[:, :, 0]), np.nan, scores)
    order = np.argsort(-scores, axis=1, kind="stable")  # NaN last
    ranked = np.take_along_axis(scores, order, axis=1)
    following = np.pad(ranked[:, 1:], ((0, 0), (0, 1)), constant_values=np.nan)
    ends_group = (ranked != following) & ~np.isnan(ranked)
    return np.take_along_axis(grades.transpose(0, 2, 1), order[:, None], axis=2), ends_group[:, None]


def _average_precision(is_highlight: np.ndarray, ends_group: np.ndarray, num_clips: np.ndarray) -> np.ndarray:
    """Return the interpolated precision, averaged over the distinct levels of recall: `(N, A, T)`, `(N, 1, T)`, `(N,)` -> `(N, A)`.

    Clips with equal scores are recalled together: they add at most one level of recall, however many of them are highlights.
    """
    found = is_highlight.cumsum(axis=2)
    precision = np.where(ends_group, found / np.arange(1, found.shape[2] + 1), 0.0)
    interpolated = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
    recalled = np.maximum.accumulate(np.where(ends_group, found, 0), axis=2)
    is_level = np.diff(recalled, axis=2, prepend=0) > 0
    average = np.where(is_level, interpolated, 0.0).sum(axis=2) / np.maximum(is_level.sum(axis=2), 1)
    return np.where(found[:, :, -1] == num_clips[:, None], 1.0, average)
