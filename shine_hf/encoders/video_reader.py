"""Frames of videos at the times that clips need them, through PyAV, a few frames in memory at a time."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from .video_clock import BestEffort, Clock, Frame, usual_interval
from .video_source import VideoFile, VideoFrames, open_video

logger = logging.getLogger(__name__)

# A header may promise a little more or less than the frames hold.
_TOLERATED_SHARE, _TOLERATED_SECONDS = 0.05, 0.5
# FFmpeg opens these, but they are lists of other files, still images, or text as an animation.
_NO_VIDEO_FORMATS = ("hls", "concat", "dash", "image2", "tty", "bin", "xbin", "adf", "idf")
_SMALL_PICTURE_PIXELS = 320 * 240
_DEFAULT_FRAME_SECONDS = 0.04


def import_av():
    """Return PyAV.

    Raises:
        ImportError: where it is missing; says which extra brings it.
    """
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise ImportError('videos are read and written with PyAV: pip install "shine-hf[video]"') from error
    return av


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are read, and how they are scaled.

    Clip c takes the times `(c + (i + 0.5) / frames) * clip_length` from the start of the picture, and of each the frame that is on screen
    then, so that a variable frame rate is right.

    Args:
        frames: Times per clip (F).
        size: `(height, width)` to scale frames to; by default that of the first frame as it is shown.
        short_side: Scale the shorter side to this instead and keep the proportions; the longer side is rounded down.
        crop: `(height, width)` to cut from the middle after scaling.
        interpolation: `"AREA"`, `"BILINEAR"` or `"BICUBIC"`, by FFmpeg's swscale.
        strictly_before: Where a frame begins exactly at one of the times, take the one before it, as FFmpeg's `fps` filter does.
    """

    frames: int
    size: tuple[int, int] | None = None
    short_side: int | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "AREA"
    strictly_before: bool = False


def video_duration(video: Any) -> float:
    """Return the length of a video in seconds, by the time stamps of its frames.

    Where these are in order no frame is decoded; otherwise all are.

    Args:
        video: As of [`~shine_hf.encoders.video_source.open_video`].

    Raises:
        FileNotFoundError: for a missing file. ValueError: for what is not a video. ImportError: without PyAV.
    """
    with open_video(video) as source:
        if isinstance(source, VideoFrames):
            return len(source) / source.fps
        if source.duration is None:
            survey = _survey(source)
            source.duration = survey.duration
            if source.duration is None:
                deque(_timed_frames(source), maxlen=0)
        if source.duration is None:
            raise ValueError(_nothing_decoded(source))
        return source.duration


