"""The files of feature extraction: the videos in a folder, and the record of the settings."""

from __future__ import annotations

from pathlib import Path

SETTINGS_FILE = "features.json"
"""Records the encoder and the clip length in a folder of extracted features."""

VIDEO_SUFFIXES = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp", ".ts", ".m2ts", ".mts", ".3g2", ".asf",
    ".divx", ".f4v", ".m1v", ".m2v", ".mpe", ".ogm", ".ogv", ".rm", ".rmvb", ".vob",
)  # fmt: skip


def find_videos(folder: str | Path) -> list[Path]:
    """Return all video files in a folder and its subfolders, sorted. They are recognized by their suffixes; hidden files are ignored.

    Raises:
        FileNotFoundError: if the folder does not exist or contains no videos.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of videos {folder}")
    videos = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not videos:
        raise FileNotFoundError(f"no video files ({', '.join(VIDEO_SUFFIXES)}) in {folder}")
    return videos
