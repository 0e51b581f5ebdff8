"""Containers of video: which track is read, and what packets and header say without decoding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .sampling import import_av
from .video_clock import Clock, usual_interval
from .video_source import VideoFile

# A header may promise a little more or less than the frames hold.
_TOLERATED_SHARE, _TOLERATED_SECONDS = 0.05, 0.5
# FFmpeg opens these, but they are lists of other files, still images, or text as an animation.
_NO_VIDEO_FORMATS = ("hls", "concat", "dash", "image2", "tty", "bin", "xbin", "adf", "idf")
_DEFAULT_FRAME_SECONDS = 0.04


@dataclass(frozen=True)
class Survey:
    """What the packets of a file say without decoding: the times of the frames, and what the header states."""

    interval: float
    earliest: float | None
    duration: float | None
    """Seconds, where the time stamps are in order; None where only decoding tells."""
    stated: float | None
    """What the header states of the picture; where it states one length for all tracks, only if no other track explains it."""


def survey_packets(source: VideoFile) -> Survey:
    """Read the packets of a file without decoding them.

    Raises:
        ValueError: for what is not a video.
    """
    with open_container(source) as (container, stream):
        stamps, decoding, ends, last, count = [], [], {}, (float("-inf"), 0.0), 0
        for packet in packets_of(container, *container.streams.video, *container.streams.audio):
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
        return Survey(interval, min(stamps, default=None), duration, _stated_duration(container, stream, ends))


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
    return None if any(durations_agree(end, stated) for end in others) else stated


def durations_agree(seconds: float, stated: float) -> bool:
    """Return whether a header states about as many seconds as there are."""
    return abs(seconds - stated) <= max(seconds, stated) * _TOLERATED_SHARE + _TOLERATED_SECONDS


def packets_of(container: Any, *streams: Any) -> Iterator[Any]:
    """Yield the packets of streams; None for one that cannot be read."""
    packets = container.demux(*streams)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except import_av().error.FFmpegError:
            yield None


def pixel_aspect(stream: Any) -> float:
    """Return the width of a pixel divided by its height, 1 where the file states none or nonsense."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return ratio if 0.1 <= ratio <= 10 else 1.0


@contextlib.contextmanager
def open_container(source: VideoFile) -> Iterator[tuple[Any, Any]]:
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
