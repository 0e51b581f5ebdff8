"""`pipeline("video-moment-retrieval", model=…)` for clip and token features.

This file is copied into every pushed model repository, so it only needs transformers. With shine_hf, the pipeline in
`shine_hf.inference.pipeline` replaces it, which also encodes videos and sentences.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .processing_moment_retrieval import MomentRetrievalProcessor
from .windows import find_moments

TASK = "video-moment-retrieval"
_FORWARD_OPTIONS = ("top_k", "threshold", "nms_threshold", "round_to_clip_length", "overlap", "batch_size")
_PREPROCESS_OPTIONS = ("fps", "progress")
_INSTALL = 'pip install "shine-hf[video]", and `import shine_hf` before `pipeline(…)`'


class MomentRetrievalPipeline(Pipeline):
    """
    Find the moments of a video that a query describes.

    ```python
    >>> find = pipeline("video-moment-retrieval", model="PATH_OR_REPOSITORY", trust_remote_code=True)
    >>> find(video=clip_features, query=token_features, top_k=1)
    {"moments": [{"start": 12.5, "end": 18.0, "score": 0.93}], "saliency": [...], "clip_length": 0.5}
    ```

    A video is prepared once for all its queries. A video that is too long for the model is split into overlapping windows.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Here and not in each call, which would interfere with calls in other threads.
        self.model.eval()
        # The configuration records everything that the processor needs.
        self.feature_extractor = self.feature_extractor or MomentRetrievalProcessor.from_config(self.model.config)

    def __call__(self, video: Any = None, query: Any = None, *, text: Any = None, **options) -> Any:
        """
        Find the moments of videos that queries describe.

        Args:
            video: `(T, D)` clip features of the kind that the model was trained on, as an array or tensor. With shine_hf, also a path, a URL,
                a value of a `datasets` Video column, or frames `(T, H, W, 3)` with `fps`. Or a list of videos; or a request
                `{"video": …, "query": …}`; or a list, a generator or a dataset of requests.
            query: For one video, a query or a list of queries. For a list of videos, a query for all of them, or a list with a query or a
                list of queries per video. A query is a sentence (with shine_hf) or `(L, D)` token features.
            text: Another name for `query`.
            top_k (`int`, *optional*), threshold (`float`): Keep the best `top_k` moments with at least this score.
            nms_threshold (`float`, *optional*): IoU above which the worse of two moments is dropped.
            round_to_clip_length (`bool`): Round both ends to the nearest multiple of the clip length.
            window_seconds (`float`, *optional*), overlap (`float`): Length of the windows for a long video, and the share of a window that
                overlaps with the next one.
            batch_size (`int`): Pairs of window and query per forward pass.
            fps (`float`): Frames per second of a video that is given as frames.
            progress (`bool`): Show a progress bar while a video is encoded.

        Returns:
            `{"moments": [{"start", "end", "score"}, …], "saliency": [...], "clip_length": s}` with times in seconds, best moment first, and
            a saliency score per clip. If `query` is a list, a list of results per video; if `video` is a list, a list with an entry per
            video. For a generator or a dataset, a generator.

        Raises:
            FileNotFoundError, ValueError: for a video that cannot be read, an empty query, an unknown option, or a model trained on
                features that cannot be computed here.
        """
        if text is not None and query is not None:
            raise ValueError("query and text are names of the same argument: give only one of them")
        query = text if query is None else query
        # Checked here, so that a wrong option raises in this call and not at the first row of a generator.
        preprocess, forward, postprocess = self._sanitize_parameters(**options)
        parameters = (
            self._preprocess_params | preprocess,
            self._forward_params | forward,
            self._postprocess_params | postprocess,
        )
        if _is_stream(video):
            return self._stream(video, query, parameters)
        requests, is_list = _as_requests(video, query)
        results = self._answer(requests, parameters)
        return results if is_list else results[0]

    def _stream(self, videos: Iterable, query: Any, parameters: tuple) -> Iterator:
        for item in videos:
            yield self._answer(_as_requests(item, query)[0], parameters)[0]

    def _answer(self, requests: list[tuple[Any, Any]], parameters: tuple) -> list:
        """Return the results of `(video, query)` pairs. A video that occurs several times is prepared once."""
        requested = [_as_queries(query) for _, query in requests]
        indices_by_video: dict[Any, list[int]] = {}
        for index, (video, _) in enumerate(requests):
            key = str(video) if isinstance(video, str) or hasattr(video, "__fspath__") else id(video)
            indices_by_video.setdefault(key, []).append(index)
        results: list = [None] * len(requests)
        for indices in indices_by_video.values():
            queries = [query for index in indices for query in requested[index][0]]
            video = requests[indices[0]][0]
            answers = iter(self.run_single((video, queries), *parameters) if queries else ())
            for index in indices:
                queries, is_list = requested[index]
                found = [next(answers) for _ in queries]
                results[index] = found if is_list else found[0]
        return results

    def _sanitize_parameters(self, window_seconds=None, **options):
        known = (*_FORWARD_OPTIONS, "window_seconds", *_PREPROCESS_OPTIONS)
        if unknown := [name for name in options if name not in known]:
            raise ValueError(f"unknown option {', '.join(unknown)}; the options are {', '.join(known)}")
        forward = {name: options[name] for name in _FORWARD_OPTIONS if name in options}
        if window_seconds is not None:
            clip_length = self.model.config.clip_length
            if window_seconds < clip_length:
                raise ValueError(
                    f"window_seconds must be at least the length of a clip, {clip_length} s, got {window_seconds}"
                )
            forward["window_clips"] = round(window_seconds / clip_length)
        return {name: options[name] for name in _PREPROCESS_OPTIONS if options.get(name) is not None}, forward, {}

    def preprocess(
        self, input_: tuple[Any, Sequence], fps: float | None = None, progress: bool = False
    ) -> dict[str, Any]:
        """Encode a video and its queries, unless they are features already."""
        video, queries = input_
        if is_features(video):
            features, duration = as_array(video), None
        else:
            features, duration = self.encode_video(video, fps=fps, progress=progress)
        sentences = [query for query in queries if isinstance(query, str)]
        encoded = iter(self.encode_text(sentences) if sentences else ())
        texts = [next(encoded) if isinstance(query, str) else as_array(query) for query in queries]
        return {"video": features, "texts": texts, "duration": duration}

    def encode_video(
        self, video: Any, fps: float | None = None, progress: bool = False
    ) -> tuple[np.ndarray, float | None]:
        """Return the clip features `(T, D)` of a video, and its duration in seconds if known.

        Raises:
            ValueError: always, since encoding needs shine_hf.
        """
        raise ValueError(
            f"expected clip features, a (T, {self.model.config.video_dim}) array, got {_kind(video)}; to read videos: {_INSTALL}"
        )

    def encode_text(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Return the token features `(L, D)` of each sentence.

        Raises:
            ValueError: always, since encoding needs shine_hf.
        """
        raise ValueError(
            f"expected token features, an (L, {self.model.config.text_dim}) array, got the query {sentences[0]!r}; to encode sentences: {_INSTALL}"
        )

    def _forward(self, input_tensors: dict, **options) -> list[dict]:
        return find_moments(self.model, self.feature_extractor, **input_tensors, **options)

    def postprocess(self, model_outputs: list[dict]) -> list[dict]:
        """Return the results unchanged."""
        return model_outputs


def is_features(value: Any) -> bool:
    """Return whether a value is the features of one video or sentence: an array or tensor with two dimensions."""
    return isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 2


def as_array(features: Any) -> np.ndarray:
    """Return features as an array on the CPU."""
    return features.detach().float().cpu().numpy() if isinstance(features, torch.Tensor) else features


def is_frames(value: Any) -> bool:
    """Return whether a value is the frames of one video: an array or tensor with four dimensions, or a list of images."""
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_image(item) for item in value)
    return getattr(value, "ndim", None) == 4


def _is_image(value: Any) -> bool:
    return hasattr(value, "convert") or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 3)


def _is_stream(video: Any) -> bool:
    """Return whether inputs are iterated over: a generator, or a dataset of PyTorch or `datasets`."""
    is_dataset = isinstance(video, torch.utils.data.Dataset) or hasattr(video, "column_names")
    return isinstance(video, Iterator) or is_dataset


def _is_request(value: Any) -> bool:
    return isinstance(value, Mapping) and "video" in value


def _as_requests(video: Any, query: Any) -> tuple[list[tuple[Any, Any]], bool]:
    """Return `(video, query)` pairs, and whether the caller passed a list of videos."""
    if _is_request(video):
        return [(video["video"], _query_of(video, query))], False
    if isinstance(video, np.ndarray | torch.Tensor) and video.ndim == 3:
        video = list(video)  # A batch of features.
    if not isinstance(video, list | tuple) or is_frames(video):
        return [(video, query)], False
    if any(map(_is_request, video)):
        if not all(map(_is_request, video)):
            raise ValueError("a list must contain either videos or requests with a `video`, not both")
        return [(request["video"], _query_of(request, query)) for request in video], True
    queries = list(query) if isinstance(query, list | tuple) else [query] * len(video)
    if len(queries) != len(video):
        raise ValueError(
            f"{len(video)} videos, but {len(queries)} queries: give one query for all videos, or a query or a list of queries per video"
        )
    return list(zip(video, queries)), True


def _query_of(request: Mapping, query: Any) -> Any:
    """Return the query of a request, under any of its names, or else the query of the call."""
    return next((request[name] for name in ("query", "text") if request.get(name) is not None), query)


def _as_queries(query: Any) -> tuple[list, bool]:
    """Return the queries of one video, and whether the caller passed a list.

    Raises:
        ValueError: for anything that is neither a sentence nor token features.
    """
    is_list = isinstance(query, list | tuple)
    queries = list(query) if is_list else [query]
    for item in queries:
        if not is_features(item) and not (isinstance(item, str) and item.strip()):
            raise ValueError(f"a query must be a sentence, or token features as an (L, D) array; got {_kind(item)}")
    return queries, is_list


def _kind(value: Any) -> str:
    """Return a short description of a value for error messages."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return f"an array of shape {tuple(value.shape)}"
    return repr(value) if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"
