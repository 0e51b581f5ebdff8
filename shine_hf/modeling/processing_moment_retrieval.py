"""Features to model inputs, and model outputs to moments in seconds: the one code path of training and inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin

from .ranking import saliency_contrast, temporal_nms
from .spans import span_to_window

if TYPE_CHECKING:
    from .configuration_moment_retrieval import MomentRetrievalConfig
    from .modeling_moment_retrieval import MomentRetrievalOutput

Features: TypeAlias = np.ndarray | torch.Tensor | Sequence[Sequence[float]]

NumberOrTensor = TypeVar("NumberOrTensor", float, torch.Tensor)


def covered_seconds(num_clips: NumberOrTensor, clip_length: float) -> NumberOrTensor:
    """Return the length of video that `num_clips` clips cover, in seconds. Targets are divided and predictions multiplied by it."""
    return num_clips * clip_length


class MomentRetrievalProcessor(FeatureExtractionMixin):
    """
    Prepare clip and token features for a model, and turn its outputs into moments.

    Args:
        clip_length (`float`): Seconds that one clip covers.
        normalize_features (`bool`): Divide each feature type of each clip and each token by its L2 norm.
        video_feature_dims (`list[int]`, *optional*): Widths of the feature types that are concatenated in the video features.
        max_video_length (`int`, *optional*): Clips beyond which a video is cut.
        max_text_length (`int`): Tokens beyond which a query is cut.
        video_dim, text_dim (`int`, *optional*): Widths to insist on.
    """

    model_input_names = ("video_features", "video_attention_mask", "text_features", "text_attention_mask")

    _CONFIG_FIELDS = (
        "clip_length", "normalize_features", "video_feature_dims", "max_video_length", "max_text_length", "video_dim", "text_dim",
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
        **kwargs,
    ):
        self.clip_length = clip_length
        self.normalize_features = normalize_features
        self.video_feature_dims = video_feature_dims
        self.max_video_length = max_video_length
        self.max_text_length = max_text_length
        self.video_dim = video_dim
        self.text_dim = text_dim
        # Files of version 0.1 repeat it here. It belongs to the model's configuration, and its outputs carry it.
        kwargs.pop("saliency_weight", None)
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, config: MomentRetrievalConfig) -> MomentRetrievalProcessor:
        """Return the processor that fits a model configuration, as training, evaluation and the pipeline do; a saved processor repeats it."""
        return cls(**{name: getattr(config, name) for name in cls._CONFIG_FIELDS})

    # ---- inputs ----------------------------------------------------------------------------------------------------

    def prepare_video(self, features: Features, name: str = "video") -> np.ndarray:
        """Turn `(T, D)` clip features into at most `max_video_length` clips, normalized, float32. `name` is for error messages."""
        features = _checked(features, self.video_dim, f"video features of {name}")[: self.max_video_length]
        if not self.normalize_features:
            return features
        bounds = np.cumsum(self.video_feature_dims)[:-1] if self.video_feature_dims else []
        return np.concatenate([_normalized(part) for part in np.split(features, bounds, axis=1)], axis=1)

    def prepare_text(self, features: Features, name: str = "query") -> np.ndarray:
        """Turn `(L, D)` token features into at most `max_text_length` tokens, normalized, float32."""
        features = _checked(features, self.text_dim, f"text features of {name}")[: self.max_text_length]
        return _normalized(features) if self.normalize_features else features

    def __call__(
        self,
        videos: Features | Sequence[Features],
        text: Features | Sequence[Features],
        negative_text: Sequence[Sequence[Features | None]] | None = None,
        names: Sequence[str] | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """
        Pad features to a batch.

        Args:
            videos: `(T, D)` clip features per video as a list, or of a single video; arrays, tensors or nested lists.
            text: `(L, D)` token features per query likewise, one query per video.
            negative_text: For each query its negatives, the irrelevant query last; `None` for an absent one.
            names: What to call each sample in an error message, e.g. the qid.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `video_features (B, T, Dv)`, `text_features (B, L, Dt)` and, with negatives, `negative_text_features (B, N, Ln, Dt)`, float32 and
            padded with zeros, and for each an `…_attention_mask`, int64: what the models' `forward` takes.

        Raises:
            ValueError: for NaN or infinite numbers, a wrong number of dimensions or channels, no clips or no tokens, file names or
                sentences, or lists of different length.
        """
        if return_tensors not in (None, "pt", "np"):
            raise ValueError(f'return_tensors must be "pt" or "np", got {return_tensors!r}')
        videos, text = _as_list(videos), _as_list(text)
        if len(videos) != len(text):
            raise ValueError(f"{len(videos)} videos for {len(text)} queries: one video per query is needed")
        if not videos:
            raise ValueError("no videos and no queries: there is nothing to prepare")
        names = names or [f"sample {i}" for i in range(len(text))]
        videos = [self.prepare_video(features, name) for features, name in zip(videos, names)]
        text = [self.prepare_text(features, name) for features, name in zip(text, names)]
        inputs = {}
        inputs["video_features"], inputs["video_attention_mask"] = _pad(videos, videos[0].shape[1])
        inputs["text_features"], inputs["text_attention_mask"] = _pad(text, text[0].shape[1])
        if negative_text:
            negatives = [
                None if features is None else self.prepare_text(features, f"a negative of {name}")
                for row, name in zip(negative_text, names)
                for features in row
            ]
            padded, mask = _pad(negatives, text[0].shape[1])
            shape = (len(negative_text), -1)
            inputs["negative_text_features"] = padded.unflatten(0, shape)
            inputs["negative_text_attention_mask"] = mask.unflatten(0, shape)
        return BatchFeature(inputs, tensor_type="np" if return_tensors == "np" else None)

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
        saliency_weight: torch.Tensor | None = None,
    ) -> torch.Tensor:
        r"""
        Return the candidates as moments, best first.

        The score is the probability of the foreground. With a `saliency_weight` w, its logit is raised by w times the contrast of the
        saliency s: then what the ranking losses teach the saliency counts in the choice of the moment.

        $$ score = \sigma \Big( l_{fg} - l_{bg} + w \, (\bar s_{inside} - \bar s_{outside}) \Big) $$

        Args:
            logits (`(B, Q, 2)`, *optional*): Class scores; without them all candidates score 1.
            pred_spans (`(B, Q, 2)`): Center and width as fractions of the video.
            video_attention_mask (`(B, T)`), durations (`(B,)` seconds, *optional*): Where the video ends. Moments are clipped to it; those
                that begin after it become what the video has of its last clip.
            round_to_clip_length (`bool`): Move both ends to the nearest multiple of the clip length.
            nms_threshold (`float`, *optional*): Drop a moment whose temporal IoU with a better one is above it.
            saliency_scores (`(B, T)`, *optional*): Needed with a `saliency_weight`.
            saliency_weight (`(B,)`, *optional*): Of the model's outputs, which take it from the configuration.

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
        # What begins after the end was found in the last clip, of which the video fills only a part.
        last_clip = (torch.ceil(last / self.clip_length - 1e-4) - 1).clamp(min=0) * self.clip_length
        start = torch.where(start < last, start, last_clip)
        if logits is None:
            scores = torch.ones_like(start)
        else:
            foreground = logits[..., 0].float() - logits[..., 1].float()
            if saliency_weight is not None:
                if saliency_scores is None:
                    raise ValueError("a saliency_weight needs saliency_scores")
                windows = torch.stack([start, end], dim=-1) / self.clip_length
                contrast = saliency_contrast(saliency_scores, last / self.clip_length, windows)
                foreground = foreground + saliency_weight.to(contrast).unsqueeze(1) * contrast
            scores = foreground.sigmoid()
        order = scores.argsort(dim=1, descending=True, stable=True)
        moments = torch.stack([start, end, scores], dim=-1)
        moments = moments.gather(1, order.unsqueeze(-1).expand(-1, -1, 3))
        return moments if nms_threshold is None else temporal_nms(moments, nms_threshold)

    def post_process_moment_retrieval(
        self,
        outputs: MomentRetrievalOutput,
        video_attention_mask: torch.Tensor | None = None,
        threshold: float = 0.0,
        durations: Sequence[float] | torch.Tensor | None = None,
        top_k: int | None = None,
        nms_threshold: float | None = None,
        round_to_clip_length: bool = False,
    ) -> list[dict]:
        """
        Turn model outputs into one result per sample.

        Args:
            outputs ([`MomentRetrievalOutput`]): Of one forward pass.
            video_attention_mask (`(B, T)`, *optional*): That of the inputs; without it, no clip is taken for padding.
            threshold (`float`): Keep moments with at least this score.
            durations (seconds, *optional*): Length of each video, where it is known better than by its clips.
            top_k (`int`, *optional*): Keep so many moments, the best.
            nms_threshold, round_to_clip_length: See `decode_moments`.

        Returns:
            `{"moments": [{"start", "end", "score"}, …], "saliency": [...], "clip_length": s}` per sample, times in seconds, best moment first.

        Raises:
            ValueError: where there is not one duration per sample.
        """
        spans, saliency = outputs["pred_spans"].detach(), outputs["saliency_scores"].detach()
        mask = torch.ones(saliency.shape) if video_attention_mask is None else torch.as_tensor(video_attention_mask)
        mask = mask.to(spans.device).bool()
        seconds = None if durations is None else torch.as_tensor(durations, dtype=torch.float32)
        if seconds is not None and seconds.shape != (len(spans),):
            raise ValueError(f"one duration per sample is needed, got {seconds.numel()} for {len(spans)}")
        moments = self.decode_moments(
            outputs.get("logits"),
            spans,
            mask,
            seconds,
            round_to_clip_length,
            nms_threshold,
            saliency,
            outputs.get("saliency_weight"),
        )
        return [
            self.as_result(of_sample, scores[valid], threshold, top_k)
            for of_sample, scores, valid in zip(moments.detach().cpu(), saliency.float().cpu(), mask.cpu())
        ]

    def as_result(
        self,
        moments: torch.Tensor,
        saliency: torch.Tensor | np.ndarray,
        threshold: float = 0.0,
        top_k: int | None = None,
    ) -> dict:
        """Return what `post_process_moment_retrieval` returns, of one sample: moments `(Q, 3)`, best first, and saliency `(T,)`."""
        kept = moments[moments[:, 2] >= max(threshold, 0.0)][:top_k]
        return {
            "moments": [{"start": s, "end": e, "score": p} for s, e, p in kept.tolist()],
            "saliency": saliency.tolist(),
            "clip_length": self.clip_length,
        }


