"""Features in a few large files that are memory-mapped: the form in which they are published on the Hub.

A packed folder holds `features-00000.safetensors`, … and `index.json`. A shard is one tensor `features (rows, dim)`, float32 or float16, with the
clips of one key after the other; the index says how many rows each key has, and the SHA-256 of each shard.

Why this form: `benchmarks/feature_stores.py` (600 videos of 1,024 channels) reads a random video about 4 times as fast as from a folder of `.npy`
files, 5 times as fast as from HDF5, and 4 to 11 times as fast as from Parquet, which is half as large again. A bare Arrow file is 3 times as fast, since
the reads are not checked there, and would need a schema and a width of its own for every dataset.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from .base import PUBLIC_SOURCES, FeatureStore

INDEX_FILE = "index.json"
TENSOR = "features"
FORMAT = "shine-hf packed features, version 1"
MEGABYTE = 1_000_000


class PackedFeatures(FeatureStore):
    """
    A packed folder. Only the index is read at the start.

    Args:
        folder: The folder; `FeatureStore.from_spec` takes a dataset repository of the Hub too.

    Raises:
        FileNotFoundError: where there is no such folder, or a shard is missing. ValueError: for an index that cannot be read, or shards
            that do not fit it.
    """

    def __init__(self, folder: str | Path):
        self.spec, self.layout = f"packed:{folder}", "a packed folder"
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder of packed features {folder}. {PUBLIC_SOURCES}")
        self.index = _read_index(self.folder)
        self._dim = self.index["dim"]
        self.encoder, self.clip_length = self.index["encoder"], self.index["clip_length"]
        self._encoders = self.index.get("encoders", [self.encoder])
        self._shards: dict[int, object] = {}
        self._places: dict[str, tuple[int, int, int]] = {}
        for number, shard in enumerate(self.index["shards"]):
            offset = 0
            for key, length in zip(shard["keys"], shard["lengths"]):
                self._places[key] = (number, offset, length)
                offset += length

    def __getstate__(self):
        return {**self.__dict__, "_shards": {}}  # Each process maps the shards itself.

    @property
    def dims(self) -> list[int]:
        return list(self.index["dims"])

    @property
    def encoders(self) -> list[str | None]:
        return list(self._encoders)

    def num_rows(self, key: str) -> int:
        return self._places[key][2] if key in self else len(self[key])

    def keys(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def _read(self, key: str) -> np.ndarray:
        if key not in self._places:
            known = "; it had none when they were packed" if key in self.index["missing"] else ""
            raise KeyError(f"no features of {key!r} in {self.spec}{known}. {PUBLIC_SOURCES}")
        number, offset, length = self._places[key]
        return self._shard(number)[offset : offset + length]

    def _shard(self, number: int):
        if number not in self._shards:
            from safetensors import SafetensorError, safe_open

            shard = self.index["shards"][number]
            path = self.folder / shard["file"]
            try:
                rows = safe_open(str(path), framework="np").get_slice(TENSOR)
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{path} cannot be read: {error}. Download or pack it again") from error
            expected = [sum(shard["lengths"]), self.dim]
            if rows.get_shape() != expected:
                raise ValueError(f"{path} holds numbers of shape {rows.get_shape()}, but the index says {expected}")
            self._shards[number] = rows
        return self._shards[number]

    def verify(self, progress: bool = True) -> None:
        """Compare the SHA-256 of each shard with the index (downloads are checked for their size alone).

        Raises:
            ValueError: for a shard whose content changed; names it.
        """
        for shard in tqdm(self.index["shards"], desc="SHA-256", unit="shard", disable=not progress):
            path = self.folder / shard["file"]
            if (found := file_sha256(path)) != shard["sha256"]:
                raise ValueError(
                    f"{path}: its SHA-256 is {found}, the index says {shard['sha256']}. Download or pack it again"
                )


@dataclass
class PackSummary:
    """What was packed, and which of the wanted keys had no features."""

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
    """Write the features of a store into a packed folder, which appears whole or not at all. The same features give the same bytes.

    Args:
        store: Any feature store; every array is checked while it is read.
        folder: A folder that does not exist yet.
        keys: Which to pack, the videos of a dataset say; all if left out.
        half_precision: Store float16. Half the size, an error of up to 0.05 % per number; reads give float32 all the same.
        allow_missing: Pack what there is, and say what is missing, in the index too; otherwise a missing key is an error.
        shard_megabytes: Size at which a new file is begun.
        progress: Show a bar.

    Raises:
        FileExistsError: where the folder exists. KeyError: for missing keys, all named. ValueError: for features that are empty, hold
            NaN, or have numbers beyond the range of float16.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: choose a new folder")
    wanted = sorted(set(store.keys() if keys is None else keys))
    missing = [key for key in wanted if key not in store]
    present = sorted(set(wanted) - set(missing))
    if not present or (missing and not allow_missing):
        raise KeyError(f"{store.spec} has no features of {len(missing)} of {len(wanted)} keys: {', '.join(missing)}")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    dtype = np.dtype(np.float16 if half_precision else np.float32)
    rows_per_shard = max(1, shard_megabytes * MEGABYTE // (store.dim * dtype.itemsize))
    shards, arrays, rows = [], {}, 0
    for key in tqdm(present, desc="packing", unit="key", disable=not progress):
        array = _cast(store[key], dtype, f"{store.spec}: features of {key!r}")
        if arrays and rows + len(array) > rows_per_shard:
            shards.append(_write_shard(unfinished, len(shards), arrays))
            arrays, rows = {}, 0
        arrays[key] = array
        rows += len(array)
    shards.append(_write_shard(unfinished, len(shards), arrays))
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
    (unfinished / INDEX_FILE).write_text(json.dumps(index, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.rename(folder)
    return PackSummary(
        keys=len(present),
        rows=sum(sum(shard["lengths"]) for shard in shards),
        dim=store.dim,
        bytes=sum((folder / shard["file"]).stat().st_size for shard in shards),
        missing=missing,
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cast(array: np.ndarray, dtype: np.dtype, what: str) -> np.ndarray:
    largest = np.abs(array).max()
    if largest > np.finfo(dtype).max:
        raise ValueError(f"{what} reach {largest:g}, too large for {dtype.name}: pack them in full precision")
    return array.astype(dtype)


def _write_shard(folder: Path, number: int, arrays: dict[str, np.ndarray]) -> dict:
    """Write the arrays one after the other; what the index says of the shard."""
    from safetensors.numpy import save_file

    path = folder / f"features-{number:05d}.safetensors"
    save_file({TENSOR: np.concatenate(list(arrays.values()))}, path)
    lengths = [len(array) for array in arrays.values()]
    return {"file": path.name, "sha256": file_sha256(path), "keys": list(arrays), "lengths": lengths}


def _read_index(folder: Path) -> dict:
    path = folder / INDEX_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {INDEX_FILE}: it was not written by `shine-hf features pack`")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise ValueError(f"its format is {index['format']!r}, not {FORMAT!r}")
        if any(len(shard["keys"]) != len(shard["lengths"]) for shard in index["shards"]):
            raise ValueError("the keys and lengths of a shard do not agree")
        if absent := {"dtype", "encoder", "clip_length", "missing"} - index.keys():
            raise ValueError(f"it has no {', '.join(sorted(absent))}")
        if sum(index["dims"]) != index["dim"]:
            raise ValueError("dims do not add up to dim")
        files: Sequence[str] = [shard["file"] for shard in index["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no index of packed features that this version reads: {error}") from error
    for file in files:
        # The index may come from anywhere: its files lie beside it.
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{path}: {file!r} is not a plain file name")
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder / file} is missing. Download or pack it again")
    return index
