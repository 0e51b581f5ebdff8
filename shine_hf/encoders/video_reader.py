"""Frames of video files at the times a clip needs them, through PyAV, one frame in memory at a time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

# A header may promise a little more than the frames hold; beyond this share of the duration the file was cut off.
_TOLERATED_LOSS = 0.05
# FFmpeg opens these, but they are lists of other files or still images.
_NO_VIDEO_FORMATS = ("hls", "concat", "dash", "image2")
_SMALL_PICTURE_PIXELS = 320 * 240
# Within one recording no frame comes later than this.
_CLOCK_JUMP_SECONDS = 1.0


def import_av():
    """PyAV, or an error that says which extra brings it."""
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise ImportError('videos are read and written with PyAV: pip install "shine-hf[video]"') from error
    return av


def video_duration(path: str | Path) -> float:
    """Length of a video in seconds, by its header; where that does not tell, by the last time stamp in the file.

    Raises:
        FileNotFoundError: for a missing file. ValueError: for a file that is not a video. ImportError: without PyAV.
    """
    with _opened(path) as (container, stream):
        if stated := _stated_duration(container, stream):
            return stated
        # One packet in memory at a time: together they are the whole film.
        count, begin, end = 0, None, None
        for packet in container.demux(stream):
            count += packet.size > 0
            if packet.size and packet.pts is not None:
                begin = packet.pts if begin is None else min(begin, packet.pts)
                end = max(packet.pts + (packet.duration or 0), begin if end is None else end)
        if not count:
            raise ValueError(f"{path}: the file holds no frames")
        return count * _usual_frame_length(stream) if begin is None else float((end - begin) * stream.time_base)


def _stated_duration(container, stream) -> float | None:
    """Length of the picture in seconds by the header, if it states that: what it states of the whole file may be the length of the sound,
    and in some formats the time of the last frame on a clock that was running before the first."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1 and not container.start_time:
        return container.duration / 1e6
    return None


def _usual_frame_length(stream) -> float:
    """Seconds per frame where time stamps do not tell."""
    return float(1 / stream.average_rate) if stream.average_rate else 0.04


def read_clips(
    path: str | Path, clip_length: float, frames_per_clip: int, frame_size: tuple[int, int] | None = None
) -> Iterator[np.ndarray]:
    """The frames that are on screen at evenly spaced times of each clip.

    Clip c takes the times `(c + (i + 0.5) / frames_per_clip) * clip_length` from the start of the picture, and of each the frame whose
    presentation time stamp precedes it, so that a variable frame rate is right. A clip exists where its first time lies within the
    video (a video has at least one); its times behind the end show the last frame. Frames are turned as the file's metadata says.

    Args:
        path: Video file. Its content decides, not its extension.
        clip_length: Seconds per clip.
        frames_per_clip: Times per clip (F).
        frame_size: `(height, width)` to scale the frames to; `None` keeps that of the first frame.

    Yields:
        `(F, H, W, 3)` uint8 RGB, clip by clip.

    Raises:
        FileNotFoundError: for a missing file. ValueError: for a file that is empty, not a video, or without a frame that can be decoded.
        ImportError: without PyAV. What is left of a damaged file is used, and a warning says how much.
    """
    if clip_length <= 0 or frames_per_clip < 1:
        raise ValueError(f"clip_length and frames_per_clip must be positive, got {clip_length} and {frames_per_clip}")
    step = clip_length / frames_per_clip
    to_rgb = _ToRgb(frame_size)
    clip: list[np.ndarray] = []
    shown, sampled, duration = None, 0, 0.0
    for begin, end, frame in _timed_frames(path):
        # Frames between two sample times are decoded, but never converted.
        if (sampled + 0.5) * step < begin and shown is not None:
            image = to_rgb(shown)
            while (sampled + 0.5) * step < begin:
                clip.append(image)
                sampled += 1
                if len(clip) == frames_per_clip:
                    yield np.stack(clip)
                    clip = []
        shown, duration = frame, end
    if shown is None:
        raise ValueError(f"{path}: not one frame could be decoded; the file is damaged or holds no pictures")
    image = to_rgb(shown)
    while (sampled + 0.5) * step < duration or sampled == 0 or clip:
        clip.append(image)
        sampled += 1
        if len(clip) == frames_per_clip:
            yield np.stack(clip)
            clip = []


def frame_size(path: str | Path, max_height: int) -> tuple[int, int]:
    """`(height, width)` of the picture as it is shown, scaled down to a height of at most `max_height` pixels; both even, as H.264 wants them.

    Raises:
        As [`read_clips`].
    """
    height, width = next(read_clips(path, 1.0, 1)).shape[1:3]
    scale = min(1.0, max_height / height)
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (height, width))


