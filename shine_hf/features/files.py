"""Stores of one file per key, in a folder or a tar, and of one HDF5 file."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..encoders import VIDEO_ENCODERS
from ..encoders.extract import SETTINGS_FILE
from ..specs import split_specs
from .base import PUBLIC_SOURCES, ConcatenatedFeatures, FeatureStore
from .formats import FORMATS, READ_ERRORS, choose_name, shaped

# The two streams of I3D, each in a file of its own; see [`file_features`].
STREAMS = ("_rgb", "_opt")
# R2-Tuning names its folders after the number of layers that it keeps.
_LAYERS = re.compile(r"_k(\d+)$")


class FileFeatures(FeatureStore):
    """One file per key: `{key}{suffix}`. Subclasses say where the files are.

    Args:
        kind: What specifications call it.
        place: The folder or tar.
        suffix: What follows the key in the file names, e.g. `.npz` or `_rgb.npy`.
    """

    def __init__(self, kind: str, place: Path, suffix: str):
        self.spec, self.place, self.suffix = f"{kind}:{place}", place, suffix
        self.layout = f"{'a folder' if place.is_dir() else 'a tar'}, one {{key}}{suffix} per key"
        self._format = suffix[suffix.rindex(".") :]
        layers = _LAYERS.search(place.name.removesuffix(".tar"))
        self._layers = int(layers[1]) if layers else None

    def _open(self, key: str) -> IO[bytes]:
        """Open the file of a key; KeyError where there is none."""
        raise NotImplementedError

    def _read(self, key: str) -> np.ndarray:
        return self._load(key, FORMATS[self._format].read)

    def _peek(self, key: str) -> np.ndarray:
        return self._load(key, FORMATS[self._format].peek)

    def array_name(self, key: str) -> str:
        """Return the name of the array in the file of a key."""
        return self._load(key, FORMATS[self._format].name)

    def _load(self, key: str, load):
        with self._open(key) as file:
            try:
                return load(file)
            except READ_ERRORS as error:
                raise ValueError(f"{self.location(key)} cannot be read: {error}") from error


class FolderFeatures(FileFeatures):
    """Files in a folder. Where `shine-hf features extract` wrote it, it knows the encoder and the clip length.

    Raises:
        FileNotFoundError: where there is no such folder. ValueError: for a `features.json` that cannot be read.
    """

    def __init__(self, kind: str, place: Path, suffix: str):
        if not place.is_dir():
            raise FileNotFoundError(f"no feature folder {place}. {PUBLIC_SOURCES}")
        super().__init__(kind, place, suffix)
        self._root, self._dims = place.resolve(), None
        record = place / SETTINGS_FILE
        if record.is_file():
            try:
                settings = json.loads(record.read_text(encoding="utf-8"))
                self.encoder, self.clip_length = str(settings["encoder"]), float(settings["clip_length"])
                # Widths of the encoders that were joined, each of which is normalized on its own.
                self._dims = [int(dim) for dim in settings["dims"]] if "dims" in settings else None
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{record} should name the encoder and the clip_length ({error!r})") from error

    @property
    def dims(self) -> list[int]:
        return self._dims or super().dims

    @property
    def encoders(self) -> list[str | None]:
        return split_specs(self.encoder, VIDEO_ENCODERS) if self._dims else super().encoders

    def keys(self) -> Iterator[str]:
        names = sorted(entry.name for entry in os.scandir(self.place) if entry.name.endswith(self.suffix))
        return (name.removesuffix(self.suffix) for name in names if not name.startswith("."))

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def location(self, key: str) -> str:
        return str(self._path(key))

    def _open(self, key: str) -> IO[bytes]:
        path = self._path(key)
        if not path.is_file():
            raise KeyError(f"no features of {key!r}: {path} does not exist. {PUBLIC_SOURCES}")
        return path.open("rb")

    def _path(self, key: str) -> Path:
        """Return the file of a key. Keys come from data, so they must not lead out of the folder, not even through a link."""
        path = self.place / f"{key}{self.suffix}"
        is_name = bool(key) and "\0" not in key and Path(key).name == key
        # A cache of the Hub holds links to its own blobs.
        if not is_name or not (self._root in path.resolve().parents or _is_hub_blob(path)):
            raise ValueError(f"{key!r} is not a plain file name: features are read from {self.place} only")
        return path


def _is_hub_blob(path: Path) -> bool:
    """Return whether a link of a snapshot in the Hub's cache leads to the blobs of the same repository."""
    parents = list(path.absolute().parents)
    snapshots = next((parent for parent in parents if parent.name == "snapshots"), None)
    return snapshots is not None and path.resolve().parent == (snapshots.parent / "blobs").resolve()


