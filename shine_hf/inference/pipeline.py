"""`pipeline("video-moment-retrieval", model=…)`: a video file and a query in, moments out. Importing this module registers the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..encoders import is_text_encoder_spec, is_video_encoder_spec, text_encoder, video_encoder
from ..encoders.video_reader import video_duration
from ..encoders.video_source import open_video
from ..modeling import MomentRetrievalProcessor
from .windows import find_moments

TASK = "video-moment-retrieval"

# What `open_video` takes, or clip features.
Video = Any


class VideoMomentRetrievalPipeline(Pipeline):
    """
    Finds the moments of a video that a query describes.

    ```python
    >>> find = pipeline("video-moment-retrieval", model="PATH_OR_REPOSITORY")
    >>> find(video="kitchen.mp4", query="a person opens the fridge", top_k=1)
    {"moments": [{"start": 12.5, "end": 18.0, "score": 0.93}], "saliency": [...], "clip_length": 0.5}
    ```

    Video and query are encoded as the model's configuration records, so as in training. A video is decoded and encoded once for all its
    queries; only its features stay in memory. One longer than the model takes goes through overlapping windows.

    Args:
        video_encoder, text_encoder (`str`, *optional*): Specifications (see `shine_hf.encoders`) instead of those of the configuration,
            or encoders themselves.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, video_encoder=None, text_encoder=None, **kwargs):
        super().__init__(*args, **kwargs)
        # Once and for all: switched for each call, and back, it would be switched under another thread's call.
        self.model.eval()
        # The configuration records all that the processor needs.
        self.feature_extractor = self.feature_extractor or MomentRetrievalProcessor.from_config(self.model.config)
        self._video_encoder = video_encoder or self.model.config.video_encoder
        self._text_encoder = text_encoder or self.model.config.text_encoder

    def __call__(self, video: Video | Sequence[Video], query: str | Sequence | None = None, **kwargs) -> Any:
        """
        Args:
            video: A path, an `http(s)://` address, the bytes of a file, a value of a `datasets` Video column, or `VideoFrames(frames, fps)`;
                or `(T, D)` clip features of the kind the model was trained on; or a list of them.
            query: For one video a query, or a list of queries. For a list of videos a query to ask of each, or a list with an entry
                per video: a query, or a list of queries.
            top_k (`int`, *optional*), score_threshold (`float`): Keep the best `top_k` moments with at least this score.
            nms_threshold (`float`, *optional*): IoU above which the worse of two moments goes.
            round_to_clip_length (`bool`): Move both ends to the nearest multiple of the clip length.
            window_seconds (`float`, *optional*), overlap (`float`): Length of the windows of a long video, and the share of a window that the
                next one repeats.
            batch_size (`int`): Pairs of window and query per forward pass.
            progress (`bool`): Show a bar while a video is encoded.

        Returns:
            `{"moments": [{"start", "end", "score"}, …], "saliency": [...], "clip_length": s}` with times in seconds, best moment first, and a
            saliency score per clip; in a list where `query` is a list, and in a list where `video` is one.

        Raises:
            FileNotFoundError, ValueError: for a video that cannot be read, an empty query, or a model trained on features that cannot be
                computed here.
        """
        videos = list(video) if isinstance(video, list | tuple) else [video]
        if isinstance(video, list | tuple):
            queries = [query] * len(videos) if isinstance(query, str) else list(query or ())
        else:
            queries = [query]
        if len(videos) != len(queries):
            raise ValueError(
                f"{len(videos)} videos, but {len(queries)} queries: give one query for all videos, or an entry (a query or a list) per video"
            )
        for asked in queries:
            for text in [asked] if isinstance(asked, str) or asked is None else asked:
                if not isinstance(text, str) or not text.strip():
                    raise ValueError(f"a query must be a sentence, got {text!r}")
        preprocess, forward, postprocess = self._sanitize_parameters(**kwargs)
        parameters = (
            self._preprocess_params | preprocess,
            self._forward_params | forward,
            self._postprocess_params | postprocess,
        )

        # A video that is named several times is encoded once.
        asked_of: dict[Any, list[int]] = {}
        for index, item in enumerate(videos):
            asked_of.setdefault(str(item) if isinstance(item, str | Path) else id(item), []).append(index)
        results: list = [None] * len(videos)
        for indices in asked_of.values():
            per_index = [[queries[i]] if isinstance(queries[i], str) else list(queries[i]) for i in indices]
            texts = [text for texts in per_index for text in texts]
            answers = iter(self.run_single((videos[indices[0]], texts), *parameters) if texts else ())
            for i, texts in zip(indices, per_index):
                of_video = [next(answers) for _ in texts]
                results[i] = of_video[0] if isinstance(queries[i], str) else of_video
        return results if isinstance(video, list | tuple) else results[0]

    def _sanitize_parameters(self, progress=None, window_seconds=None, **kwargs):
        forward = {name: kwargs.pop(name) for name in _FORWARD_OPTIONS if name in kwargs}
        if kwargs:
            raise ValueError(
                f"unknown option {', '.join(kwargs)}; there are {', '.join(_FORWARD_OPTIONS)}, window_seconds and progress"
            )
        if window_seconds is not None:
            clip_length = self.model.config.clip_length
            if window_seconds < clip_length:
                raise ValueError(
                    f"window_seconds must hold at least one clip of {clip_length} s, got {window_seconds}"
                )
            forward["window_clips"] = round(window_seconds / clip_length)
        return {} if progress is None else {"progress": progress}, forward, {}

    def preprocess(self, input_: tuple[Video, Sequence[str]], progress: bool = False) -> dict:
        """Encode a video and its queries."""
        video, queries = input_
        duration = None
        if not (isinstance(video, np.ndarray) and video.ndim == 2):
            clip_length = self.feature_extractor.clip_length
            encoder = self.video_encoder
            with open_video(video) as source:
                video = encoder.encode_video(source, clip_length, progress=progress)
                duration = video_duration(source)
        return {"video": video, "texts": self.text_encoder.encode(queries), "duration": duration}

    def _forward(self, input_tensors: dict, **options) -> list[dict]:
        return find_moments(self.model, self.feature_extractor, **input_tensors, **options)

    def postprocess(self, model_outputs: list[dict]) -> list[dict]:
        return model_outputs

    @property
    def video_encoder(self):
        """The encoder of raw video, loaded when it is first needed.

        Raises:
            ValueError: where the model was trained on features that no encoder here computes.
        """
        if self._video_encoder is None or isinstance(self._video_encoder, str):
            spec = self._video_encoder
            if spec is None or not is_video_encoder_spec(spec):
                raise ValueError(
                    f"this model was trained on {f'the features {spec!r}' if spec else 'features of unknown origin'}, which cannot be computed "
                    "from a video file here. Give the clip features as a (T, D) array instead of the file, "
                    'or name the encoder they come from: pipeline(…, video_encoder="clip:openai/clip-vit-base-patch32")'
                )
            self._video_encoder = video_encoder(spec, device=str(self.device))
        return self._video_encoder

    @property
    def text_encoder(self):
        """The encoder of queries, loaded when it is first needed.

        Raises:
            ValueError: where the model was trained on stored text features.
        """
        if self._text_encoder is None or isinstance(self._text_encoder, str):
            spec = self._text_encoder
            if spec is None or not is_text_encoder_spec(spec):
                raise ValueError(
                    f"this model was trained on {f'the text features {spec!r}' if spec else 'text features of unknown origin'}; name the encoder "
                    'they come from: pipeline(…, text_encoder="clip:openai/clip-vit-base-patch32")'
                )
            self._text_encoder = text_encoder(spec, device=str(self.device))
        return self._text_encoder


_FORWARD_OPTIONS = ("top_k", "score_threshold", "nms_threshold", "round_to_clip_length", "overlap", "batch_size")

PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=VideoMomentRetrievalPipeline, pt_model=AutoModel, type="multimodal"
)
# By this mark `save_pretrained` would copy this file beside the model, and loading would then ask for `trust_remote_code`; the package that
# reads the video is needed anyway.
del VideoMomentRetrievalPipeline._registered_impl
