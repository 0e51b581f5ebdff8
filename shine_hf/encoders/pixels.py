"""Clip features without weights: small frames and their motion."""

from __future__ import annotations

import numpy as np

from .sampling import Sampling
from .video_base import VideoEncoder


class PixelEncoder(VideoEncoder):
    """The average of the clip's frames, scaled down to `size` by `size` (0 is black, 1 is white), followed by the motion energy.

    The motion energy of a pixel is the mean absolute difference of successive frames over all colors. These features are sufficient for
    simple scenes such as Shapes-CG, and a lower bound for anything else.

    Args:
        size (`int`): Height and width of the small frames.
        frames (`int`): Frames per clip.

    Raises:
        ValueError: for numbers that are not positive.
    """

    batch_clips = 64

    def __init__(self, size: int = 20, frames: int = 4):
        if size < 1 or frames < 1:
            raise ValueError(f"pixels: size and frames must be positive, got {size} and {frames}")
        self.sampling = Sampling(frames, size=(size, size))
        self.dim = (3 + 1) * size * size

    @property
    def spec(self) -> str:
        return f"pixels:size={self.sampling.size[0]},frames={self.frames_per_clip}"

    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """Encode `(N, F, size, size, 3)` uint8 frames to `(N, 4 * size * size)` float32."""
        frames = clips.astype(np.float32) / 255
        still = frames.mean(axis=1)
        motion = np.zeros(still.shape[:-1], np.float32)
        if frames.shape[1] > 1:
            motion = np.abs(np.diff(frames, axis=1)).mean(axis=(1, 4))
        return np.concatenate([still.reshape(len(clips), -1), motion.reshape(len(clips), -1)], axis=1)
