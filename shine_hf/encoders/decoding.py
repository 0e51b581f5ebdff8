"""Decode videos in worker processes, so that the encoder does not wait for frames."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from .sampling import Sampling
from .video_base import VideoEncoder, read_batches

# Number of batches that a worker decodes in advance.
_AHEAD = 2
Batch = tuple[np.ndarray, ...]


def decode_videos(
    videos: Sequence[str | Path], clip_length: float, encoders: Sequence[VideoEncoder], workers: int = 1
) -> Iterator[tuple[int, Batch | str | None]]:
    """Decode videos, each in one process, and yield batches of clips as they become ready. Batches of different videos interleave.

    Args:
        videos: Video files.
        clip_length: Seconds per clip.
        encoders: Define which frames to read, and how many clips make a batch.
        workers: Number of processes; 0 decodes in the calling process.

    Yields:
        The index of a video, and a batch of its clips (see [`read_batches`]), `None` after its last batch, or a message that says why the
        video (or the rest of it) cannot be read.
    """
    dataset = _Videos(videos, clip_length, [_Reading(encoder) for encoder in encoders])
    if workers == 0:
        yield from dataset
        return
    yield from DataLoader(
        dataset,
        batch_size=None,
        num_workers=min(workers, max(1, len(videos))),
        prefetch_factor=_AHEAD,
        # Keep arrays, which are sent through pipes: tensors need shared memory, of which Docker containers often have too little.
        collate_fn=_identity,
        in_order=False,
    )


class _Reading:
    """The part of an encoder that a worker needs, without its model."""

    def __init__(self, encoder: VideoEncoder):
        self.sampling: Sampling = encoder.sampling
        self.batch_clips = encoder.batch_clips


class _Videos(IterableDataset):
    """The batches of all videos. Workers take the next video from a shared counter, so that none is idle while there is work."""

    def __init__(self, videos: Sequence[str | Path], clip_length: float, readings: Sequence[_Reading]):
        self.videos, self.clip_length, self.readings = list(videos), clip_length, readings
        self.next = multiprocessing.get_context().Value("q", 0)

    def __iter__(self) -> Iterator[tuple[int, Batch | str | None]]:
        while (index := self._take()) < len(self.videos):
            try:
                for batch in read_batches(self.videos[index], self.clip_length, self.readings):
                    yield index, batch
            except (ValueError, OSError) as error:
                yield index, str(error)
            else:
                yield index, None

    def _take(self) -> int:
        with self.next.get_lock():
            self.next.value += 1
            return self.next.value - 1


def _identity(item):
    return item
