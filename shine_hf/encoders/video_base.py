"""What every encoder of video has in common: clips of frames in, one vector per clip out, a few clips in memory at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from math import ceil
from typing import Any

import numpy as np
from tqdm import tqdm

from .video_reader import read_clips, video_duration
from .video_source import open_video, video_name

# Fewer clips than `batch_clips` are read at once where their frames would take more: those of a 4K film are 25 MB each.
MAX_BATCH_BYTES = 256 * 2**20


class VideoEncoder(ABC):
    """
    Video files in, clip features out. A model's configuration records `spec`, so that inference encodes as training did.

    Attributes:
        dim (`int`): Width of the features (D).
        frames_per_clip (`int`): Frames that a clip is encoded from (F).
        frame_size (`(height, width)`, *optional*): Size to read frames in; `None` for that of the video.
        batch_clips (`int`): Clips that are encoded at once, and held in memory, at most; fewer of large frames.
    """

    dim: int
    frames_per_clip: int
    frame_size: tuple[int, int] | None = None
    batch_clips: int = 16

    @property
    @abstractmethod
    def spec(self) -> str:
        """The specification that rebuilds this encoder, every setting that changes its features included."""

    @abstractmethod
    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """`(N, F, H, W, 3)` uint8 RGB -> `(N, D)` float32."""

    def encode_video(self, video: Any, clip_length: float, progress: bool = False) -> np.ndarray:
        """Return clip features of a video.

        Args:
            video: A path, an address, the bytes of a file, a value of a `datasets` Video column, or frames (see [`open_video`]).
            clip_length: Seconds per clip.
            progress: Show a bar with the clips of this video.

        Returns:
            `(T, D)` float32, at least one clip. A clip is encoded from its own frames only, so where a video is cut changes nothing.

        Raises:
            FileNotFoundError, ValueError: for a file that is missing or not a video (see [`read_clips`]).
        """
        with (
            open_video(video) as source,
            tqdm(
                total=ceil(video_duration(source) / clip_length) if progress else None,
                desc=video_name(video),
                unit="clip",
                disable=not progress,
            ) as bar,
        ):
            encoded = []
            for batch in _batches(
                read_clips(source, clip_length, self.frames_per_clip, self.frame_size), self.batch_clips
            ):
                encoded.append(self.encode_clips(batch).astype(np.float32, copy=False))
                bar.update(len(batch))
        return np.concatenate(encoded)


def _batches(clips: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    for first in clips:
        room = max(1, min(size, MAX_BATCH_BYTES // first.nbytes))
        yield np.stack([first, *islice(clips, room - 1)])
