"""Features by key: clip features of videos, or token features of queries, from folders and files in the field's formats."""

from __future__ import annotations

import json
import os
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ..encoders.extract import SETTINGS_FILE

# Where people find the features that the papers used.
PUBLIC_SOURCES = (
    "I3D features of Charades are public with VSLNet (github.com/26hzhang/VSLNet), C3D features of ActivityNet with MS-2D-TAN "
    "(github.com/microsoft/VideoX); `--video_features simulated:` runs on stand-ins without any download"
)
# A plus sign may stand in a path: only one that begins another specification separates.
_SPEC_SEPARATOR = re.compile(r"\+(?=[a-z0-9]+:)")
# In the order in which they are looked for; the last two are what CLIP text extractors write.
NPZ_KEYS = ("features", "last_hidden_state", "pooler_output")


class FeatureStore(ABC):
    """
    `store[key]` -> float32 `(length, dim)`: clip features of the video `key`, or token features of the query `key`.

    Every array is checked when it is read. Stores can be pickled, for data loaders with workers.

    Raises:
        KeyError: for a key without features; names the file that was looked for and where features are to be had.
        ValueError: for a key that would leave the folder, and for features that are empty, not two-dimensional, or hold NaN.
    """

    spec: str
    encoder: str | None = None
    """Specification of the video encoder that computed the features, where the store knows it."""
    clip_length: float | None = None
    """Seconds per clip, where the store knows."""
    _dim: int | None = None

    @staticmethod
    def from_spec(spec: str, rows: Sequence | None = None, clip_length: float = 0.5) -> FeatureStore:
        """The store that a specification describes.

        Args:
            spec: `i3d:DIR` (a folder of `.npy` files), `npz:DIR`, `hdf5:FILE`, `packed:DIR_OR_HUB_NAME` (see [`PackedFeatures`]) or
                `simulated:[options]` (see [`SimulatedFeatures`]); several joined by `+` are concatenated.
            rows: Annotations of all splits, which `simulated:` plants into its features.
            clip_length: Seconds per clip, for `simulated:`.

        Raises:
            ValueError: for an unknown kind. FileNotFoundError: where the folder or file does not exist.
        """
        parts = _SPEC_SEPARATOR.split(spec)
        if len(parts) > 1:
            return FeatureStore.from_specs(parts, rows, clip_length)
        kind, _, where = spec.partition(":")
        if kind == "simulated":
            from .simulated import SimulatedFeatures

            if rows is None:
                raise ValueError("simulated: plants annotations into features, so it needs the rows of all splits")
            return SimulatedFeatures.from_options(where, rows=rows, clip_length=clip_length)
        if kind == "packed":
            from .packed import PackedFeatures

            return PackedFeatures(where)
        if kind not in _FILE_STORES:
            kinds = ", ".join([*_FILE_STORES, "packed", "simulated"])
            raise ValueError(f"unknown feature store {spec!r}: expected KIND:PATH with one of {kinds}")
        if not where:
            raise ValueError(f"feature store {spec!r}: the path is missing, {kind}:PATH is expected")
        return _FILE_STORES[kind](Path(where).expanduser())

    @staticmethod
    def from_specs(specs: Sequence[str], rows: Sequence | None = None, clip_length: float = 0.5) -> FeatureStore:
        """One store, or the concatenation of several along the feature axis, cut to the shortest of them."""
        stores = [FeatureStore.from_spec(spec, rows, clip_length) for spec in specs]
        return stores[0] if len(stores) == 1 else ConcatenatedFeatures(stores)

    @abstractmethod
    def _read(self, key: str) -> np.ndarray:
        """The raw array of a key; KeyError where there is none."""

    @abstractmethod
    def keys(self) -> Iterator[str]:
        """All keys."""

    @property
    def dim(self) -> int:
        """Width of the features, read off the first entry."""
        if self._dim is None:
            key = next(iter(self), None)
            if key is None:
                raise FileNotFoundError(f"{self.spec} holds no features. {PUBLIC_SOURCES}")
            self._dim = int(self._two_dimensional(key, self._read(key)).shape[1])
        return self._dim

    @property
    def dims(self) -> list[int]:
        """Width of each feature type that is concatenated."""
        return [self.dim]

    def __getitem__(self, key: str) -> np.ndarray:
        features = self._two_dimensional(key, self._read(key)).astype(np.float32, copy=False)
        if not features.size:
            raise ValueError(
                f"{self.spec}: features of {key!r} have shape {features.shape}; at least one row and channel is needed"
            )
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{self.spec}: features of {key!r} hold NaN or infinite numbers in row {int(np.argmin(finite))}"
            )
        if features.shape[1] != self.dim:
            raise ValueError(
                f"{self.spec}: features of {key!r} have {features.shape[1]} channels, the others {self.dim}"
            )
        return features

    @abstractmethod
    def __contains__(self, key: str) -> bool:
        """Whether there are features of a key; reads none."""

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _two_dimensional(self, key: str, features: np.ndarray) -> np.ndarray:
        features = np.asarray(features)
        if features.ndim == 1:  # One pooled vector.
            features = features[None]
        elif features.ndim == 3 and len(features) == 1:  # An extractor's batch axis.
            features = features[0]
        if features.ndim != 2 or features.dtype.kind not in "fiu":
            raise ValueError(
                f"{self.spec}: features of {key!r} have shape {features.shape} and type {features.dtype}; numbers of shape "
                "(length, channels) are needed"
            )
        return features


