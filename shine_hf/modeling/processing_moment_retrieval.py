"""Features to model inputs, and model outputs to moments in seconds: the one code path of training and inference."""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin

from .spans import span_to_window, temporal_iou


def covered_seconds(num_clips, clip_length: float):
    """Length of video that `num_clips` clips cover, in seconds. Targets are divided and predictions multiplied by it."""
    return num_clips * clip_length


class MomentRetrievalProcessor(FeatureExtractionMixin):
    """
    Prepares clip and token features for a model, and turns its outputs into moments.

    Args:
        clip_length (`float`): Seconds that one clip covers.
        normalize_features (`bool`): Divide each feature type of each clip and each token by its L2 norm.
        video_feature_dims (`list[int]`, *optional*): Widths of the feature types that are concatenated in the video features.
        max_video_length (`int`, *optional*): Clips beyond which a video is cut.
        max_text_length (`int`): Tokens beyond which a query is cut.
        video_dim, text_dim (`int`, *optional*): Widths to insist on.
        saliency_weight (`float`): How much the saliency counts in the score of a moment, see `decode_moments`.
    """

    model_input_names = ("video_features", "video_attention_mask", "text_features", "text_attention_mask")

    _CONFIG_FIELDS = (
        "clip_length", "normalize_features", "video_feature_dims", "max_video_length", "max_text_length", "video_dim", "text_dim",
        "saliency_weight",
    )  # fmt: skip

    def __init__(
        self,
        clip_length: float = 0.5,
        normalize_features: bool = True,
        video_feature_dims: list[int] | None = None,
        max_video_length: int | None = None,
        max_text_length: int = 32,
        video_dim: int | None = None,
        text_dim: int | None = None,
        saliency_weight: float = 0.0,
        **kwargs,
    ):
        self.clip_length = clip_length
        self.normalize_features = normalize_features
        self.video_feature_dims = video_feature_dims
        self.max_video_length = max_video_length
        self.max_text_length = max_text_length
        self.video_dim = video_dim
        self.text_dim = text_dim
        self.saliency_weight = saliency_weight
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, config) -> "MomentRetrievalProcessor":
        """The processor that fits a model configuration, which is what training, evaluation and the pipeline go by; a saved processor repeats it."""
        return cls(**{name: getattr(config, name) for name in cls._CONFIG_FIELDS})

    # ---- inputs ----------------------------------------------------------------------------------------------------

    def prepare_video(self, features: np.ndarray, name: str = "video") -> np.ndarray:
        """`(T, D)` clip features -> at most `max_video_length` clips, normalised, float32. `name` is for error messages."""
        features = _checked(features, self.video_dim, f"video features of {name}")[: self.max_video_length]
        if not self.normalize_features:
            return features
        bounds = np.cumsum(self.video_feature_dims)[:-1] if self.video_feature_dims else []
        return np.concatenate([_normalized(part) for part in np.split(features, bounds, axis=1)], axis=1)

    def prepare_text(self, features: np.ndarray, name: str = "query") -> np.ndarray:
        """`(L, D)` token features -> at most `max_text_length` tokens, normalised, float32."""
        features = _checked(features, self.text_dim, f"text features of {name}")[: self.max_text_length]
        return _normalized(features) if self.normalize_features else features

    def __call__(
        self,
        video_features: np.ndarray | Sequence[np.ndarray],
        text_features: np.ndarray | Sequence[np.ndarray],
        negative_text_features: Sequence[Sequence[np.ndarray | None]] | None = None,
        names: Sequence[str] | None = None,
    ) -> BatchFeature:
        """
        Args:
            video_features: One `(T, D)` array per video, or a single one.
            text_features: One `(L, D)` array per query, or a single one.
            negative_text_features: For each query its negatives, the irrelevant query last; `None` for an absent one.
            names: What to call each sample in an error message, the qid say.

        Returns:
            Padded float32 tensors and int64 masks, as the models' `forward` takes them.

        Raises:
            ValueError: for NaN or infinite numbers, a wrong number of dimensions or channels, no clips or no tokens, or lists of
                different length.
        """
        if not isinstance(video_features, list | tuple):
            video_features, text_features = [video_features], [text_features]
        if len(video_features) != len(text_features):
            raise ValueError(
                f"{len(video_features)} videos for {len(text_features)} queries: one video per query is needed"
            )
        names = names or [f"sample {i}" for i in range(len(text_features))]
        videos = [self.prepare_video(features, name) for features, name in zip(video_features, names)]
        texts = [self.prepare_text(features, name) for features, name in zip(text_features, names)]
        inputs = {}
        inputs["video_features"], inputs["video_attention_mask"] = _pad(videos, videos[0].shape[1])
        inputs["text_features"], inputs["text_attention_mask"] = _pad(texts, texts[0].shape[1])
        if negative_text_features:
            negatives = [
                None if features is None else self.prepare_text(features, f"a negative of {name}")
                for row, name in zip(negative_text_features, names)
                for features in row
            ]
            padded, mask = _pad(negatives, texts[0].shape[1])
            shape = (len(negative_text_features), -1)
            inputs["negative_text_features"] = padded.unflatten(0, shape)
            inputs["negative_text_attention_mask"] = mask.unflatten(0, shape)
        return BatchFeature(inputs)

    # ---- outputs ---------------------------------------------------------------------------------------------------

    def decode_moments(
        self,
        logits: torch.Tensor | None,
        pred_spans: torch.Tensor,
        video_attention_mask: torch.Tensor,
        durations: torch.Tensor | None = None,
        round_to_clip_length: bool = False,
        nms_threshold: float | None = None,
        saliency_scores: torch.Tensor | None = None,
    ) -> torch.Tensor:
        r"""Candidates as moments, best first.

        The score is the probability of the foreground. With a `saliency_weight` w, its logit is raised by w times the contrast of the saliency s:
        what the ranking losses teach the saliency then counts in the choice of the moment.

        $$ score = \sigma \Big( l_{fg} - l_{bg} + w \, (\bar s_{inside} - \bar s_{outside}) \Big) $$

        Args:
            logits (`(B, Q, 2)`, *optional*): Class scores; without them all candidates score 1.
            pred_spans (`(B, Q, 2)`): Centre and width as fractions of the video.
            video_attention_mask (`(B, T)`), durations (`(B,)` seconds, *optional*): Where the video ends: moments are clipped to it, those that
                begin behind it to what it has of its last clip.
            round_to_clip_length (`bool`): Move both ends to the nearest multiple of the clip length.
            nms_threshold (`float`, *optional*): Drop a moment whose temporal IoU with a better one is above it.
            saliency_scores (`(B, T)`, *optional*): Needed where the processor has a `saliency_weight`.

        Returns:
            `(B, Q, 3)` start and end in seconds and score. Dropped moments come last, with score -1.

        Raises:
            ValueError: for a `saliency_weight` without `saliency_scores`.
        """
        covered = covered_seconds(video_attention_mask.sum(dim=1, keepdim=True), self.clip_length)
        last = covered if durations is None else torch.minimum(covered, durations.to(covered).unsqueeze(1))
        windows = span_to_window(pred_spans.float()) * covered.unsqueeze(-1)
        if round_to_clip_length:
            windows = (windows / self.clip_length).round() * self.clip_length
        last = last.to(windows.dtype)
        start, end = windows.clamp(min=0).minimum(last.unsqueeze(-1)).unbind(-1)
        # What begins behind the end was found in the last clip, of which the video fills only a part.
        last_clip = (torch.ceil(last / self.clip_length - 1e-4) - 1).clamp(min=0) * self.clip_length
        start = torch.where(start < last, start, last_clip)
        if logits is None:
            scores = torch.ones_like(start)
        else:
            foreground = logits[..., 0].float() - logits[..., 1].float()
            if self.saliency_weight:
                if saliency_scores is None:
                    raise ValueError(f"a saliency_weight of {self.saliency_weight} needs saliency_scores")
                windows = torch.stack([start, end], dim=-1) / self.clip_length
                contrast = _contrast(saliency_scores, last / self.clip_length, windows)
                foreground = foreground + self.saliency_weight * contrast
            scores = foreground.sigmoid()
        order = scores.argsort(dim=1, descending=True, stable=True)
        moments = torch.stack([start, end, scores], dim=-1)
        moments = moments.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))
        return moments if nms_threshold is None else temporal_nms(moments, nms_threshold)

    def post_process(
        self,
        outputs,
        video_attention_mask: torch.Tensor,
        durations: Sequence[float] | None = None,
        top_k: int | None = None,
        score_threshold: float = 0.0,
        round_to_clip_length: bool = False,
        nms_threshold: float | None = None,
    ) -> list[dict]:
        """Model outputs to one result per sample: `{"moments": [{"start", "end", "score"}, …], "saliency": [...], "clip_length": s}`.

        Args:
            outputs (`MomentRetrievalOutput`), video_attention_mask (`(B, T)`): Of one forward pass.
            durations (seconds, *optional*): Length of each video, where it is known better than by its clips.
            top_k (`int`, *optional*), score_threshold (`float`): Keep the best `top_k` moments with at least this score.
            round_to_clip_length, nms_threshold: See `decode_moments`.
        """
        durations = None if durations is None else torch.as_tensor(durations, dtype=torch.float32)
        moments = self.decode_moments(
            outputs.logits.cpu(),
            outputs.pred_spans.cpu(),
            video_attention_mask.cpu(),
            durations,
            round_to_clip_length,
            nms_threshold,
            outputs.saliency_scores.cpu(),
        )
        results = []
        for sample, mask, saliency in zip(moments, video_attention_mask.cpu(), outputs.saliency_scores.float().cpu()):
            kept = sample[sample[:, 2] >= max(score_threshold, 0.0)][:top_k]
            results.append(
                {
                    "moments": [{"start": s, "end": e, "score": p} for s, e, p in kept.tolist()],
                    "saliency": saliency[mask.bool()].tolist(),
                    "clip_length": self.clip_length,
                }
            )
        return results


