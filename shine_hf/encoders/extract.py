"""Extract clip features from a folder of videos for training, with the same code that inference runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..io import atomic_file
from . import video_encoder
from .decoding import decode_videos
from .folders import SETTINGS_FILE
from .video_base import VideoEncoder

# Seconds between counts of the finished videos of all processes.
_COUNT_SECONDS = 2.0


def extract_features(
    videos: Sequence[str | Path],
    folder: str | Path,
    encoder: VideoEncoder | str,
    clip_length: float,
    workers: int = 1,
    progress: bool = True,
) -> list[tuple[Path, str]]:
    """Write `folder/{video name}.npz` with `features (T, D)` for each video. Training reads the folder as `npz:FOLDER`.

    Videos that already have a file are skipped, so an interrupted run can be repeated. Under `accelerate launch`, on one machine or several
    that share the folder, each process encodes a share of the videos, on its own GPU if available.

    Args:
        videos: Video files. The name of a video is its file name without suffix.
        folder: Where to write. `features.json` in this folder records the encoder and the clip length.
        encoder: A [`VideoEncoder`] or its specification.
        clip_length: Seconds per clip.
        workers: Number of decoding processes per encoding process. With 0, the encoding process decodes between batches.
        progress: Show a progress bar that counts the videos of all processes.

    Returns:
        The videos of all processes that could not be read, each with the reason, sorted.

    Raises:
        ValueError: if two videos have the same name, or the folder contains features with other settings.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    folder = Path(folder)
    by_name: dict[str, Path] = {}
    for video in map(Path, videos):
        if (other := by_name.setdefault(video.stem, video)) != video:
            raise ValueError(f"{other} and {video} would share the file {video.stem}.npz; video names must be unique")
    # Before loading the encoder, so that each process loads it to its own GPU.
    state = PartialState(cpu=_is_distributed_on_cpu())
    if isinstance(encoder, str):
        encoder = video_encoder(encoder, device=str(state.device))
    # Listed before any process writes: all of them must divide the same list. Largest first, so that they finish at about the same time.
    missing = [video for name, video in by_name.items() if not (folder / f"{name}.npz").is_file()]
    missing.sort(key=_size, reverse=True)
    _record_settings(folder, _settings(encoder, clip_length), state)
    share = missing[state.process_index :: state.num_processes]
    unreadable: list[tuple[Path, str]] = []
    with tqdm(
        total=len(missing), desc="Encoding videos", unit="video", disable=not (progress and state.is_main_process)
    ) as bar:
        count = _shared_progress(bar, folder, missing, unreadable)
        for video, outcome in _encode_share(share, encoder, clip_length, workers):
            if isinstance(outcome, str):
                unreadable.append((video, outcome))
            else:
                with atomic_file(folder / f"{video.stem}.npz", "wb") as file:
                    np.savez(file, features=outcome)
            count()
        if state.num_processes > 1:
            state.wait_for_everyone()
            unreadable = gather_object(unreadable)
        bar.update(len(missing) - bar.n)
    return sorted(unreadable)


def _encode_share(
    videos: Sequence[Path], encoder: VideoEncoder, clip_length: float, workers: int
) -> Iterator[tuple[Path, np.ndarray | str]]:
    """Yield each video with its features, or with the reason why it cannot be read, as they are finished."""
    encoded: dict[int, list[np.ndarray]] = {}
    for index, batch in decode_videos(videos, clip_length, encoder.parts, workers):
        if isinstance(batch, tuple):
            encoded.setdefault(index, []).append(encoder.encode_batch(batch))
        elif batch is None:
            yield videos[index], np.concatenate(encoded.pop(index))
        else:
            encoded.pop(index, None)
            yield videos[index], batch


def _shared_progress(bar: tqdm, folder: Path, missing: Iterable[Path], unreadable: Sequence) -> Callable[[], None]:
    """Return a function that updates the bar with the number of files that all processes have written, at most every few seconds."""
    names, counted = {f"{video.stem}.npz" for video in missing}, 0.0

    def count() -> None:
        nonlocal counted
        if bar.disable or time.monotonic() - counted < _COUNT_SECONDS:
            return
        counted = time.monotonic()
        done = sum(entry.name in names for entry in os.scandir(folder)) + len(unreadable)
        bar.update(max(0, done - bar.n))

    return count


def _settings(encoder: VideoEncoder, clip_length: float) -> dict[str, Any]:
    settings: dict[str, Any] = {"encoder": encoder.spec, "clip_length": float(clip_length)}
    if len(encoder.parts) > 1:
        settings["dims"] = encoder.dims
    return settings


def _size(video: Path) -> int:
    try:
        return video.stat().st_size
    except OSError:
        return 0  # It will be reported as unreadable.


def _is_distributed_on_cpu() -> bool:
    """Return whether Accelerate must be told to communicate on CPU. Otherwise, each process would consider itself the only one."""
    import torch

    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def _record_settings(folder: Path, settings: dict[str, Any], state) -> None:
    file = folder / SETTINGS_FILE
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
    # Every process checks before the main one writes, so that all of them stop if the settings differ.
    state.wait_for_everyone()
    if recorded != settings:
        raise ValueError(
            f"{folder} contains features computed with {recorded}, not with {settings}; choose another folder"
        )
    if state.is_main_process:
        with atomic_file(file) as text:
            text.write(json.dumps(settings, indent=2) + "\n")
    state.wait_for_everyone()
