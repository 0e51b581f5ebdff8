"""Videos decoded in other processes, so that the encoder never waits for a frame."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, IterableDataset

from .sampling import Sampling
from .video_base import VideoEncoder, read_batches

# Batches that a worker decodes ahead.
_AHEAD = 2
Batch = tuple[np.ndarray, ...]


def decode_videos(
    videos: Sequence[str | Path], clip_length: float, encoders: Sequence[VideoEncoder], workers: int = 1
) -> Iterator[tuple[int, Batch | str | None]]:
    """Decode videos, each in one process, and yield their clips as they come; those of several videos interleave.

    Args:
        videos: Video files.
        clip_length: Seconds per clip.
        encoders: Say which frames they need, and how many clips at once.
        workers: Processes; with 0 the calling one decodes.

    Yields:
        The position of a video with a batch of its clips (see [`read_batches`]); with `None` after its last batch; or with a text that says
        why it, or the rest of it, cannot be read.
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
        # Arrays travel through pipes: the shared memory of containers is often too small for tensors.
        collate_fn=_as_it_is,
        in_order=False,
    )


class _Reading:
    """What of an encoder a worker needs; its model stays where it is."""

    def __init__(self, encoder: VideoEncoder):
        self.sampling: Sampling = encoder.sampling
        self.batch_clips = encoder.batch_clips


class _Videos(IterableDataset):
    """The batches of all videos. Workers take the next video from one counter, so that none is idle while others have work."""

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


def _as_it_is(item):
    return item