def temporal_nms(moments: torch.Tensor, threshold: float) -> torch.Tensor:
    """Non-maximum suppression over time, for a whole batch at once.

    Args:
        moments (`(B, Q, 3)`): Start, end and score, best first.
        threshold (`float`): A moment goes whose IoU with a better one that stays is above it.

    Returns:
        `(B, Q, 3)`: the same moments, those that stay first, each group in its order; the others have score -1.
    """
    overlap = temporal_iou(moments[..., None, :2], moments[:, None, :, :2]) > threshold
    keep = moments[..., 2] >= 0
    for rank in range(moments.shape[1] - 1):
        keep[:, rank + 1 :] &= ~(overlap[:, rank, rank + 1 :] & keep[:, rank, None])
    moments = torch.cat([moments[..., :2], moments[..., 2:].masked_fill(~keep.unsqueeze(-1), -1.0)], dim=-1)
    order = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return moments.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))


def _contrast(saliency_scores: torch.Tensor, length: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Mean saliency inside each window minus that outside, `(B, Q)`; 0 for a window with nothing inside or outside.

    Args:
        saliency_scores (`(B, T)`): A score per clip.
        length (`(B, 1)`): Length of the video in clips; of its last clip only the part that there is counts.
        windows (`(B, Q, 2)`): Start and end in clips; a clip that is covered in part counts in part.
    """
    clips = torch.arange(saliency_scores.shape[1], device=windows.device, dtype=windows.dtype)
    start, end = windows.split(1, dim=-1)
    inside = (torch.minimum(end, clips + 1) - torch.maximum(start, clips)).clamp(0, 1)
    outside = (length.unsqueeze(1) - clips).clamp(0, 1) - inside
    scores = saliency_scores.to(windows.dtype).unsqueeze(1)
    # Of less than a thousandth of a clip nothing is known but rounding errors.
    means = [(scores * part).sum(-1) / part.sum(-1).clamp(min=1e-3) for part in (inside, outside)]
    exists = (inside.sum(-1) > 1e-3) & (outside.sum(-1) > 1e-3)
    return (means[0] - means[1]).masked_fill(~exists, 0.0)


def _checked(features, width: int | None, what: str) -> np.ndarray:
    features = np.asarray(features, dtype=np.float32)
    if features.ndim != 2 or not len(features):
        raise ValueError(
            f"{what} must be a (length, channels) array with at least one row, got shape {features.shape}"
        )
    if width is not None and features.shape[1] != width:
        raise ValueError(f"{what} have {features.shape[1]} channels, but the model was built for {width}")
    if not np.isfinite(features).all():
        raise ValueError(
            f"{what} hold NaN or infinite numbers in row {int(np.argmin(np.isfinite(features).all(axis=1)))}"
        )
    return features


def _normalized(rows: np.ndarray) -> np.ndarray:
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5)


def _pad(arrays: Sequence[np.ndarray | None], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`(n_i, D)` arrays -> `(B, max n_i, D)` and `(B, max n_i)` mask; `None` becomes a row of padding alone."""
    length = max((len(array) for array in arrays if array is not None), default=1)
    padded = torch.zeros(len(arrays), length, width)
    mask = torch.zeros(len(arrays), length, dtype=torch.long)
    for row, array in enumerate(arrays):
        if array is not None:
            # Through NumPy: torch warns of read-only arrays, e.g. of a memory-mapped store.
            padded.numpy()[row, : len(array)] = array
            mask[row, : len(array)] = 1
    return padded, mask
