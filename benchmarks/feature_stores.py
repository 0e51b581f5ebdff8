"""Compare random reads, start-up time and size of packed features with other formats, in one run.

    python benchmarks/feature_stores.py [--videos 600] [--dim 1024]

Features are random numbers for 30 to 100 clips, as in Charades. All files are in the page cache, so this compares the work per read and not
the disk. Each array is summed, so that memory-mapped formats load their pages. All stores except Parquet validate what they read.

Measured with 600 videos of 1,024 channels, one thread, on a busy machine: a random packed read takes 127 us. It takes 1.3 times as long from
safetensors (the packed format before Arrow), 3.7 from float16, 7.7 from Parquet, 9 from `.npy` files, 15 from HDF5, and 19 through `datasets`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from safetensors import safe_open
from safetensors.numpy import save_file

from shine_hf.features.base import FeatureStore
from shine_hf.features.packed import pack_features

ROUNDS = 5


class SafetensorsFile(FeatureStore):
    """All clips in one tensor with an index of the videos: the packed format before Arrow."""

    def __init__(self, path: Path):
        self.spec = f"safetensors:{path}"
        self.rows = safe_open(str(path), framework="np").get_slice("features")
        self.places = json.loads(path.with_suffix(".json").read_text())

    def keys(self) -> Iterator[str]:
        return iter(self.places)

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def _read(self, key: str) -> np.ndarray:
        start, end = self.places[key]
        return self.rows[start:end]


class DatasetRows(FeatureStore):
    """The packed file, read through `datasets` indexing."""

    def __init__(self, path: Path):
        self.spec = f"datasets:{path}"
        self.rows = Dataset.from_file(str(path)).with_format("numpy")
        self.places = {key: row for row, key in enumerate(self.rows["key"])}

    def keys(self) -> Iterator[str]:
        return iter(self.places)

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def _read(self, key: str) -> np.ndarray:
        return np.asarray(self.rows[self.places[key]]["features"])


class ParquetFile:
    """A Parquet file with one row group per video."""

    def __init__(self, path: Path, dim: int):
        self.file, self.dim = pq.ParquetFile(path), dim
        self.groups = {key: group for group, key in enumerate(self.file.read(["key"])["key"].to_pylist())}

    def __getitem__(self, key: str) -> np.ndarray:
        features = self.file.read_row_group(self.groups[key], ["features"])["features"]
        return features.chunk(0).values.to_numpy().reshape(-1, self.dim)


def write_all(root: Path, videos: int, dim: int) -> dict[str, tuple[Path, Callable]]:
    """Write the same features in every format. Return name -> path and how to open it."""
    rng = np.random.default_rng(0)
    arrays = {f"v{i}": rng.standard_normal((rng.integers(30, 101), dim), dtype=np.float32) for i in range(videos)}
    (root / "npy").mkdir()
    places, end = {}, 0
    with h5py.File(root / "features.hdf5", "w") as file:
        for key, array in arrays.items():
            np.save(root / "npy" / f"{key}.npy", array)
            file[key] = array
            places[key] = (end, end + len(array))
            end += len(array)
    save_file({"features": np.concatenate(list(arrays.values()))}, root / "features.safetensors")
    (root / "features.json").write_text(json.dumps(places))
    columns = {"key": list(arrays), "features": [array.ravel() for array in arrays.values()]}
    table = pa.table(columns, schema=pa.schema({"key": pa.string(), "features": pa.list_(pa.float32())}))
    pq.write_table(table, root / "features.parquet", row_group_size=1)
    for name, half in (("packed", False), ("packed16", True)):
        pack_features(FeatureStore.from_spec(str(root / "npy")), root / name, half_precision=half, progress=False)
    shard = root / "packed" / "features-00000.arrow"
    return {
        "packed (Arrow)": (root / "packed", lambda: FeatureStore.from_spec(str(root / "packed"))),
        "packed, float16": (root / "packed16", lambda: FeatureStore.from_spec(str(root / "packed16"))),
        "safetensors": (root / "features.safetensors", lambda: SafetensorsFile(root / "features.safetensors")),
        "datasets indexing": (shard, lambda: DatasetRows(shard)),
        ".npy folder": (root / "npy", lambda: FeatureStore.from_spec(str(root / "npy"))),
        "HDF5": (root / "features.hdf5", lambda: FeatureStore.from_spec(str(root / "features.hdf5"))),
        "Parquet, no checks": (root / "features.parquet", lambda: ParquetFile(root / "features.parquet", dim)),
    }


def measure(open_store: Callable, keys: list[str]) -> tuple[float, float]:
    """Return the seconds to open a store and read one video, and the seconds per read (best of several rounds)."""
    start = time.perf_counter()
    store = open_store()
    float(store[keys[0]].sum())
    opened = time.perf_counter() - start
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for key in keys:
            float(store[key].sum())
        rounds.append((time.perf_counter() - start) / len(keys))
    return opened, min(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=600)
    parser.add_argument("--dim", type=int, default=1024)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        stores = write_all(Path(root), args.videos, args.dim)
        keys = np.random.default_rng(1).permutation([f"v{i}" for i in range(args.videos)]).tolist()
        baseline = None
        print(f"{'form':20s} {'open + first read':>18s} {'read':>10s} {'x packed':>9s} {'size':>10s} {'files':>6s}")
        for name, (path, open_store) in stores.items():
            opened, read = measure(open_store, keys)
            baseline = baseline or read
            files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
            size = sum(file.stat().st_size for file in files) / 1e6
            print(
                f"{name:20s} {opened * 1e3:15.2f} ms {read * 1e6:7.0f} us {read / baseline:9.2f} {size:7.1f} MB {len(files):6d}"
            )


if __name__ == "__main__":
    main()
