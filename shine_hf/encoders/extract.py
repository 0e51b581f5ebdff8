"""Clip features of a folder of videos, once and for all: what training reads, by the code that inference runs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..io import atomic_file
from . import video_encoder
from .video_base import VideoEncoder

SETTINGS_FILE = "features.json"
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ts")


def find_videos(folder: str | Path) -> list[Path]:
    """All video files below a folder, by their extensions, in order.

    Raises:
        FileNotFoundError: where there is no such folder, or no video in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of videos {folder}")
    videos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not videos:
        raise FileNotFoundError(f"no video files ({', '.join(VIDEO_SUFFIXES)}) in {folder}")
    return videos


def extract_features(
    videos: Sequence[str | Path],
    folder: str | Path,
    encoder: VideoEncoder | str,
    clip_length: float,
    workers: int = 1,
    progress: bool = True,
) -> list[tuple[Path, str]]:
    """Write `folder/{name of the video}.npz` with `features (T, D)` for each video; training reads the folder as `npz:FOLDER`.

    Videos whose file is there are passed over, so an interrupted run can be repeated. Under `accelerate launch` each process, on its own GPU
    if there is one, takes its share of the videos.

    Args:
        videos: Video files; a video is known by its file name without extension.
        folder: Where to write. `features.json` in it records encoder and clip length.
        encoder: A [`VideoEncoder`] or its specification.
        clip_length: Seconds per clip.
        workers: Threads per process; more than one helps while the decoding of video is what takes the time.
        progress: Show a bar.

    Returns:
        The videos that could not be read, with the reason, in order; of all processes.

    Raises:
        ValueError: where two videos have one name, or the folder holds features of other settings.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object

    videos, folder = [Path(video) for video in videos], Path(folder)
    by_name: dict[str, Path] = {}
    for video in videos:
        if (other := by_name.setdefault(video.stem, video)) != video:
            raise ValueError(f"{other} and {video} would share the file {video.stem}.npz; video names must be unique")
    # Before the encoder is loaded, so that on several GPUs each process loads it to its own.
    state = PartialState(cpu=_several_processes_without_accelerator())
    encoder = video_encoder(encoder) if isinstance(encoder, str) else encoder
    # Listed before any process writes, since each takes every n-th of one and the same list.
    missing = [video for name, video in by_name.items() if not (folder / f"{name}.npz").is_file()]
    _record_settings(folder, {"encoder": encoder.spec, "clip_length": float(clip_length)}, state)
    share = missing[state.process_index :: state.num_processes]
    unreadable = []

    def extract(video: Path) -> None:
        try:
            features = encoder.encode_video(video, clip_length)
        except (ValueError, OSError) as error:
            unreadable.append((video, str(error)))
            return
        _write(folder / f"{video.stem}.npz", features)

    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(
            total=len(share), desc="Encoding videos", unit="video", disable=not (progress and state.is_main_process)
        ) as bar,
    ):
        for _ in pool.map(extract, share):
            bar.update()
    if state.num_processes > 1:
        unreadable = gather_object(unreadable)
    return sorted(unreadable)


def _several_processes_without_accelerator() -> bool:
    """Accelerate takes each process for the only one unless it is told that they are to talk to each other by CPU."""
    import torch

    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available()


def _record_settings(folder: Path, settings: dict, state) -> None:
    file = folder / SETTINGS_FILE
    recorded = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
    # Every process looks before the first one writes, so that all of them stop where something is wrong.
    state.wait_for_everyone()
    if recorded != settings:
        raise ValueError(f"{folder} holds features made with {recorded}, not with {settings}; choose another folder")
    if state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as new:
            new.write(json.dumps(settings, indent=2) + "\n")
    state.wait_for_everyone()


def _write(path: Path, features: np.ndarray) -> None:
    with atomic_file(path, "wb") as file:
        np.savez(file, features=features)
