"""Read the frames of a video at the sampled times of its clips with PyAV, with few frames in memory at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from math import inf
from typing import Any

import numpy as np

from .container import Survey, durations_agree, open_container, packets_of, pixel_aspect, survey_packets, to_seconds
from .sampling import Sampler, Sampling, import_av
from .video_clock import BestEffort, Clock, Frame
from .video_source import VideoFile, VideoFrames, open_video

logger = logging.getLogger(__name__)

_SMALL_PICTURE_PIXELS = 320 * 240


def video_duration(video: Any) -> float:
    """Return the length of a video in seconds, from the time stamps of its frames.

    No frame is decoded if the time stamps are in order; otherwise all are.

    Args:
        video: See [`~shine_hf.encoders.video_source.open_video`].

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that is not a video.
        ImportError: without PyAV.
    """
    with open_video(video) as source:
        if isinstance(source, VideoFrames):
            return len(source) / source.fps
        if source.duration is None:
            survey = survey_packets(source)
            source.duration = survey.duration
            if source.duration is None:
                deque(_timed_frames(source), maxlen=0)
        if source.duration is None:
            raise ValueError(_nothing_decoded(source))
        return source.duration


def read_clips(
    video: Any, clip_length: float, frames_per_clip: int, frame_size: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """Yield `(F, H, W, 3)` uint8 RGB per clip: the frames that are on screen at evenly spaced times; see [`read_samples`].

    Args:
        video: See [`~shine_hf.encoders.video_source.open_video`].
        clip_length: Seconds per clip.
        frames_per_clip: Frames per clip (F).
        frame_size: `(height, width)` to scale the frames to; by default the size of the first frame.

    Raises:
        See [`read_samples`].
    """
    for (clip,) in read_samples(video, clip_length, [Sampling(frames_per_clip, frame_size)]):
        yield clip


def read_samples(video: Any, clip_length: float, samplings: Sequence[Sampling]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield each clip of a video in several samplings, decoding the video once.

    A clip exists if the first sampled time of every sampling is within the video, and every video has at least one clip. Times after the end
    give the last frame. Frames are upright and have the aspect ratio given in the file's metadata. If there are several video tracks, the default
    one is read, or the largest. A damaged file is decoded as far as possible, and a warning says how much is missing.

    Args:
        video: See [`~shine_hf.encoders.video_source.open_video`]. The format is detected from the content, not from the suffix.
        clip_length: Seconds per clip.
        samplings: What to read of each clip.

    Yields:
        One `(F, H, W, 3)` uint8 RGB array per sampling, for each clip.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that is empty, not a video, or without any decodable frame; for a clip length that is not positive.
        ImportError: without PyAV.
    """
    if not 0 < clip_length < inf or any(sampling.frames < 1 for sampling in samplings):
        frames = ", ".join(str(sampling.frames) for sampling in samplings)
        raise ValueError(f"clip_length and frames_per_clip must be positive, got {clip_length} and {frames}")
    with open_video(video) as source:
        scalers = {}
        samplers = [Sampler(sampling, clip_length, scalers) for sampling in samplings]
        duration = None
        for begin, end, shown in _timed_frames(source):
            for sampler in samplers:
                sampler.show(begin, shown)
            duration = end
            while all(sampler.clips for sampler in samplers):
                yield tuple(sampler.clips.popleft() for sampler in samplers)
        if duration is None:
            raise ValueError(_nothing_decoded(source))
        for sampler in samplers:
            sampler.finish(duration)
        while all(sampler.clips for sampler in samplers):
            yield tuple(sampler.clips.popleft() for sampler in samplers)


def frame_size(video: Any, max_height: int) -> tuple[int, int]:
    """Return the display size `(height, width)` of a video, scaled down to at most `max_height` pixels; both even, as H.264 requires.

    Raises:
        See [`read_samples`].
    """
    height, width = next(read_clips(video, 1.0, 1)).shape[1:3]
    scale = min(1.0, max_height / height)
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (height, width))