class FolderFeatures(FeatureStore):
    """One file per key in a folder. Subclasses say how to read a file."""

    kind = suffix = ""

    def __init__(self, folder: Path):
        self.spec = f"{self.kind}:{folder}"
        if not folder.is_dir():
            raise FileNotFoundError(f"no feature folder {folder}. {PUBLIC_SOURCES}")
        self.folder = folder

    def keys(self) -> Iterator[str]:
        return (path.name.removesuffix(self.suffix) for path in sorted(self.folder.glob(f"*{self.suffix}")))

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def _read(self, key: str) -> np.ndarray:
        path = self._path(key)
        if not path.is_file():
            raise KeyError(f"no features of {key!r}: {path} does not exist. {PUBLIC_SOURCES}")
        try:
            return self._load(path)
        except (ValueError, OSError, EOFError, BadZipFile, zlib.error) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def _path(self, key: str) -> Path:
        """The file of a key. Keys come from data, so they must not lead out of the folder, a link in it included."""
        path = self.folder / f"{key}{self.suffix}"
        if not key or "\0" in key or Path(key).name != key or self.folder.resolve() not in path.resolve().parents:
            raise ValueError(f"{key!r} is not a plain file name: features are read from {self.folder} alone")
        return path

    @abstractmethod
    def _load(self, path: Path) -> np.ndarray: ...


class NpyFeatures(FolderFeatures):
    """A folder of `.npy` files, as I3D features of Charades come."""

    kind, suffix = "i3d", ".npy"

    def _load(self, path: Path) -> np.ndarray:
        return np.load(path, allow_pickle=False)


class NpzFeatures(FolderFeatures):
    """A folder of `.npz` files with one of the keys `features`, `last_hidden_state`, `pooler_output`.

    Where `shine-hf features extract` wrote it, it knows the encoder and the clip length.
    """

    kind, suffix = "npz", ".npz"

    def __init__(self, folder: Path):
        super().__init__(folder)
        record = folder / SETTINGS_FILE
        if record.is_file():
            try:
                settings = json.loads(record.read_text(encoding="utf-8"))
                self.encoder, self.clip_length = str(settings["encoder"]), float(settings["clip_length"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{record} should name the encoder and the clip_length ({error!r})") from error

    def _load(self, path: Path) -> np.ndarray:
        with np.load(path, allow_pickle=False) as arrays:
            for name in NPZ_KEYS:
                if name in arrays:
                    return arrays[name]
            raise ValueError(f"it holds {', '.join(arrays) or 'nothing'}, but none of {', '.join(NPZ_KEYS)}")


class Hdf5Features(FeatureStore):
    """One HDF5 file with a dataset per key, or a group per key with a dataset named like those of `.npz` files or `c3d_features`."""

    def __init__(self, path: Path):
        self.spec = f"hdf5:{path}"
        if not path.is_file():
            raise FileNotFoundError(f"no feature file {path}. {PUBLIC_SOURCES}")
        self.path, self._file, self._process = path, None, None

    def __getstate__(self):
        return {**self.__dict__, "_file": None}

    @property
    def file(self):
        # An open HDF5 file cannot be shared between processes, forked ones included: each opens its own.
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
        return bool(key) and "/" not in key and key != "." and key in self.file

    def _read(self, key: str) -> np.ndarray:
        if key not in self:
            raise KeyError(f"no features of {key!r} in {self.path}. {PUBLIC_SOURCES}")
        entry = self.file[key]
        if not hasattr(entry, "shape"):
            inner = next((name for name in (*NPZ_KEYS, "c3d_features") if name in entry), None)
            if inner is None:
                raise ValueError(
                    f"{self.path}: the group {key!r} holds {', '.join(entry) or 'nothing'}, but no known features"
                )
            entry = entry[inner]
        return entry[()]


class ConcatenatedFeatures(FeatureStore):
    """Several stores side by side along the feature axis, cut to the shortest (extractors differ by a clip or two)."""

    def __init__(self, stores: Sequence[FeatureStore]):
        self.stores = list(stores)
        self.spec = "+".join(store.spec for store in self.stores)

    @property
    def dims(self) -> list[int]:
        return [dim for store in self.stores for dim in store.dims]

    @property
    def dim(self) -> int:
        return sum(self.dims)

    def keys(self) -> Iterator[str]:
        return (key for key in self.stores[0] if key in self)

    def __contains__(self, key: str) -> bool:
        return all(key in store for store in self.stores)

    def _read(self, key: str) -> np.ndarray:
        parts = [store[key] for store in self.stores]
        length = min(map(len, parts))
        return np.concatenate([part[:length] for part in parts], axis=1)


_FILE_STORES = {"i3d": NpyFeatures, "npz": NpzFeatures, "hdf5": Hdf5Features}