def read_film_strip(path: str | Path, duration: float, frames: int = 24, max_height: int = 240) -> list[tuple]:
    """Evenly spaced times of a video of `duration` seconds, and the frame that is shown then, `(H, W, 3)` uint8 RGB: at most `frames` of them.

    Raises:
        As [`read_clips`].
    """
    step = duration / frames
    clips = islice(read_clips(path, step, 1, frame_size(path, max_height)), frames)
    return [((index + 0.5) * step, clip[0]) for index, clip in enumerate(clips)]


def _timed_frames(path: str | Path) -> Iterator[tuple[float, float, object]]:
    """`(begin, end, frame)` in seconds from the start of the picture; `end` is a guess from the frame's own duration."""
    av = import_av()
    with _opened(path) as (container, stream):
        # Small pictures are decoded faster than threads are started.
        stream.thread_type = "AUTO" if stream.width * stream.height > _SMALL_PICTURE_PIXELS else "NONE"
        promised, usual_length = _stated_duration(container, stream), _usual_frame_length(stream)
        first, earliest, end, damaged, previous = None, None, 0.0, 0, None
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
                # What an edit list hides, in a trimmed recording say, is decoded but not part of the video.
                if first is None and packet.pts is not None and not packet.is_discard:
                    stamp = float(packet.pts * packet.time_base)
                    earliest = stamp if earliest is None else min(earliest, stamp)
                frames = packet.decode()
            except StopIteration:
                break
            except av.error.FFmpegError:
                damaged += 1
                continue
            for frame in frames:
                # Without time stamps, as in a bare stream, frames follow each other at the usual rate.
                time = frame.time if frame.time is not None else (first or 0.0) + end
                if first is None:
                    # Where much is missing in front of the first frame, the beginning is damaged, and the clock has been running.
                    first = time if earliest is None or time - earliest < _CLOCK_JUMP_SECONDS else earliest
                if previous is not None and time - first < previous - _CLOCK_JUMP_SECONDS:
                    first = time - end  # Joined recordings: the clock was set back, the picture goes on.
                begin = time - first
                if previous is not None and begin < previous:
                    continue  # A little too late: no player shows a frame out of order either.
                length = float(frame.duration * frame.time_base) if frame.duration else usual_length
                previous, end = begin, begin + length
                yield begin, end, frame
        if first is not None and promised and end < promised * (1 - _TOLERATED_LOSS) - 0.5:
            logger.warning(
                "%s: the header promises %.1f s, but only %.1f s can be decoded; the rest is missing",
                path,
                promised,
                end,
            )
        elif first is not None and damaged:
            logger.warning("%s: %d damaged packets were passed over", path, damaged)


@contextlib.contextmanager
def _opened(path: str | Path):
    """The container of a file and its first video stream that is more than the picture on a cover."""
    av = import_av()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no video file {path}")
    if not path.stat().st_size:
        raise ValueError(f"{path}: the file is empty (0 bytes)")
    # Through a file object FFmpeg sees no file name, and the white list lets no playlist in it open other files or addresses.
    with path.open("rb") as file:
        try:
            container = av.open(file, options={"protocol_whitelist": "none"})
        except (av.error.FFmpegError, ValueError) as error:
            raise ValueError(
                f"{path}: not a video that can be read ({getattr(error, 'strerror', None) or error}); an interrupted download looks so too"
            ) from error
        with container:
            names, kind = container.format.name.split(","), container.format.long_name or container.format.name
            if any(name in _NO_VIDEO_FORMATS or name.endswith("_pipe") for name in names):
                raise ValueError(f"{path}: no video, but a picture or a list of files ({kind})")
            pictures = [
                stream
                for stream in container.streams.video
                if not stream.disposition & av.stream.Disposition.attached_pic
            ]
            if not pictures:
                held = "sound alone" if container.streams.audio else "nothing; an interrupted download looks so too"
                raise ValueError(f"{path}: no video; the file ({kind}) holds {held}")
            yield container, pictures[0]


class _ToRgb:
    """Decoded frames as `(H, W, 3)` uint8, upright, all of the size that is given or else of that of the first."""

    def __init__(self, size: tuple[int, int] | None):
        self.size = size
        # One for all frames: setting a scaler up takes longer than scaling a small frame.
        self.reformatter = import_av().video.reformatter.VideoReformatter()

    def __call__(self, frame) -> np.ndarray:
        turns = round(frame.rotation / 90) % 4
        self.size = self.size or ((frame.width, frame.height) if turns % 2 else (frame.height, frame.width))
        height, width = self.size[::-1] if turns % 2 else self.size
        rgb = self.reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1)
        return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), turns))