class TarFeatures(FileFeatures):
    """Files in a plain tar, read in place; only its table of contents is kept in memory.

    Args:
        kind, suffix: See [`FileFeatures`].
        place: The tar.
        folder: Folder in the tar that holds the files.

    Raises:
        FileNotFoundError: where there is no such file. ValueError: for one that is no plain tar.
    """

    def __init__(self, kind: str, place: Path, suffix: str, folder: str = ""):
        super().__init__(kind, place, suffix)
        self._members = {
            name.rpartition("/")[2].removesuffix(suffix): member
            for name, member in tar_members(place).items()
            if name.endswith(suffix) and name.rpartition("/")[0] == folder
        }
        self.folder = folder

    def keys(self) -> Iterator[str]:
        return iter(sorted(self._members))

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def location(self, key: str) -> str:
        return f"{self.place}:{self.folder}{'/' if self.folder else ''}{key}{self.suffix}"

    def _open(self, key: str) -> IO[bytes]:
        if key not in self._members:
            raise KeyError(f"no features of {key!r}: {self.location(key)} does not exist. {PUBLIC_SOURCES}")
        offset, size = self._members[key]
        # Opened for each read: an open file would have to be shared between worker processes, position included.
        with self.place.open("rb") as tar:
            tar.seek(offset)
            return io.BytesIO(tar.read(size))


def tar_members(path: Path) -> dict[str, tuple[int, int]]:
    """Return name -> offset and size of each plain file in a tar.

    Raises:
        FileNotFoundError: where there is no such file. ValueError: for one that is no tar, or a compressed one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no feature file {path}. {PUBLIC_SOURCES}")
    try:
        with tarfile.open(path, "r:") as tar:
            return {
                member.name.removeprefix("./"): (member.offset_data, member.size) for member in tar if member.isreg()
            }
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{path} is no plain tar ({error}). A compressed one cannot be read at random: unpack it with `tar xf {path.name}` and give "
            "the folder"
        ) from error


class Hdf5Features(FeatureStore):
    """One HDF5 file with a dataset per key, or a group per key with a dataset in it, named like the arrays of `.npz` files or the only one.

    Raises:
        FileNotFoundError: where there is no such file.
    """

    def __init__(self, path: Path):
        self.spec = f"hdf5:{path}"
        if not path.is_file():
            raise FileNotFoundError(f"no feature file {path}. {PUBLIC_SOURCES}")
        self.path, self._file = path, None
        self._process: int | None = None

    def __getstate__(self):
        return {**self.__dict__, "_file": None}

    @property
    def layout(self) -> str:
        is_group = any(not hasattr(self.file[key], "shape") for key in list(self.keys())[:1])
        return f"an HDF5 file, a {'group' if is_group else 'dataset'} per key"

    @property
    def file(self) -> Any:
        """The open file, of this process: an open HDF5 file cannot be shared, not even with forked processes."""
        if self._file is None or self._process != os.getpid():
            import h5py

            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise ValueError(f"{self.path} cannot be read: {error}") from error
            self._process = os.getpid()
        return self._file

    def keys(self) -> Iterator[str]:
        return iter(self.file.keys())

    def __contains__(self, key: str) -> bool:
        # A key with a slash would address an inner dataset, a dot the file itself.
        return bool(key) and "/" not in key and key != "." and "\0" not in key and key in self.file

    def location(self, key: str) -> str:
        return f"{self.path}[{key!r}]"

    def array_name(self, key: str) -> str:
        """Return the name of the dataset of a key."""
        return self._entry(key).name.removeprefix(f"/{key}").strip("/") or "a dataset"

    def _entry(self, key: str):
        if key not in self:
            raise KeyError(f"no features of {key!r} in {self.path}. {PUBLIC_SOURCES}")
        entry = self.file[key]
        if hasattr(entry, "shape"):
            return entry
        return entry[choose_name([n for n in entry if hasattr(entry[n], "shape")], f"{self.path}: the group {key!r}")]

    def _read(self, key: str) -> np.ndarray:
        return self._entry(key)[()]

    def _peek(self, key: str) -> np.ndarray:
        entry = self._entry(key)
        return shaped(entry.shape, entry.dtype)


def file_features(kind: str, place: Path, suffix: str, folder: str = "") -> FeatureStore:
    """Open one file per key in a folder or a tar. Where each key has `{key}_rgb` and `{key}_opt`, the two are put side by side.

    Args:
        kind, place, suffix: See [`FileFeatures`].
        folder: See [`TarFeatures`].
    """

    def store(suffix: str) -> FileFeatures:
        if place.is_dir():
            return FolderFeatures(kind, place, suffix)
        return TarFeatures(kind, place, suffix, folder)

    single = store(suffix)
    keys = list(single.keys())
    if keys and all(key.endswith(STREAMS) for key in keys) and len({key[-4:] for key in keys}) == len(STREAMS):
        both = ConcatenatedFeatures([store(f"{stream}{suffix}") for stream in STREAMS])
        both.spec = single.spec
        return both
    return single
