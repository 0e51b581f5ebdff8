"""Video containers: choose the track to read, and inspect packets and header without decoding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ..io import content_fault
from .sampling import import_av
from .video_clock import Clock, usual_interval
from .video_source import VideoFile

# The length in the header may differ slightly from that of the frames.
_TOLERATED_SHARE, _TOLERATED_SECONDS = 0.05, 0.5
# FFmpeg opens these formats, but they are playlists, still images, or text rendered as an animation.
_NO_VIDEO_FORMATS = ("hls", "concat", "dash", "image2", "tty", "bin", "xbin", "adf", "idf")
_DEFAULT_FRAME_SECONDS = 0.04


@dataclass(frozen=True)
class Survey:
    """What can be known about a file without decoding it, from its packets and its header."""

    interval: float
    """Usual seconds from frame to frame."""
    earliest: float | None
    """Time stamp of the first frame in seconds."""
    duration: float | None
    """Seconds, if the time stamps are in order; None if only decoding can tell."""
    stated: float | None
    """Seconds of video according to the header; None if it gives only one length for all tracks, which may be that of another track."""


def survey_packets(source: VideoFile) -> Survey:
    """Read the packets of a file without decoding them.

    Raises:
        ValueError: for a file that is not a video.
    """
    with open_container(source) as (container, stream):
        stamps, decoding, ends, last, count = [], [], {}, (float("-inf"), 0.0), 0
        for packet in packets_of(container, *container.streams.video, *container.streams.audio):
            if packet is None or not packet.size or packet.pts is None or packet.is_discard:
                count += packet is not None and packet.size > 0 and packet.stream is stream
                continue
            base = packet.time_base
            stamp, length = to_seconds(packet.pts, base), to_seconds(packet.duration or 0, base)
            ends[packet.stream.index] = max(stamp + length, ends.get(packet.stream.index, stamp))
            if packet.stream is stream:
                count += 1
                last = max(last, (stamp, length))
                stamps.append(stamp)
                decoding.append(stamp if packet.dts is None else to_seconds(packet.dts, base))
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
    """Return the seconds of video according to the header; None if they are not known.

    If the header gives one length for the entire file, this may be the length of the audio. In some formats it is the time of the last frame
    on a clock that started before the first frame.
    """
    if container.format.flags & import_av().format.Flags.no_timestamps.value:
        return None  # A raw stream has no header; FFmpeg guesses the length from the bit rate.
    if stream.duration:
        return to_seconds(stream.duration, stream.time_base)
    if not container.duration or container.start_time:
        return None
    stated = container.duration / 1e6
    others = [end for index, end in ends.items() if index != stream.index]
    return None if any(durations_agree(end, stated) for end in others) else stated


def to_seconds(ticks: int, time_base: Fraction) -> float:
    """Convert a time stamp to seconds. The result is that of `float(ticks * time_base)`, which takes several times as long."""
    return ticks * time_base.numerator / time_base.denominator


def durations_agree(decoded: float, stated: float) -> bool:
    """Return whether the length in the header roughly matches the actual length."""
    return abs(decoded - stated) <= max(decoded, stated) * _TOLERATED_SHARE + _TOLERATED_SECONDS


def packets_of(container: Any, *streams: Any) -> Iterator[Any]:
    """Yield the packets of streams; None for a packet that cannot be read."""
    packets = container.demux(*streams)
    while True:
        try:
            yield next(packets)
        except StopIteration:
            return
        except import_av().error.FFmpegError:
            yield None


def pixel_aspect(stream: Any) -> float:
    """Return the width of a pixel divided by its height; 1 if the file gives no plausible value."""
    ratio = float(stream.sample_aspect_ratio or 1)
    return ratio if 0.1 <= ratio <= 10 else 1.0


@contextlib.contextmanager
def open_container(source: VideoFile) -> Iterator[tuple[Any, Any]]:
    """Yield the container of a file and its main video stream.

    Raises:
        ValueError: for a file that is not a video.
    """
    av = import_av()
    source.file.seek(0)
    # A file object hides the file name from FFmpeg, and the allow list keeps a playlist from opening other files or addresses.
    try:
        container = av.open(source.file, options={"protocol_whitelist": "none"})
    except (av.error.FFmpegError, ValueError) as error:
        fault = content_fault(source.file) or "it may be an interrupted download"
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{source.name}: not a readable video ({reason}); {fault}") from error
    with container:
        names, kind = container.format.name.split(","), container.format.long_name or container.format.name
        if any(name in _NO_VIDEO_FORMATS or name.endswith("_pipe") for name in names):
            raise ValueError(f"{source.name}: no video, but an image, a text or a list of files ({kind})")
        yield container, _main_stream(source, container, kind)


def _main_stream(source: VideoFile, container, kind: str):
    """Return the default video track, or the largest if there are several or none. Cover art and previews are ignored.

    Raises:
        ValueError: for a file without video.
    """
    av = import_av()
    flag = av.stream.Disposition
    pictures = [
        stream
        for stream in container.streams.video
        if not stream.disposition & (flag.attached_pic | flag.timed_thumbnails | flag.still_image)
    ]
    if not pictures:
        found = "only audio" if container.streams.audio else "nothing; it may be an interrupted download"
        raise ValueError(f"{source.name}: no video; the file ({kind}) contains {found}")
    return max(pictures, key=lambda stream: (bool(stream.disposition & flag.default), stream.width * stream.height))
