"""The base class of video encoders: clips of frames in, one vector per clip out, with few clips in memory at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from math import ceil
from typing import Any

import numpy as np
from tqdm import tqdm

from .sampling import Sampling
from .video_reader import read_samples, video_duration
from .video_source import open_video, video_name

# Limit on the frames of a batch: a single frame of a 4K video takes 25 MB.
MAX_BATCH_BYTES = 256 * 2**20


class VideoEncoder(ABC):
    """Videos in, clip features out. A model's configuration records `spec`, so that inference encodes videos as training did.

    Attributes:
        dim (`int`): Width of the features (D).
        sampling (`Sampling`): Which frames of a clip to read, and how to scale them.
        batch_clips (`int`): Maximum number of clips that are in memory and encoded at once; fewer if the frames are large.
    """

    dim: int
    sampling: Sampling
    batch_clips: int = 16

    @property
    @abstractmethod
    def spec(self) -> str:
        """The specification that rebuilds this encoder, with every setting that changes its features."""

    @abstractmethod
    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        """Encode `(N, F, H, W, 3)` uint8 RGB frames, as `sampling` reads them, to `(N, D)` float32."""

    @property
    def frames_per_clip(self) -> int:
        """Number of frames per clip (F)."""
        return self.sampling.frames

    @property
    def parts(self) -> Sequence[VideoEncoder]:
        """The encoders whose features are concatenated: only this one, unless it is a [`JointEncoder`]."""
        return (self,)

    @property
    def dims(self) -> list[int]:
        """Width of each concatenated feature type."""
        return [part.dim for part in self.parts]

    def encode_batch(self, batch: Sequence[np.ndarray]) -> np.ndarray:
        """Encode a batch of clips as [`read_batches`] yields it, to `(N, D)` float32."""
        encoded = [part.encode_clips(clips) for part, clips in zip(self.parts, batch)]
        return np.concatenate(encoded, axis=1).astype(np.float32, copy=False)

    def encode_video(self, video: Any, clip_length: float, progress: bool = False) -> np.ndarray:
        """Compute the clip features of a video.

        Args:
            video: A path, an address, the bytes of a file, a value of a `datasets` Video column, or frames (see [`open_video`]).
            clip_length: Seconds per clip.
            progress: Show a progress bar that counts the clips.

        Returns:
            `(T, D)` float32, at least one clip. The features of a clip depend only on its own frames.

        Raises:
            FileNotFoundError, ValueError: for a file that is missing or not a video; see [`read_samples`].
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
            for batch in read_batches(source, clip_length, self.parts):
                encoded.append(self.encode_batch(batch))
                bar.update(len(batch[0]))
        return np.concatenate(encoded)


class JointEncoder(VideoEncoder):
    """Several encoders on one time grid, with concatenated features. A video is decoded once for all of them.

    Only clips for which all encoders have features are kept.
    """

    def __init__(self, parts: Sequence[VideoEncoder]):
        self._parts = tuple(parts)

    @property
    def parts(self) -> Sequence[VideoEncoder]:
        return self._parts

    @property
    def dim(self) -> int:
        return sum(self.dims)

    @property
    def spec(self) -> str:
        return "+".join(part.spec for part in self.parts)

    def encode_clips(self, clips: np.ndarray) -> np.ndarray:
        raise TypeError("joined encoders read different frames: use encode_video or encode_batch")


def read_batches(video: Any, clip_length: float, encoders: Sequence[Any]) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the clips of a video in batches, with one `(N, F, H, W, 3)` uint8 array per encoder.

    Args:
        video: See [`open_video`].
        clip_length: Seconds per clip.
        encoders: Define which frames to read, and how many clips make a batch.

    Raises:
        See [`read_samples`].
    """
    clips = read_samples(video, clip_length, [encoder.sampling for encoder in encoders])
    most = min(encoder.batch_clips for encoder in encoders)
    for first in clips:
        room = max(1, min(most, MAX_BATCH_BYTES // sum(clip.nbytes for clip in first)))
        yield tuple(map(np.stack, zip(*chain([first], islice(clips, room - 1)))))
