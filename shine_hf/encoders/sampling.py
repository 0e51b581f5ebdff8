"""Choose which frames of a clip to read, and scale them during decoding."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np


def import_av() -> Any:
    """Import and return PyAV.

    Raises:
        ImportError: if it is not installed. The message says how to install it.
    """
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise ImportError('reading and writing videos needs PyAV: pip install "shine-hf[video]"') from error
    return av


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip to read, and how to scale them.

    Clip c is sampled at the times `(c + (i + 0.5) / frames) * clip_length` from the start of the video. Each gives the frame that is on
    screen at that time, so variable frame rates are handled correctly.

    Args:
        frames: Frames per clip (F).
        size: `(height, width)` to scale frames to; by default the display size of the first frame.
        short_side: Scale the shorter side to this instead, and keep the aspect ratio. The longer side is rounded down.
        crop: `(height, width)` of the center crop after scaling.
        interpolation: `"AREA"`, `"BILINEAR"` or `"BICUBIC"`, with FFmpeg's swscale.
        strictly_before: If a frame begins exactly at a sampled time, take the previous one, as FFmpeg's `fps` filter does.
    """

    frames: int
    size: tuple[int, int] | None = None
    short_side: int | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "AREA"
    strictly_before: bool = False


def scale_clips(clips: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Scale and crop `(N, F, H, W, 3)` uint8 frames. Frames that already have the size of the sampling are returned unchanged."""
    if clips.shape[2:4] == (sampling.crop or sampling.size) or not (sampling.size or sampling.short_side):
        return clips
    av, to_rgb = import_av(), ToRgb(sampling)
    frames = (av.VideoFrame.from_ndarray(frame, "rgb24") for frame in clips.reshape(-1, *clips.shape[2:]))
    scaled = np.stack([to_rgb((frame, 1.0)) for frame in frames])
    return scaled.reshape(*clips.shape[:2], *scaled.shape[1:])


class Sampler:
    """Collect the clips of one sampling from a stream of frames."""

    def __init__(self, sampling: Sampling, clip_length: float, scalers: dict):
        self.sampling, self.step = sampling, clip_length / sampling.frames
        # Samplings that only differ in their times share the scaled frames.
        geometry = (sampling.size, sampling.short_side, sampling.crop, sampling.interpolation)
        self.to_rgb = scalers.setdefault(geometry, ToRgb(sampling))
        self.sampled, self.shown = 0, None
        self.clip: list[np.ndarray] = []
        self.clips: deque[np.ndarray] = deque()

    def _precedes(self, time: float) -> bool:
        """Return whether the next time to sample is before `time`, when the frame on screen changes."""
        due = (self.sampled + 0.5) * self.step
        # Treat times within the resolution of the file's clock as equal.
        return due <= time + 1e-6 if self.sampling.strictly_before else due < time

    def show(self, begin: float, frame: Any) -> None:
        """Process the next frame, which is on screen from `begin` (seconds)."""
        # Frames between two sampled times are decoded but never converted to RGB.
        while self.shown is not None and self._precedes(begin):
            self._take()
        self.shown = frame

    def finish(self, duration: float) -> None:
        """Complete the last clip of a video of `duration` seconds, repeating the last frame after the end."""
        while self._precedes(duration) or self.sampled == 0 or self.clip:
            self._take()

    def _take(self) -> None:
        self.clip.append(self.to_rgb(self.shown))
        self.sampled += 1
        if len(self.clip) == self.sampling.frames:
            self.clips.append(np.stack(self.clip))
            self.clip = []


class ToRgb:
    """Convert decoded frames to `(H, W, 3)` uint8, upright, with square pixels, and all of the same size: the requested size, or that of the first frame."""

    def __init__(self, sampling: Sampling):
        self.sampling, self.size = sampling, sampling.size
        # One for all frames: setting up a scaler takes longer than scaling a small frame.
        self.reformatter = import_av().video.reformatter.VideoReformatter()
        self.last: tuple[Any, Any] = None, None

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
            width, height = (max(1, side * short // min(size)) for side in size)
            return width, height
        return size
