"""Find the moments of several queries in a video of any length, with overlapping windows if it is too long for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .processing_moment_retrieval import MomentRetrievalProcessor
from .ranking import temporal_nms

# For models without `max_video_length`. With this many clips, attention is still cheap.
DEFAULT_WINDOW_CLIPS = 512
# Moments of two windows that agree at least this much are merged.
SAME_MOMENT_IOU = 0.5


def window_starts(num_clips: int, window_clips: int, overlap_clips: int) -> list[int]:
    """Return the first clips of the windows that cover a video. All windows have full length; the last ends with the video.

    Raises:
        ValueError: for empty windows, or an overlap of an entire window.
    """
    if window_clips < 1 or not 0 <= overlap_clips < window_clips:
        raise ValueError(
            f"windows of {window_clips} clips cannot overlap by {overlap_clips}: each must have at least one new clip"
        )
    if num_clips <= window_clips:
        return [0]
    return [*range(0, num_clips - window_clips, window_clips - overlap_clips), num_clips - window_clips]


@torch.no_grad()
def find_moments(
    model: torch.nn.Module,
    processor: MomentRetrievalProcessor,
    video: np.ndarray,
    texts: Sequence[np.ndarray],
    *,
    duration: float | None = None,
    window_clips: int | None = None,
    overlap: float = 0.5,
    batch_size: int = 16,
    top_k: int | None = None,
    threshold: float = 0.0,
    nms_threshold: float | None = None,
    round_to_clip_length: bool = False,
) -> list[dict]:
    """
    Find the moments and the saliency of each query.

    The parts of a moment in several windows are merged (see [`merge_moments`]), so a moment may be longer than a window. The saliency of a clip
    is averaged over the windows that contain it.

    A model assumes that the query occurs in every window. Therefore, with several windows, the score of a moment is multiplied by the sigmoid of
    its mean saliency, which training pushes toward 0 for a query that is unrelated to the video.

    Args:
        model, processor: From `from_pretrained`.
        video (`(T, D)`): Clip features of the entire video.
        texts (list of `(L, D)`): Token features of each query.
        duration: Length of the video in seconds; by default, the length of its clips.
        window_clips: Clips per window; by default, the model's `max_video_length`, or 512. A shorter video is a single window.
        overlap: Share of a window that overlaps with the next one.
        batch_size: Pairs of window and query per forward pass.
        top_k, threshold: Keep the best `top_k` moments with at least this score.
        nms_threshold: IoU above which the worse of two moments is dropped; by default, none is dropped.
        round_to_clip_length: Round both ends to the nearest multiple of the clip length.

    Returns:
        For each query `{"moments": [{"start", "end", "score"}, …], "saliency": [...], "clip_length": s}`, best moment first.

    Raises:
        ValueError: for features that do not match the model, or invalid windows.
    """
    longest, clip_length = processor.max_video_length, processor.clip_length
    window_clips = window_clips or longest or DEFAULT_WINDOW_CLIPS
    if longest and window_clips > longest:
        raise ValueError(f"a window of {window_clips} clips is longer than the model's max_video_length, {longest}")
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must be a share of the window, at least 0 and below 1, got {overlap}")
    if not len(video):
        raise ValueError("the video has no clips")
    starts = window_starts(len(video), window_clips, min(int(overlap * window_clips), window_clips - 1))
    duration = len(video) * clip_length if duration is None else min(duration, len(video) * clip_length)

    was_training = model.training
    model.eval()
    found: list[list[torch.Tensor]] = [[] for _ in texts]
    saliency, times_seen = np.zeros((len(texts), len(video))), np.zeros(len(video))
    for start in starts:
        times_seen[start : start + window_clips] += 1
    pairs = [(start, query) for start in starts for query in range(len(texts))]
    for first in range(0, len(pairs), batch_size):
        batch = pairs[first : first + batch_size]
        inputs = processor(
            [video[start : start + window_clips] for start, _ in batch], [texts[query] for _, query in batch]
        ).to(model.device, model.dtype)
        outputs = model(**inputs)
        moments = processor.decode_moments(
            outputs.logits,
            outputs.pred_spans,
            inputs["video_attention_mask"],
            torch.tensor([duration - start * clip_length for start, _ in batch]),
            round_to_clip_length,
            saliency_scores=outputs.saliency_scores,
            saliency_weight=getattr(outputs, "saliency_weight", None),
        ).cpu()
        scores = outputs.saliency_scores.float().cpu().numpy()
        for (start, query), window_moments, window_scores in zip(batch, moments, scores):
            offset = torch.tensor([start * clip_length, start * clip_length, 0.0])
            found[query].append(window_moments + offset)
            saliency[query, start : start + window_clips] += window_scores[: len(video) - start]
    model.train(was_training)

    bounds = [(start * clip_length, min((start + window_clips) * clip_length, duration)) for start in starts]
    results = []
    for per_window, scores in zip(found, saliency / times_seen):
        moments = merge_moments(per_window, bounds, clip_length)
        if len(starts) > 1:
            moments[:, 2] *= _relevance(moments, scores, clip_length)
        moments = moments[moments[:, 2].argsort(descending=True, stable=True)]
        if nms_threshold is not None:
            moments = temporal_nms(moments[None], nms_threshold)[0]
        results.append(processor.as_result(moments, scores, threshold, top_k))
    return results


@dataclass
class _Track:
    """A moment that is tracked across windows, in seconds. `seen_to` is the end of the last window that contains it."""

    start: float
    end: float
    score: float
    seen_to: float
    last_window: int

    def agreement(self, start: float, end: float, shared_from: float) -> float:
        """Return the temporal IoU with another moment within the part that both windows cover."""
        a, b = max(self.start, shared_from), min(self.end, self.seen_to)
        c, d = max(start, shared_from), min(end, self.seen_to)
        if b <= a or d <= c:
            return 0.0
        return max(0.0, min(b, d) - max(a, c)) / (max(b, d) - min(a, c))


def merge_moments(
    per_window: Sequence[torch.Tensor], bounds: Sequence[tuple[float, float]], clip_length: float
) -> torch.Tensor:
    """Merge the moments of all windows into moments of the entire video.

    A moment continues one of an earlier window if their temporal IoU is at least 0.5 within the part that both windows cover. Each moment
    continues at most one other, and better scores come first. The merged moment has the start and end of the better one, except where a
    window cut it off.

    Args:
        per_window (list of `(K, 3)`): Start and end in the video, in seconds, and score of the moments of each window.
        bounds: Start and end of each window in seconds, in order.
        clip_length: Seconds per clip. A moment that ends less than a clip before the end of its window counts as cut off.

    Returns:
        `(K, 3)` as in `per_window`, unordered.
    """
    tracks: list[_Track] = []
    active: list[_Track] = []
    for window, (moments, (begin, stop)) in enumerate(zip(per_window, bounds)):
        active = [track for track in active if track.seen_to > begin]
        for start, end, score in moments[moments[:, 2].argsort(descending=True, stable=True)].tolist():
            free = [track for track in active if track.last_window < window]
            track = max(free, key=lambda track: track.agreement(start, end, begin), default=None)
            if track is None or track.agreement(start, end, begin) < SAME_MOMENT_IOU:
                tracks.append(_Track(start, end, score, stop, window))
                active.append(tracks[-1])
                continue
            is_better, was_cut = score > track.score, track.end > track.seen_to - clip_length
            if is_better and start > begin + clip_length:
                track.start = start
            if is_better or was_cut:
                track.end = end
            track.score, track.seen_to, track.last_window = max(score, track.score), stop, window
    return torch.tensor([[track.start, track.end, track.score] for track in tracks])


def _relevance(moments: torch.Tensor, saliency: np.ndarray, clip_length: float) -> torch.Tensor:
    """Return the sigmoid of the mean saliency of the clips that each of the moments `(K, 3)` overlaps, `(K,)`."""
    first = (moments[:, 0] / clip_length + 1e-4).long().clamp(max=len(saliency) - 1)
    last = (moments[:, 1] / clip_length - 1e-4).long().clamp(max=len(saliency) - 1).maximum(first)
    summed = torch.from_numpy(np.concatenate([[0.0], np.cumsum(saliency)]))
    return torch.sigmoid((summed[last + 1] - summed[first]) / (last + 1 - first)).float()
