"""Packed features: a few large memory-mapped files, the form in which features are published on the Hub.

A packed folder contains the shards `features-00000.arrow`, … and `index.json`. A shard has one row per key, with the columns `key` and
`features` (float32 or float16). `datasets.load_dataset("arrow", data_files=…)` reads it too. The index records the encoder, the clip length
and the SHA-256 of each shard.

`benchmarks/feature_stores.py` compares this form with others: a random read takes 1.3 times as long from safetensors, and 8 to 19 times as
long from `.npy` files, HDF5, Parquet or through the indexing of `datasets`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..io import atomic_dir
from .arrow import ArrowArrays, write_arrow
from .base import PUBLIC_SOURCES, FeatureStore

INDEX_FILE = "index.json"
FORMAT = "shine-hf packed features, version 2"
MEGABYTE = 1_000_000


class PackedFeatures(FeatureStore):
    """
    A packed folder. Opening it reads only the index; the shards are memory-mapped on first use.

    Args:
        folder: The folder. `FeatureStore.from_spec` also accepts a dataset repository on the Hub.

    Raises:
        FileNotFoundError: if the folder or a shard is missing.
        ValueError: for an index that cannot be read, or shards that do not match it.
    """

    def __init__(self, folder: str | Path):
        self.spec, self.layout = f"packed:{folder}", "a packed folder of Arrow files"
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder of packed features {folder}. {PUBLIC_SOURCES}")
        self.index = _read_index(self.folder)
        self._dim = self.index["dim"]
        self.encoder, self.clip_length = self.index["encoder"], self.index["clip_length"]
        self._arrays: ArrowArrays | None = None

    @property
    def arrays(self) -> ArrowArrays:
        """The features by key, as stored.

        Raises:
            ValueError: for shards that cannot be read, or whose width is not that of the index.
        """
        if self._arrays is None:
            try:
                arrays = ArrowArrays([self.folder / shard["file"] for shard in self.index["shards"]])
            except ValueError as error:
                raise ValueError(f"{error}. Download or pack it again") from error
            if arrays.dim != self.dim:
                raise ValueError(
                    f"{self.folder} contains features of width {arrays.dim}, but the index says {self.dim}"
                )
            self._arrays = arrays
        return self._arrays

    @property
    def dims(self) -> list[int]:
        return list(self.index["dims"])

    @property
    def encoders(self) -> list[str | None]:
        return list(self.index["encoders"])

    def num_rows(self, key: str) -> int:
        return self.arrays.num_rows(key) if key in self else len(self[key])

    def keys(self) -> Iterator[str]:
        return iter(self.arrays)

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def array_name(self, key: str) -> str:
        return "the column `features`"

    def _read(self, key: str) -> np.ndarray:
        if key not in self:
            known = "; it had none when the store was packed" if key in self.index["missing"] else ""
            raise KeyError(f"no features of {key!r} in {self.spec}{known}. {PUBLIC_SOURCES}")
        return self.arrays[key]

    def verify(self, progress: bool = True) -> None:
        """Compare the SHA-256 of each shard with the index. (Downloading only checks sizes.)

        Raises:
            ValueError: for a shard whose content has changed. The message names it.
        """
        for shard in tqdm(self.index["shards"], desc="SHA-256", unit="shard", disable=not progress):
            path = self.folder / shard["file"]
            if (found := file_sha256(path)) != shard["sha256"]:
                raise ValueError(
                    f"{path}: its SHA-256 is {found}, but the index says {shard['sha256']}. Download or pack it again"
                )


@dataclass
class PackSummary:
    """What [`pack_features`] wrote, and which of the requested keys had no features."""

    keys: int
    rows: int
    dim: int
    bytes: int
    missing: list[str]


def pack_features(
    store: FeatureStore,
    folder: str | Path,
    *,
    keys: Iterable[str] | None = None,
    half_precision: bool = False,
    allow_missing: bool = False,
    shard_megabytes: int = 512,
    progress: bool = True,
) -> PackSummary:
    """Write the features of a store to a packed folder atomically. The same features give the same bytes.

    Args:
        store: Any feature store. Every array is checked when it is read.
        folder: A folder that does not exist yet.
        keys: Which keys to pack, e.g. the videos of a dataset; by default all.
        half_precision: Store float16: half the size, with an error of up to 0.05 % per number. Reads still return float32.
        allow_missing: Pack the keys that have features and list the others in the index; otherwise a missing key is an error.
        shard_megabytes: Maximum size of a shard, unless a single array is larger.
        progress: Show a progress bar.

    Raises:
        FileExistsError: if the folder exists.
        KeyError: for missing keys. The message names all of them.
        ValueError: for features that are empty, contain NaN, or exceed the range of float16.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: choose a new folder")
    wanted = sorted(set(store.keys() if keys is None else keys))
    missing = [key for key in wanted if key not in store]
    present = sorted(set(wanted) - set(missing))
    if not present or (missing and not allow_missing):
        raise KeyError(f"{store.spec} has no features of {len(missing)} of {len(wanted)} keys: {', '.join(missing)}")
    dtype = np.dtype(np.float16 if half_precision else np.float32)
    rows_per_shard = max(1, shard_megabytes * MEGABYTE // (store.dim * dtype.itemsize))
    with atomic_dir(folder) as unfinished:
        shards, arrays, rows = [], {}, 0
        for key in tqdm(present, desc="packing", unit="key", disable=not progress):
            array = _cast(store[key], dtype, f"{store.spec}: features of {key!r}")
            if arrays and rows + len(array) > rows_per_shard:
                shards.append(_write_shard(Path(unfinished), len(shards), arrays))
                arrays, rows = {}, 0
            arrays[key] = array
            rows += len(array)
        shards.append(_write_shard(Path(unfinished), len(shards), arrays))
        index = {
            "format": FORMAT,
            "dtype": dtype.name,
            "dim": store.dim,
            "dims": list(store.dims),
            "encoder": store.encoder,
            "encoders": store.encoders,
            "clip_length": store.clip_length,
            "missing": missing,
            "shards": shards,
        }
        Path(unfinished, INDEX_FILE).write_text(json.dumps(index, ensure_ascii=False) + "\n", encoding="utf-8")
    packed = PackedFeatures(folder)
    return PackSummary(
        keys=len(packed),
        rows=sum(map(packed.num_rows, packed)),
        dim=store.dim,
        bytes=sum((folder / shard["file"]).stat().st_size for shard in shards),
        missing=missing,
    )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cast(array: np.ndarray, dtype: np.dtype, what: str) -> np.ndarray:
    largest = np.abs(array).max()
    if largest > np.finfo(dtype).max:
        raise ValueError(f"{what} reach {largest:g}, which is too large for {dtype.name}: pack them in full precision")
    return array.astype(dtype)


def _write_shard(folder: Path, number: int, arrays: dict[str, np.ndarray]) -> dict:
    path = folder / f"features-{number:05d}.arrow"
    write_arrow(path, arrays)
    return {"file": path.name, "sha256": file_sha256(path)}


def is_packed(folder: Path) -> bool:
    """Return whether a folder is packed, in this version of the format or the first, whose shards were safetensors."""
    shards = [*folder.glob("features-*.arrow"), *folder.glob("features-*.safetensors")]
    return bool(shards) and (folder / INDEX_FILE).is_file()


def _read_index(folder: Path) -> dict:
    path = folder / INDEX_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} contains no {INDEX_FILE}: it was not written by `shine-hf features pack`")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise ValueError(f"its format is {index['format']!r}, not {FORMAT!r}; pack the features again")
        if absent := {"dtype", "encoder", "encoders", "clip_length", "missing"} - index.keys():
            raise ValueError(f"it has no {', '.join(sorted(absent))}")
        if sum(index["dims"]) != index["dim"]:
            raise ValueError("dims do not add up to dim")
        files: Sequence[str] = [shard["file"] for shard in index["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not an index of packed features that this version can read: {error}") from error
    for file in files:
        # The index may come from anyone, so it must not point outside its folder.
        if Path(file).name != file or not file.endswith(".arrow"):
            raise ValueError(f"{path}: {file!r} is not a plain file name")
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder / file} is missing. Download or pack it again")
    return index
