"""Convert features to model inputs, and model outputs to moments in seconds, for both training and inference."""

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
    """Return the seconds of video that `num_clips` clips cover. Targets are divided by this length, and predictions are multiplied by it."""
    return num_clips * clip_length


class MomentRetrievalProcessor(FeatureExtractionMixin):
    """
    Prepare clip and token features for a model, and convert its outputs to moments.

    Args:
        clip_length (`float`): Seconds per clip.
        normalize_features (`bool`): Divide each feature type of each clip and each token by its L2 norm.
        video_feature_dims (`list[int]`, *optional*): Widths of the feature types that are concatenated in the video features.
        max_video_length (`int`, *optional*): Number of clips to which a video is truncated.
        max_text_length (`int`): Number of tokens to which a query is truncated.
        video_dim, text_dim (`int`, *optional*): Expected widths, which are checked if given.
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
        # Version 0.1 also saved this here. It belongs to the model's configuration, and the model's outputs include it.
        kwargs.pop("saliency_weight", None)
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, config: MomentRetrievalConfig) -> MomentRetrievalProcessor:
        """Return the processor for a model configuration. Training, evaluation and the pipeline use it; a saved processor is equivalent."""
        return cls(**{name: getattr(config, name) for name in cls._CONFIG_FIELDS})

    # ---- inputs ----------------------------------------------------------------------------------------------------

    def prepare_video(self, features: Features, name: str = "video") -> np.ndarray:
        """Truncate `(T, D)` clip features to `max_video_length` and normalize them, float32. `name` is for error messages.

        Raises:
            ValueError: as `__call__`.
        """
        features = _checked(features, self.video_dim, f"video features of {name}")[: self.max_video_length]
        if not self.normalize_features:
            return features
        bounds = np.cumsum(self.video_feature_dims)[:-1] if self.video_feature_dims else []
        return np.concatenate([_normalized(part) for part in np.split(features, bounds, axis=1)], axis=1)

    def prepare_text(self, features: Features, name: str = "query") -> np.ndarray:
        """Truncate `(L, D)` token features to `max_text_length` and normalize them, float32. `name` is for error messages.

        Raises:
            ValueError: as `__call__`.
        """
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
            videos: A list of `(T, D)` clip features, or the features of a single video, as arrays, tensors or nested lists.
            text: Likewise, `(L, D)` token features of one query per video.
            negative_text: The negatives of each query, with the irrelevant query last; `None` for a missing one.
            names: Name of each sample in error messages, e.g. the qid.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            The inputs of the models' `forward`: `video_features (B, T, Dv)`, `text_features (B, L, Dt)` and, with negatives,
            `negative_text_features (B, N, Ln, Dt)`, float32 and padded with zeros, each with an `…_attention_mask`, int64.

        Raises:
            ValueError: for NaN or infinite numbers, a wrong number of dimensions or channels, no clips or no tokens, file names or
                sentences, or lists of different lengths.
        """
        if return_tensors not in (None, "pt", "np"):
            raise ValueError(f'return_tensors must be "pt" or "np", got {return_tensors!r}')
        videos, text = _as_list(videos), _as_list(text)
        if len(videos) != len(text):
            raise ValueError(f"{len(videos)} videos for {len(text)} queries: give one video per query")
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
        Convert the candidates to moments, best first.

        The score is the probability of the foreground. With a `saliency_weight` w, w times the contrast of the saliency s is added to its
        logit, so that the saliency, which the ranking losses train, affects the choice of the moment:

        $$ score = \sigma \Big( l_{fg} - l_{bg} + w \, (\bar s_{inside} - \bar s_{outside}) \Big) $$

        Args:
            logits (`(B, Q, 2)`, *optional*): Class scores. Without them, all candidates have the score 1.
            pred_spans (`(B, Q, 2)`): Center and width as fractions of the video.
            video_attention_mask (`(B, T)`), durations (`(B,)` seconds, *optional*): The end of the video, to which moments are clipped. Moments
                that start after it are moved to the part of the last clip that is inside the video.
            round_to_clip_length (`bool`): Round both ends to the nearest multiple of the clip length.
            nms_threshold (`float`, *optional*): Drop a moment if its temporal IoU with a better one is above this.
            saliency_scores (`(B, T)`, *optional*): Required with a `saliency_weight`.
            saliency_weight (`(B,)`, *optional*): From the model's outputs, which take it from the configuration.

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
        # A moment that starts after the end was found in the last clip, of which only a part is inside the video.
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
        Convert model outputs to one result per sample.

        Args:
            outputs ([`MomentRetrievalOutput`]): The outputs of a forward pass.
            video_attention_mask (`(B, T)`, *optional*): The mask of the inputs; without it, all clips are valid.
            threshold (`float`): Keep moments with at least this score.
            durations (seconds, *optional*): Length of each video, if known more precisely than from its clips.
            top_k (`int`, *optional*): Keep only the best `top_k` moments.
            nms_threshold, round_to_clip_length: See `decode_moments`.

        Returns:
            `{"moments": [{"start", "end", "score"}, …], "saliency": [...], "clip_length": s}` per sample, times in seconds, best moment first.

        Raises:
            ValueError: if the number of durations is not the number of samples.
        """
        spans, saliency = outputs["pred_spans"].detach(), outputs["saliency_scores"].detach()
        mask = torch.ones(saliency.shape) if video_attention_mask is None else torch.as_tensor(video_attention_mask)
        mask = mask.to(spans.device).bool()
        seconds = None if durations is None else torch.as_tensor(durations, dtype=torch.float32)
        if seconds is not None and seconds.shape != (len(spans),):
            raise ValueError(f"give one duration per sample, got {seconds.numel()} for {len(spans)} samples")
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
            self.as_result(sample_moments, scores[valid], threshold, top_k)
            for sample_moments, scores, valid in zip(moments.detach().cpu(), saliency.float().cpu(), mask.cpu())
        ]

    def as_result(
        self,
        moments: torch.Tensor,
        saliency: torch.Tensor | np.ndarray,
        threshold: float = 0.0,
        top_k: int | None = None,
    ) -> dict:
        """Build the result of one sample (see `post_process_moment_retrieval`) from moments `(Q, 3)`, best first, and saliency `(T,)`."""
        kept = moments[moments[:, 2] >= max(threshold, 0.0)][:top_k]
        return {
            "moments": [{"start": s, "end": e, "score": p} for s, e, p in kept.tolist()],
            "saliency": saliency.tolist(),
            "clip_length": self.clip_length,
        }


def _as_list(features) -> list:
    """Split a batch of features into samples; a single sample becomes a list of one."""
    if isinstance(features, list | tuple):
        is_single = bool(features) and isinstance(features[0], list | tuple) and np.ndim(features[0]) == 1
        return [features] if is_single else list(features)
    return list(features) if np.ndim(features) == 3 else [features]


def _checked(features: Features, width: int | None, what: str) -> np.ndarray:
    if isinstance(features, str | bytes) or hasattr(features, "__fspath__"):
        raise ValueError(
            f"{what} must be a (length, channels) array, got {features!r}: the processor does not encode files or sentences; "
            "use shine_hf.MomentRetriever"
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
            f"{what} contain NaN or infinite numbers in row {int(np.argmin(np.isfinite(features).all(axis=1)))}"
        )
    return features


def _normalized(rows: np.ndarray) -> np.ndarray:
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5)


def _pad(arrays: Sequence[np.ndarray | None], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad `(n_i, D)` arrays to `(B, max n_i, D)` with a mask `(B, max n_i)`. `None` becomes a row of padding."""
    length = max((len(array) for array in arrays if array is not None), default=1)
    padded = torch.zeros(len(arrays), length, width)
    mask = torch.zeros(len(arrays), length, dtype=torch.long)
    for row, array in enumerate(arrays):
        if array is not None:
            # Through NumPy, since PyTorch warns about read-only arrays, e.g. from a memory-mapped store.
            padded.numpy()[row, : len(array)] = array
            mask[row, : len(array)] = 1
    return padded, mask