def read_clips(
    video: Any, clip_length: float, frames_per_clip: int, frame_size: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """Yield the frames that are on screen at evenly spaced times of each clip, `(F, H, W, 3)` uint8 RGB (see [`read_samples`]).

    Args:
        video: As of [`~shine_hf.encoders.video_source.open_video`].
        clip_length: Seconds per clip.
        frames_per_clip: Times per clip (F).
        frame_size: `(height, width)` to scale the frames to; `None` keeps that of the first frame.

    Raises:
        As [`read_samples`].
    """
    for (clip,) in read_samples(video, clip_length, [Sampling(frames_per_clip, frame_size)]):
        yield clip


def read_samples(video: Any, clip_length: float, samplings: Sequence[Sampling]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield each clip of a video in several samplings, decoding it once.

    A clip exists where the first time of every sampling lies within the video (a video has at least one clip); times after the end show the
    last frame. Frames are upright and in the proportions in which they are shown, as the file's metadata says. Of several video tracks the
    default one is read, or the largest.

    Args:
        video: As of [`~shine_hf.encoders.video_source.open_video`]. The content of a file decides, not its extension.
        clip_length: Seconds per clip.
        samplings: What to read of each clip.

    Yields:
        For each clip one `(F, H, W, 3)` uint8 RGB array per sampling.

    Raises:
        FileNotFoundError: for a missing file. ValueError: for a file that is empty, not a video, or without a frame that can be decoded.
        ImportError: without PyAV. What is left of a damaged file is used, and a warning says how much.
    """
    if clip_length <= 0 or any(sampling.frames < 1 for sampling in samplings):
        frames = ", ".join(str(sampling.frames) for sampling in samplings)
        raise ValueError(f"clip_length and frames_per_clip must be positive, got {clip_length} and {frames}")
    with open_video(video) as source:
        scalers = {}
        samplers = [_Sampler(sampling, clip_length, scalers) for sampling in samplings]
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
    """Return `(height, width)` of the picture as it is shown, scaled down to at most `max_height` pixels; both even, as H.264 wants them.

    Raises:
        As [`read_samples`].
    """
    height, width = next(read_clips(video, 1.0, 1)).shape[1:3]
    scale = min(1.0, max_height / height)
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (height, width))


def read_film_strip(
    video: Any, duration: float, frames: int = 24, max_height: int = 240
) -> list[tuple[float, np.ndarray]]:
    """Return evenly spaced times of a video of `duration` seconds, each with its frame `(H, W, 3)` uint8 RGB; at most `frames` of them.

    Raises:
        As [`read_samples`].
    """
    step = duration / frames
    with open_video(video) as source:
        clips = islice(read_clips(source, step, 1, frame_size(source, max_height)), frames)
        return [((index + 0.5) * step, clip[0]) for index, clip in enumerate(clips)]


def scale_clips(clips: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Scale and crop `(N, F, H, W, 3)` uint8 frames as a sampling says; frames that it read itself stay as they are."""
    if clips.shape[2:4] == (sampling.crop or sampling.size) or not (sampling.size or sampling.short_side):
        return clips
    av, to_rgb = import_av(), _ToRgb(sampling)
    frames = (av.VideoFrame.from_ndarray(frame, "rgb24") for frame in clips.reshape(-1, *clips.shape[2:]))
    scaled = np.stack([to_rgb((frame, 1.0)) for frame in frames])
    return scaled.reshape(*clips.shape[:2], *scaled.shape[1:])


class _Sampler:
    """Collects the clips of one sampling while frames pass by."""

    def __init__(self, sampling: Sampling, clip_length: float, scalers: dict):
        self.sampling, self.step = sampling, clip_length / sampling.frames
        # Samplings that differ in their times only share the scaled frames.
        geometry = (sampling.size, sampling.short_side, sampling.crop, sampling.interpolation)
        self.to_rgb = scalers.setdefault(geometry, _ToRgb(sampling))
        self.sampled, self.shown = 0, None
        self.clip: list[np.ndarray] = []
        self.clips: deque[np.ndarray] = deque()

    def _precedes(self, time: float) -> bool:
        """Whether the next time to sample lies before a moment at which the picture changes."""
        due = (self.sampled + 0.5) * self.step
        # A tie within what clocks of files resolve.
        return due <= time + 1e-6 if self.sampling.strictly_before else due < time

    def show(self, begin: float, frame: Any) -> None:
        # Frames between two sample times are decoded, but never converted.
        while self.shown is not None and self._precedes(begin):
            self._take()
        self.shown = frame

    def finish(self, duration: float) -> None:
        while self._precedes(duration) or self.sampled == 0 or self.clip:
            self._take()

    def _take(self) -> None:
        self.clip.append(self.to_rgb(self.shown))
        self.sampled += 1
        if len(self.clip) == self.sampling.frames:
            self.clips.append(np.stack(self.clip))
            self.clip = []


class _ToRgb:
    """Decoded frames as `(H, W, 3)` uint8, upright and in their proportions, all of the size that is asked for or else of that of the first."""

    def __init__(self, sampling: Sampling):
        self.sampling, self.size = sampling, sampling.size
        # One for all frames: setting a scaler up takes longer than scaling a small frame.
        self.reformatter = import_av().video.reformatter.VideoReformatter()
        self.last = None, None

    def __call__(self, shown: tuple[Any, float]) -> np.ndarray:
        if self.last[0] is not shown:
            self.last = shown, self._convert(*shown)
        return self.last[1]

    def _convert(self, frame: Any, pixel_aspect: float) -> np.ndarray:
        turns = round(frame.rotation / 90) % 4
        if self.size is None:
            height, width = frame.height, max(1, round(frame.width * pixel_aspect))
            self.size = self._scaled((width, height) if turns % 2 else (height, width))
        height, width = self.size[::-1] if turns % 2 else self.size
        rgb = self.reformatter.reformat(
            frame, width, height, "rgb24", interpolation=self.sampling.interpolation, threads=1
        )
        image = np.rot90(rgb.to_ndarray(), turns)
        if crop := self.sampling.crop:
            top, left = (max(0, (side - kept) // 2) for side, kept in zip(image.shape, crop))
            image = image[top : top + crop[0], left : left + crop[1]]
        return np.ascontiguousarray(image)

    def _scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        if short := self.sampling.short_side:
            return tuple(max(1, side * short // min(size)) for side in size)
        return size


@dataclass(frozen=True)
class _Survey:
    """What the packets of a file say without decoding: the times of the frames, and what the header states."""

    interval: float
    earliest: float | None
    duration: float | None
    """Seconds, where the time stamps are in order; None where only decoding tells."""
    stated: float | None
    """What the header states of the picture; where it states one length for all tracks, only if no other track explains it."""


def _survey(source: VideoFile) -> _Survey:
    with _opened(source) as (container, stream):
        stamps, decoding, ends, last, count = [], [], {}, (float("-inf"), 0.0), 0
        for packet in _packets(container, *container.streams.video, *container.streams.audio):
            if packet is None or not packet.size or packet.pts is None or packet.is_discard:
                count += packet is not None and packet.size > 0 and packet.stream is stream
                continue
            stamp, length = float(packet.pts * packet.time_base), float((packet.duration or 0) * packet.time_base)
            ends[packet.stream.index] = max(stamp + length, ends.get(packet.stream.index, stamp))
            if packet.stream is stream:
                count += 1
                last = max(last, (stamp, length))
                stamps.append(stamp)
                decoding.append(stamp if packet.dts is None else float(packet.dts * packet.time_base))
        rate_interval = float(1 / stream.average_rate) if stream.average_rate else _DEFAULT_FRAME_SECONDS
        interval = usual_interval(stamps, rate_interval) or rate_interval
        jump, duration = Clock(interval).jump, None
        is_steady = len(stamps) == count and np.all(np.diff(decoding) >= 0) and np.all(np.diff(sorted(stamps)) <= jump)
        if stamps and is_steady:
            duration = last[0] - min(stamps) + (last[1] if 0 < last[1] <= jump else interval)
        elif not stamps and count:
            duration = count * rate_interval
        return _Survey(interval, min(stamps, default=None), duration, _stated_duration(container, stream, ends))


def _stated_duration(container, stream, ends: dict[int, float]) -> float | None:
    """Return the length of the picture in seconds by the header.

    Where the header states one length for the entire file, it may be the length of the sound, and in some formats the time of the last frame
    on a clock that was running before the first.
    """
    if container.format.flags & import_av().format.Flags.no_timestamps.value:
        return None  # A bare stream has no header; FFmpeg guesses from the bit rate.
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if not container.duration or container.start_time:
        return None
    stated = container.duration / 1e6
    others = [end for index, end in ends.items() if index != stream.index]
    return None if any(_agree(end, stated) for end in others) else stated


def _agree(seconds: float, stated: float) -> bool:
    return abs(seconds - stated) <= max(seconds, stated) * _TOLERATED_SHARE + _TOLERATED_SECONDS


def _timed_frames(source: VideoFile | VideoFrames) -> Iterator[tuple[float, float, tuple[Any, float]]]:
    """Yield `(begin, end, (frame, aspect of its pixels))` in seconds from the start of the picture."""
    if isinstance(source, VideoFrames):
        av = import_av()
        for index, pixels in enumerate(source):
            yield index / source.fps, (index + 1) / source.fps, (av.VideoFrame.from_ndarray(pixels, "rgb24"), 1.0)
        return
    survey = _survey(source)
    clock, decoder, end = Clock(survey.interval), _Decoder(), None
    with _opened(source) as (container, stream):
        # Small pictures are decoded faster than threads are started.
        stream.thread_type = "AUTO" if stream.width * stream.height > _SMALL_PICTURE_PIXELS else "NONE"
        aspect = _pixel_aspect(stream)
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


def _missing_opening(survey: _Survey, first: Frame, decoder: _Decoder) -> float:
    """Return the seconds before the first frame that could be decoded, where packets before it are damaged: the clock was running."""
    if first.stamp is None or survey.earliest is None:
        return 0.0
    missing = first.stamp - survey.earliest
    return missing if 1.0 <= missing <= 2 * decoder.packets * survey.interval + 1.0 else 0.0


class _Decoder:
    """The frames of a stream in the order of presentation, with what went wrong."""

    def __init__(self):
        self.packets = self.damaged = 0

    def frames(self, container, stream) -> Iterator[Frame]:
        choose = BestEffort()
        for packet in _packets(container, stream):
            try:
                self.packets += 1
                decoded = packet.decode() if packet is not None else ()
            except import_av().error.FFmpegError:
                # An empty packet repeats the frame before it.
                self.damaged += packet.size > 0
                continue
            self.damaged += packet is None
            for frame in decoded:
                stamp = choose(frame.pts, frame.dts)
                yield Frame(
                    None if stamp is None else float(stamp * frame.time_base),
                    float(frame.duration * frame.time_base) if frame.duration else None,
                    frame,
                )


def _packets(container, *streams) -> Iterator[Any]:
    """Yield the packets of streams; None for one that cannot be read."""
    packets = container.demux(*streams)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except import_av().error.FFmpegError:
            yield None


def _warn(source: VideoFile, survey: _Survey, clock: Clock, decoder: _Decoder) -> None:
    seconds, stated = source.duration, survey.stated
    if clock.ignored_jumps:
        time, step = clock.ignored_jumps[0]
        logger.warning(
            "%s: the clock of the file jumps by %+.1f s at %.1f s and does not go on from there; the jump is not counted (%d such jumps)",
            source.name, step, time, len(clock.ignored_jumps),
        )  # fmt: skip
    if stated and not _agree(seconds, stated):
        hint = "the rest is missing" if seconds < stated and not clock.ignored_jumps else "the frames are believed"
        logger.warning(
            "%s: the header promises %.1f s, but the frames that can be decoded make %.1f s; %s",
            source.name, stated, seconds, hint,
        )  # fmt: skip
    elif decoder.damaged:
        logger.warning(
            "%s: %d of %d packets could not be decoded and were skipped", source.name, decoder.damaged, decoder.packets
        )


def _nothing_decoded(source: VideoFile) -> str:
    return f"{source.name}: not one frame could be decoded; the file is damaged or holds no pictures"


def _pixel_aspect(stream) -> float:
    """Return the width of a pixel divided by its height, 1 where the file states none or nonsense."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return ratio if 0.1 <= ratio <= 10 else 1.0


@contextlib.contextmanager
def _opened(source: VideoFile) -> Iterator[tuple[Any, Any]]:
    """Yield the container of a file and its main video stream."""
    av = import_av()
    source.file.seek(0)
    # Through a file object FFmpeg sees no file name, and the allow list lets no playlist in it open other files or addresses.
    try:
        container = av.open(source.file, options={"protocol_whitelist": "none"})
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(
            f"{source.name}: not a video that can be read ({getattr(error, 'strerror', None) or error}); an interrupted download looks like "
            "this too"
        ) from error
    with container:
        names, kind = container.format.name.split(","), container.format.long_name or container.format.name
        if any(name in _NO_VIDEO_FORMATS or name.endswith("_pipe") for name in names):
            raise ValueError(f"{source.name}: no video, but a picture, a text or a list of files ({kind})")
        yield container, _main_stream(source, container, kind)


def _main_stream(source: VideoFile, container, kind: str):
    """Return the default video track, the largest one where several or none are; covers and previews are not videos."""
    av = import_av()
    flag = av.stream.Disposition
    pictures = [
        stream
        for stream in container.streams.video
        if not stream.disposition & (flag.attached_pic | flag.timed_thumbnails | flag.still_image)
    ]
    if not pictures:
        held = "only sound" if container.streams.audio else "nothing; an interrupted download looks like this too"
        raise ValueError(f"{source.name}: no video; the file ({kind}) holds {held}")
    return max(pictures, key=lambda stream: (bool(stream.disposition & flag.default), stream.width * stream.height))
