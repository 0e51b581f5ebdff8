"""`pipeline("video-moment-retrieval", model=…)`: a video and a sentence in, moments out."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..encoders import is_text_encoder_spec, is_video_encoder_spec, text_encoder, video_encoder
from ..encoders.video_reader import video_duration
from ..encoders.video_source import VideoFrames, open_video
from ..modeling.pipeline_moment_retrieval import TASK, MomentRetrievalPipeline, is_frames

__all__ = ["TASK", "VideoMomentRetrievalPipeline"]


class VideoMomentRetrievalPipeline(MomentRetrievalPipeline):
    """
    Find the moments of a video that a query describes.

    ```python
    >>> find = pipeline("video-moment-retrieval", model="PATH_OR_REPOSITORY")
    >>> find(video="kitchen.mp4", query="a person opens the fridge", top_k=1)
    {"moments": [{"start": 12.5, "end": 18.0, "score": 0.93}], "saliency": [...], "clip_length": 0.5}
    ```

    Videos and queries are encoded with the encoders that the model's configuration records, as in training. For the arguments and results of a
    call, see [`MomentRetrievalPipeline`]. A video may be anything that [`open_video`] opens.

    Args:
        video_encoder, text_encoder (`str`, *optional*): Encoders, or their specifications (see `shine_hf.encoders`), that replace the ones in
            the configuration.
        kept_videos (`int`): Number of recent videos whose features are kept for the next call.
    """

    def __init__(self, *args, video_encoder: Any = None, text_encoder: Any = None, kept_videos: int = 0, **kwargs):
        super().__init__(*args, **kwargs)
        self._video_encoder = video_encoder or self.model.config.video_encoder
        self._text_encoder = text_encoder or self.model.config.text_encoder
        self._kept_videos = kept_videos
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple, tuple[np.ndarray, float | None]] = OrderedDict()

    def encode_video(
        self, video: Any, fps: float | None = None, progress: bool = False
    ) -> tuple[np.ndarray, float | None]:
        """Return clip features `(T, D)` of a video, and its duration in seconds if it is known more precisely than from its clips.

        Args:
            video: Anything that [`open_video`] opens, or frames.
            fps: Frames per second, required for frames.
            progress: Show a progress bar.

        Raises:
            FileNotFoundError, ValueError: for a video that cannot be read, frames without `fps`, or a model trained on features that cannot
                be computed here.
        """
        encoder = self.video_encoder
        if is_frames(video):
            if fps is None:
                raise ValueError("frames need their rate in frames per second, e.g. fps=25")
            video = VideoFrames(video, fps)
        key = self._kept_videos and _identity(video)
        with self._lock:
            if key and key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        clip_length = self.feature_extractor.clip_length
        with open_video(video) as source:
            features = encoder.encode_video(source, clip_length, progress=progress)
            duration = video_duration(source)
        if duration <= (len(features) - 1) * clip_length:
            duration = None  # The header is wrong: there are more frames than it declares.
        if key:
            with self._lock:
                self._kept[key] = features, duration
                while len(self._kept) > self._kept_videos:
                    self._kept.popitem(last=False)
        return features, duration

    def encode_text(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Return token features `(L, D)` of each sentence."""
        return self.text_encoder.encode(sentences)

    @property
    def video_encoder(self) -> Any:
        """The video encoder, loaded on first use.

        Raises:
            ValueError: if the model was trained on features that none of our encoders computes.
        """
        if self._video_encoder is None or isinstance(self._video_encoder, str):
            spec = self._video_encoder
            if spec is None or not is_video_encoder_spec(spec):
                raise ValueError(
                    f"this model was trained on {f'the features {spec!r}' if spec else 'features of unknown origin'}, which cannot be "
                    "computed from a video here. Give the clip features as a (T, D) array instead of the video, "
                    'or name the encoder they come from: video_encoder="clip:openai/clip-vit-base-patch32"'
                )
            self._video_encoder = video_encoder(spec, device=str(self.device))
        return self._video_encoder

    @property
    def text_encoder(self) -> Any:
        """The text encoder, loaded on first use.

        Raises:
            ValueError: if the model was trained on stored text features.
        """
        if self._text_encoder is None or isinstance(self._text_encoder, str):
            spec = self._text_encoder
            if spec is None or not is_text_encoder_spec(spec):
                raise ValueError(
                    f"this model was trained on {f'the text features {spec!r}' if spec else 'text features of unknown origin'}. Give the "
                    "token features as an (L, D) array instead of the sentence, or name the encoder they come from: "
                    'text_encoder="clip:openai/clip-vit-base-patch32"'
                )
            self._text_encoder = text_encoder(spec, device=str(self.device))
        return self._text_encoder


def _identity(video: Any) -> tuple | None:
    """Return a key that identifies a video and changes with its content; None if that would be expensive."""
    if isinstance(video, str) and "://" in video:
        return ("address", video)
    if isinstance(video, str | os.PathLike):
        try:
            stat = os.stat(video)
        except OSError:
            return None
        return ("file", os.path.realpath(video), stat.st_size, stat.st_mtime_ns)
    if isinstance(video, bytes):
        return ("bytes", hashlib.sha256(video).digest())
    if isinstance(video, Mapping):
        return _identity(video["bytes"] if video.get("bytes") is not None else video.get("path"))
    if isinstance(video, VideoFrames) and isinstance(video.frames, np.ndarray):
        frames = np.ascontiguousarray(video.frames)
        return ("frames", video.fps, frames.shape, frames.dtype.str, hashlib.sha256(frames.data).digest())
    return None
