"""[`MomentRetriever`]: find moments in a video in five lines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoModel

from ..encoders.video_source import VideoFrames
from ..modeling.pipeline_moment_retrieval import is_features, is_frames
from .pipeline import VideoMomentRetrievalPipeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Moment:
    """
    A part of a video.

    Args:
        start, end: Times in seconds.
        score: Score from the model, in [0, 1].
    """

    start: float
    end: float
    score: float


@dataclass(frozen=True)
class RetrievalResult:
    """
    The moments and the saliency that a model predicts for one query in one video.

    Args:
        query: The sentence; empty for token features.
        moments: Moments, best first.
        saliency: How well each clip matches the query, unbounded; only the order is meaningful.
        clip_length: Seconds per clip.
        video: The video that was searched, for the film strip of [`plot`].
    """

    query: str
    moments: list[Moment]
    saliency: list[float]
    clip_length: float
    video: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def from_dict(cls, result: Mapping[str, Any], video: Any = None) -> RetrievalResult:
        """Build a result from a dict that [`to_dict`] or the pipeline returned. Other keys are ignored."""
        moments = [Moment(**moment) for moment in result["moments"]]
        return cls(result.get("query", ""), moments, list(result["saliency"]), result["clip_length"], video)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain numbers, lists and strings, e.g. for JSON. The video is left out."""
        return {
            "query": self.query,
            "moments": [asdict(moment) for moment in self.moments],
            "saliency": list(self.saliency),
            "clip_length": self.clip_length,
        }

    def plot(
        self,
        path: str | os.PathLike | None = None,
        *,
        windows: Sequence[Sequence[float]] = (),
        others: Sequence[RetrievalResult] = (),
        max_moments: int = 3,
    ) -> Figure:
        """
        Draw the moments over the frames of the video, and the saliency.

        Args:
            path: File to save the figure to; its extension determines the format.
            windows: Annotated `[start, end]` in seconds, if any.
            others: Results of other queries in the same video, e.g. hard negatives, whose saliency is drawn too.
            max_moments: Maximum number of moments to draw.

        Raises:
            ImportError: without matplotlib (the extra `plots`).
        """
        from ..plots import plot_moments, save_figure

        duration = len(self.saliency) * self.clip_length
        figure = plot_moments(
            self.query,
            [asdict(moment) for moment in self.moments],
            duration_seconds=duration,
            windows=windows,
            frames=_film_strip(self.video, duration),
            saliency=self.saliency,
            negative_saliency={other.query: other.saliency for other in others},
            clip_length_seconds=self.clip_length,
            max_moments=max_moments,
        )
        if path is not None:
            save_figure(figure, path)
        return figure


def _film_strip(video: Any, duration: float) -> list[tuple[float, np.ndarray]]:
    """Return times and frames of a video; none for features, or for frames without a rate."""
    if video is None or is_features(video) or is_frames(video):
        return []
    from ..encoders.video_reader import read_film_strip

    return read_film_strip(video, duration)


class MomentRetriever:
    """
    Find moments in videos.

    ```python
    >>> retriever = MomentRetriever.from_pretrained("user/model")
    >>> retriever.find("kitchen.mp4", "a person opens the fridge").moments[0]
    Moment(start=12.5, end=18.0, score=0.93)
    ```

    Args:
        pipeline: The pipeline that encodes and searches videos. Use `from_pretrained` to build it.
    """

    def __init__(self, pipeline: VideoMomentRetrievalPipeline):
        self.pipeline = pipeline

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike,
        *,
        device: str | int | None = None,
        video_encoder: Any = None,
        text_encoder: Any = None,
        kept_videos: int = 16,
        **model_options: Any,
    ) -> MomentRetriever:
        """
        Load a model.

        Args:
            model: Folder of a saved model, or its name on the Hub.
            device: Where to run, e.g. `"cuda"`; by default a GPU if there is one.
            video_encoder, text_encoder: Specifications (see `shine_hf.encoders`) that replace the ones that the model records.
            kept_videos: Number of recent videos whose features are kept for the next call.
            model_options: Options of `AutoModel.from_pretrained`, e.g. `revision`, `token`, `dtype`, `saliency_weight`.

        Raises:
            OSError: if the model does not exist.
        """
        loaded = AutoModel.from_pretrained(os.fspath(model), **model_options)
        return cls(
            VideoMomentRetrievalPipeline(
                model=loaded,
                device=device,
                video_encoder=video_encoder,
                text_encoder=text_encoder,
                kept_videos=kept_videos,
            )
        )

    def find(
        self, video: Any, query: Any, top_k: int | None = 5, **options: Any
    ) -> RetrievalResult | list[RetrievalResult] | list[list[RetrievalResult]]:
        """
        Find the moments that a query describes.

        Args:
            video: A path, an `http(s)://` or `hf://` address, the bytes of a file, a value of a `datasets` Video column, frames
                `(T, H, W, 3)` with `fps`, or clip features `(T, D)`; or a list of these.
            query: A sentence, or a list of sentences. For a list of videos, one sentence for all, or an entry (a sentence or a list) per video.
            top_k: Number of moments to keep, best first; None for all.
            options: `threshold`, `nms_threshold`, `round_to_clip_length`, `window_seconds`, `overlap`, `batch_size`, `fps`, `progress` of
                [`~shine_hf.inference.pipeline.VideoMomentRetrievalPipeline`].

        Returns:
            A [`RetrievalResult`]; a list if `query` is a list, and a list with an entry per video if `video` is a list.

        Raises:
            FileNotFoundError, ValueError: for a video that cannot be read, an empty query, or a model trained on features that cannot be
                computed here.
        """
        if is_frames(video) and options.get("fps"):
            video = VideoFrames(video, options.pop("fps"))  # So that the result can draw them.
        found = self.pipeline(video=video, query=query, top_k=top_k, **options)
        if not isinstance(video, list | tuple) or is_frames(video):
            return _as_results(found, video, query)
        queries = query if isinstance(query, list | tuple) else [query] * len(video)
        return [_as_results(*entry) for entry in zip(found, video, queries)]


def _as_results(found: Any, video: Any, query: Any) -> Any:
    if isinstance(found, list):
        return [_as_results(*entry) for entry in zip(found, [video] * len(found), query)]
    return RetrievalResult.from_dict(found | {"query": query if isinstance(query, str) else ""}, video)
