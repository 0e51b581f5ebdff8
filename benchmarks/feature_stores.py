"""Random reads, start-up and size of the packed form of features against the other forms, in one run.

    python benchmarks/feature_stores.py [--videos 600] [--dim 1024]

Features are random numbers of 30 to 100 clips, as those of Charades. All files are in the page cache: what is compared is the work per read,
not the disk. Each read is summed up, so that memory-mapped forms do pay for their pages.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shine_hf.features.base import FeatureStore
from shine_hf.features.packed import pack_features

ROUNDS = 3


class ArrowFile:
    """One row per video in a memory-mapped Arrow file."""

    def __init__(self, path: Path, dim: int):
        self.table, self.dim = pa.ipc.open_file(pa.memory_map(str(path))).read_all(), dim
        self.rows = {key: row for row, key in enumerate(self.table["key"].to_pylist())}

    def __getitem__(self, key: str) -> np.ndarray:
        return self.table["features"][self.rows[key]].values.to_numpy().reshape(-1, self.dim)


class ParquetFile:
    """One row group per video in a Parquet file."""

    def __init__(self, path: Path, dim: int):
        self.file, self.dim = pq.ParquetFile(path), dim
        self.groups = {key: group for group, key in enumerate(self.file.read(["key"])["key"].to_pylist())}

    def __getitem__(self, key: str) -> np.ndarray:
        features = self.file.read_row_group(self.groups[key], ["features"])["features"]
        return features.chunk(0).values.to_numpy().reshape(-1, self.dim)


def write_all(root: Path, videos: int, dim: int) -> dict[str, tuple[Path, Callable]]:
    """Write the same features in every form: name -> its path, and how it is opened."""
    rng = np.random.default_rng(0)
    arrays = {f"v{i}": rng.standard_normal((rng.integers(30, 101), dim), dtype=np.float32) for i in range(videos)}
    (root / "npy").mkdir()
    with h5py.File(root / "features.hdf5", "w") as file:
        for key, array in arrays.items():
            np.save(root / "npy" / f"{key}.npy", array)
            file[key] = array
    columns = {"key": list(arrays), "features": [array.ravel() for array in arrays.values()]}
    table = pa.table(columns, schema=pa.schema({"key": pa.string(), "features": pa.list_(pa.float32())}))
    with pa.OSFile(str(root / "features.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=64)
    pq.write_table(table, root / "features.parquet", row_group_size=1)
    npy = FeatureStore.from_spec(f"i3d:{root / 'npy'}")
    for name, half in (("packed", False), ("packed16", True)):
        pack_features(npy, root / name, half_precision=half, progress=False)
    return {
        "packed": (root / "packed", lambda: FeatureStore.from_spec(f"packed:{root / 'packed'}")),
        "packed, float16": (root / "packed16", lambda: FeatureStore.from_spec(f"packed:{root / 'packed16'}")),
        ".npy folder": (root / "npy", lambda: FeatureStore.from_spec(f"i3d:{root / 'npy'}")),
        "HDF5": (root / "features.hdf5", lambda: FeatureStore.from_spec(f"hdf5:{root / 'features.hdf5'}")),
        "Arrow, no checks": (root / "features.arrow", lambda: ArrowFile(root / "features.arrow", dim)),
        "Parquet, no checks": (root / "features.parquet", lambda: ParquetFile(root / "features.parquet", dim)),
    }


def measure(open_store: Callable, keys: list[str]) -> tuple[float, float]:
    """Seconds to open and read one video, and seconds per read, the best of some rounds."""
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