def _as_list(features) -> list:
    """Split a batch of features; what is no batch becomes one of a single sample."""
    if isinstance(features, list | tuple):
        is_single = bool(features) and isinstance(features[0], list | tuple) and np.ndim(features[0]) == 1
        return [features] if is_single else list(features)
    return list(features) if np.ndim(features) == 3 else [features]


def _checked(features: Features, width: int | None, what: str) -> np.ndarray:
    if isinstance(features, str | bytes) or hasattr(features, "__fspath__"):
        raise ValueError(
            f"{what} must be a (length, channels) array, got {features!r}: the processor encodes no files and sentences; "
            "shine_hf.MomentRetriever does"
        )
    if isinstance(features, torch.Tensor):
        features = features.detach().float().cpu().numpy()
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
    """Pad `(n_i, D)` arrays to `(B, max n_i, D)` with a mask `(B, max n_i)`; `None` becomes a row of padding only."""
    length = max((len(array) for array in arrays if array is not None), default=1)
    padded = torch.zeros(len(arrays), length, width)
    mask = torch.zeros(len(arrays), length, dtype=torch.long)
    for row, array in enumerate(arrays):
        if array is not None:
            # Through NumPy: torch warns of read-only arrays, e.g. of a memory-mapped store.
            padded.numpy()[row, : len(array)] = array
            mask[row, : len(array)] = 1
    return padded, mask