def read_film_strip(
    video: Any, duration: float, frames: int = 24, max_height: int = 240
) -> list[tuple[float, np.ndarray]]:
    """Return up to `frames` evenly spaced times of a video of `duration` seconds, each with its frame `(H, W, 3)` uint8 RGB.

    Raises:
        See [`read_samples`].
    """
    step = duration / frames
    with open_video(video) as source:
        clips = islice(read_clips(source, step, 1, frame_size(source, max_height)), frames)
        return [((index + 0.5) * step, clip[0]) for index, clip in enumerate(clips)]


def _timed_frames(source: VideoFile | VideoFrames) -> Iterator[tuple[float, float, tuple[Any, float]]]:
    """Yield `(begin, end, (frame, pixel aspect ratio))`, in seconds from the start of the video."""
    if isinstance(source, VideoFrames):
        av = import_av()
        for index, pixels in enumerate(source):
            yield index / source.fps, (index + 1) / source.fps, (av.VideoFrame.from_ndarray(pixels, "rgb24"), 1.0)
        return
    survey = survey_packets(source)
    clock, decoder, end = Clock(survey.interval), _Decoder(), None
    with open_container(source) as (container, stream):
        # Decoding small frames is faster than starting threads.
        stream.thread_type = "AUTO" if stream.width * stream.height > _SMALL_PICTURE_PIXELS else "NONE"
        aspect = pixel_aspect(stream)
        frames = decoder.frames(container, stream)
        first = next(frames, None)
        if first is None:
            return
        for begin, end, frame in clock.run(_chain(first, frames), _missing_opening(survey, first, decoder)):
            yield begin, end, (frame, aspect)
    source.duration = end
    _warn(source, survey, clock, decoder)


def _chain(first: Frame, rest: Iterator[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


def _missing_opening(survey: Survey, first: Frame, decoder: _Decoder) -> float:
    """Return the seconds that are missing before the first decodable frame, if the packets before it are damaged."""
    if first.stamp is None or survey.earliest is None:
        return 0.0
    missing = first.stamp - survey.earliest
    return missing if 1.0 <= missing <= 2 * decoder.packets * survey.interval + 1.0 else 0.0


class _Decoder:
    """Decode the frames of a stream in presentation order, and count damaged packets."""

    def __init__(self):
        self.packets = self.damaged = 0

    def frames(self, container, stream) -> Iterator[Frame]:
        choose = BestEffort()
        for packet in packets_of(container, stream):
            try:
                self.packets += 1
                decoded = packet.decode() if packet is not None else ()
            except import_av().error.FFmpegError:
                # An empty packet repeats the previous frame.
                self.damaged += packet.size > 0
                continue
            self.damaged += packet is None
            for frame in decoded:
                stamp = choose(frame.pts, frame.dts)
                yield Frame(
                    None if stamp is None else to_seconds(stamp, frame.time_base),
                    to_seconds(frame.duration, frame.time_base) if frame.duration else None,
                    frame,
                )


def _warn(source: VideoFile, survey: Survey, clock: Clock, decoder: _Decoder) -> None:
    seconds, stated = source.duration, survey.stated
    if clock.ignored_jumps:
        time, step = clock.ignored_jumps[0]
        logger.warning(
            "%s: the clock of the file jumps by %+.1f s at %.1f s, but does not continue from there; the jump is ignored (%d such jumps)",
            source.name, step, time, len(clock.ignored_jumps),
        )  # fmt: skip
    if stated and not durations_agree(seconds, stated):
        hint = "the rest is missing" if seconds < stated and not clock.ignored_jumps else "using the frames"
        logger.warning(
            "%s: the header says %.1f s, but the decodable frames last %.1f s; %s",
            source.name, stated, seconds, hint,
        )  # fmt: skip
    elif decoder.damaged:
        logger.warning(
            "%s: %d of %d packets could not be decoded and were skipped", source.name, decoder.damaged, decoder.packets
        )


def _nothing_decoded(source: VideoFile | VideoFrames) -> str:
    return f"{getattr(source, 'name', 'the frames')}: no frame could be decoded; the file is damaged or contains no pictures"
