"""Variable-length arrays by key, in memory-mapped Arrow files that `datasets` can read too.

A file has one row per key, with the columns `key` (string) and `features` (list of rows, each a list of `dim` numbers). All processes
that open a file share its pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..io import atomic_file

KEY, ARRAY = "key", "features"


def write_arrow(path: str | Path, arrays: Mapping[str, np.ndarray], rows_per_chunk: int = 65536) -> None:
    """Write arrays to a new file atomically. The same arrays give the same bytes.

    Args:
        path: Where to write.
        arrays: Key -> `(length, dim)`; at least one array, all with the same `dim` and the same type, float16 or float32.
        rows_per_chunk: Start a new record batch after this many rows.
    """
    from datasets import Features, List, Value

    first = next(iter(arrays.values()))
    columns = {KEY: Value("string"), ARRAY: List(List(Value(first.dtype.name), length=first.shape[1]))}
    schema = Features(columns).arrow_schema
    with atomic_file(path, "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        chunk: dict[str, np.ndarray] = {}
        for key, array in arrays.items():
            chunk[key] = array
            if sum(map(len, chunk.values())) >= rows_per_chunk:
                writer.write_batch(_record_batch(chunk, schema))
                chunk = {}
        if chunk:
            writer.write_batch(_record_batch(chunk, schema))


def _record_batch(arrays: Mapping[str, np.ndarray], schema: pa.Schema) -> pa.RecordBatch:
    rows = np.concatenate(list(arrays.values()))
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays.values()])]).astype(np.int32)
    numbers = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    columns = [pa.array(list(arrays), pa.string()), pa.ListArray.from_arrays(pa.array(offsets), numbers)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class ArrowArrays(Mapping[str, np.ndarray]):
    """Map keys to read-only views `(length, dim)` of the arrays in files written by [`write_arrow`]. Nothing is copied.

    Args:
        paths: The files. All arrays must have the same width and type.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that cannot be read, lacks the columns, or whose width or type differs from that of the others.
    """

    def __init__(self, paths: Sequence[str | Path]):
        self.paths = [Path(path) for path in paths]
        self.dim: int | None = None
        self.dtype: np.dtype | None = None
        self._chunks: list[tuple[np.ndarray, np.ndarray]] = []
        self._places: dict[str, tuple[int, int]] = {}
        for path in self.paths:
            self._map(path)

    def __getstate__(self):
        return {"paths": self.paths}  # Each process maps the files itself.

    def __setstate__(self, state):
        self.__init__(state["paths"])

    def __getitem__(self, key: str) -> np.ndarray:
        chunk, row = self._places[key]
        offsets, rows = self._chunks[chunk]
        return rows[offsets[row] : offsets[row + 1]]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def num_rows(self, key: str) -> int:
        """Return the number of rows of an array."""
        chunk, row = self._places[key]
        offsets, _ = self._chunks[chunk]
        return int(offsets[row + 1] - offsets[row])

    def _map(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        try:
            batches = pa.ipc.open_stream(pa.memory_map(str(path))).read_all().to_batches()
            for batch in batches:
                arrays = batch.column(ARRAY)
                dim, numbers = arrays.type.value_type.list_size, arrays.values
                rows = numbers.values.to_numpy().reshape(-1, dim)
                if self.dim not in (None, dim) or self.dtype not in (None, rows.dtype):
                    raise ValueError(
                        f"its arrays have width {dim} and type {rows.dtype}, those of earlier files {self.dim} and {self.dtype}"
                    )
                self.dim, self.dtype = dim, rows.dtype
                self._places |= {
                    key: (len(self._chunks), row) for row, key in enumerate(batch.column(KEY).to_pylist())
                }
                self._chunks.append((arrays.offsets.to_numpy(), rows))
        except (pa.ArrowException, OSError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as Arrow features: {error}") from error
