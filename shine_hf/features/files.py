"""Stores with one file per key, in a folder or a tar, and stores in a single HDF5 file."""

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
from ..encoders.folders import SETTINGS_FILE
from ..specs import split_specs
from .base import PUBLIC_SOURCES, ConcatenatedFeatures, FeatureStore
from .formats import FORMATS, READ_ERRORS, choose_name, shaped, unreadable

# Suffixes of the keys of I3D's two streams, which are in separate files; see [`file_features`].
STREAMS = (("_rgb", "_opt"), ("_rgb", "_flow"))
# R2-Tuning puts the number of stored layers in the folder's name.
_LAYERS = re.compile(r"_k(\d+)$")


class FileFeatures(FeatureStore):
    """One file per key: `{key}{suffix}`. Subclasses define where the files are.

    Args:
        kind: The kind in the specification.
        place: The folder or tar.
        suffix: The part of the file name after the key, e.g. `.npz` or `_rgb.npy`.
        folder: The folder in a tar.
    """

    def __init__(self, kind: str, place: Path, suffix: str, folder: str = ""):
        self.spec, self.place, self.suffix = f"{kind}:{place}", place, suffix
        self.layout = f"{'a folder' if place.is_dir() else 'a tar'}, one {{key}}{suffix} per key"
        self._format = suffix[suffix.rindex(".") :]
        layers = _LAYERS.search(folder) or _LAYERS.search(place.name.removesuffix(".tar"))
        self._layers = int(layers[1]) if layers else None

    def _open(self, key: str) -> IO[bytes]:
        """Open the file of a key.

        Raises:
            KeyError: if there is none.
        """
        raise NotImplementedError

    def _read(self, key: str) -> np.ndarray:
        return self._load(key, FORMATS[self._format].read)

    def peek(self, key: str) -> np.ndarray:
        return self._load(key, FORMATS[self._format].peek)

    def array_name(self, key: str) -> str:
        """Return the name that the array of a key has in its file."""
        return self._load(key, FORMATS[self._format].name)

    def _load(self, key: str, load):
        with self._open(key) as file:
            try:
                return load(file)
            except READ_ERRORS as error:
                raise ValueError(f"{self.location(key)} cannot be read: {unreadable(file, error)}") from error


class FolderFeatures(FileFeatures):
    """Files in a folder. If `shine-hf features extract` wrote the folder, the encoder and the clip length are known.

    Raises:
        FileNotFoundError: if the folder does not exist.
        ValueError: for a `features.json` that cannot be read.
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
                # Widths of the concatenated encoders: the features of each are normalized separately.
                self._dims = [int(dim) for dim in settings["dims"]] if "dims" in settings else None
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{record} must contain encoder and clip_length ({error!r})") from error

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
        """Return the file of a key. Keys come from data, so they must not point outside the folder, even through a symbolic link."""
        path = self.place / f"{key}{self.suffix}"
        is_name = bool(key) and "\0" not in key and Path(key).name == key
        # The Hub's cache contains links to its own blobs.
        if not is_name or not (self._root in path.resolve().parents or _is_hub_blob(path)):
            raise ValueError(f"{key!r} is not a plain file name: features are only read from {self.place}")
        return path


def _is_hub_blob(path: Path) -> bool:
    """Return whether a link in a snapshot of the Hub's cache points to the blobs of the same repository."""
    parents = list(path.absolute().parents)
    snapshots = next((parent for parent in parents if parent.name == "snapshots"), None)
    return snapshots is not None and path.resolve().parent == (snapshots.parent / "blobs").resolve()


class TarFeatures(FileFeatures):
    """Files in an uncompressed tar, read in place. Only the table of contents is kept in memory.

    Args:
        kind, suffix, folder: See [`FileFeatures`].
        place: The tar.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not an uncompressed tar.
    """

    def __init__(self, kind: str, place: Path, suffix: str, folder: str = ""):
        super().__init__(kind, place, suffix, folder)
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
        # Opened for each read: worker processes would share an open file, including its position.
        with self.place.open("rb") as tar:
            tar.seek(offset)
            return io.BytesIO(tar.read(size))


def tar_members(path: Path) -> dict[str, tuple[int, int]]:
    """Return name -> (offset, size) of each regular file in a tar, except the hidden files that macOS adds.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not a tar, or is compressed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no feature file {path}. {PUBLIC_SOURCES}")
    try:
        with tarfile.open(path, "r:") as tar:
            members = {member.name.removeprefix("./"): member for member in tar if member.isreg()}
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{path} is not an uncompressed tar ({error}). A compressed one does not allow random access: unpack it with "
            f"`tar xf {path.name}` and pass the folder"
        ) from error
    return {
        name: (member.offset_data, member.size)
        for name, member in members.items()
        if not name.rpartition("/")[2].startswith(".")
    }


class Hdf5Features(FeatureStore):
    """One HDF5 file with a dataset per key, or a group per key.

    [`~shine_hf.features.formats.choose_name`] finds the dataset of a group that contains the features.

    Raises:
        FileNotFoundError: if the file does not exist.
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
        """The file as opened by this process: an open HDF5 file cannot be shared, even with forked processes."""
        if self._file is None or self._process != os.getpid():
            import h5py

            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                with self.path.open("rb") as content:
                    raise ValueError(f"{self.path} cannot be read: {unreadable(content, error)}") from error
            self._process = os.getpid()
        return self._file

    def keys(self) -> Iterator[str]:
        return iter(self.file.keys())

    def __contains__(self, key: str) -> bool:
        # A key with a slash would address an inner dataset, and a dot the file itself.
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
        names = [name for name in entry if hasattr(entry[name], "shape")]
        return entry[choose_name(names, lambda name: entry[name].ndim, f"{self.path}: the group {key!r}")]

    def _read(self, key: str) -> np.ndarray:
        return self._entry(key)[()]

    def peek(self, key: str) -> np.ndarray:
        entry = self._entry(key)
        return shaped(entry.shape, entry.dtype)


def file_features(kind: str, place: Path, suffix: str, folder: str = "") -> FeatureStore:
    """Open a folder or tar with one file per key. If the files are `{key}_rgb` and `{key}_opt` (or `_flow`), the two are concatenated.

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
    for streams in STREAMS:
        if all(key.endswith(streams) for key in keys) and all(any(k.endswith(s) for k in keys) for s in streams):
            both = ConcatenatedFeatures([store(f"{stream}{suffix}") for stream in streams])
            both.spec = single.spec
            return both
    return single
