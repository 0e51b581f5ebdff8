"""Which frames of a clip are read, and how they are scaled while they are decoded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np


def import_av() -> Any:
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


def scale_clips(clips: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Scale and crop `(N, F, H, W, 3)` uint8 frames as a sampling says; frames that it read itself stay as they are."""
    if clips.shape[2:4] == (sampling.crop or sampling.size) or not (sampling.size or sampling.short_side):
        return clips
    av, to_rgb = import_av(), ToRgb(sampling)
    frames = (av.VideoFrame.from_ndarray(frame, "rgb24") for frame in clips.reshape(-1, *clips.shape[2:]))
    scaled = np.stack([to_rgb((frame, 1.0)) for frame in frames])
    return scaled.reshape(*clips.shape[:2], *scaled.shape[1:])


class Sampler:
    """Collects the clips of one sampling while frames pass by."""

    def __init__(self, sampling: Sampling, clip_length: float, scalers: dict):
        self.sampling, self.step = sampling, clip_length / sampling.frames
        # Samplings that differ in their times only share the scaled frames.
        geometry = (sampling.size, sampling.short_side, sampling.crop, sampling.interpolation)
        self.to_rgb = scalers.setdefault(geometry, ToRgb(sampling))
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


class ToRgb:
    """Decoded frames as `(H, W, 3)` uint8, upright and in their proportions, all of the size that is asked for or else of that of the first."""

    def __init__(self, sampling: Sampling):
        self.sampling, self.size = sampling, sampling.size
        # One for all frames: setting a scaler up takes longer than scaling a small frame.
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
