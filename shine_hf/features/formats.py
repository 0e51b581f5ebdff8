"""Read one array from an open `.npy`, `.npz` or `.pt` file, without ever loading a pickle."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import IO, NamedTuple

import numpy as np

ARRAY_NAMES = ("features", "last_hidden_state", "pooler_output", "token", "c3d_features", "arr_0")
"""Names to look for, in this order, in a file or group with several arrays. A single array may have any name."""

# Errors that reading a damaged or unexpected file may raise.
READ_ERRORS = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)


class Format(NamedTuple):
    """How to read the array in an open file, how to get an array of its shape and type cheaply, and how to get its name."""

    read: Callable[[IO[bytes]], np.ndarray]
    peek: Callable[[IO[bytes]], np.ndarray]
    name: Callable[[IO[bytes]], str]


def choose_name(names: list[str], what: str = "it") -> str:
    """Choose the array that contains the features.

    Args:
        names: The arrays of a file or group.
        what: The file or group, for the error message.

    Raises:
        ValueError: if there are several arrays and none has a known name. Names all of them.
    """
    for name in ARRAY_NAMES:
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise ValueError(f"{what} contains {', '.join(names) or 'nothing'}, but none of {', '.join(ARRAY_NAMES)}")


def shaped(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of this shape and type that takes no memory. Its values are meaningless."""
    return np.broadcast_to(np.zeros((), "S1" if dtype.kind in "OSU" else dtype), shape)


def _read_npy(file: IO[bytes]) -> np.ndarray:
    return np.load(file, allow_pickle=False)


def _peek_npy(file: IO[bytes]) -> np.ndarray:
    major, _ = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    return shaped(shape, dtype)


def _npz_name(file: IO[bytes]) -> str:
    with zipfile.ZipFile(file) as archive:
        return choose_name([name.removesuffix(".npy") for name in archive.namelist()])


def _read_npz(file: IO[bytes]) -> np.ndarray:
    with np.load(file, allow_pickle=False) as arrays:
        return arrays[choose_name(arrays.files)]


def _peek_npz(file: IO[bytes]) -> np.ndarray:
    name = _npz_name(file)
    with zipfile.ZipFile(file) as archive, archive.open(f"{name}.npy") as member:
        return _peek_npy(member)


def _load_pt(file: IO[bytes], mmap: bool = False) -> tuple[str, np.ndarray]:
    """Return the name of the tensor and the tensor. With `mmap`, its values are not read from disk if the file allows that."""
    import torch

    # A file inside a tar has no path, and the format before PyTorch 1.6 cannot be memory-mapped.
    mmap = mmap and isinstance(getattr(file, "name", None), str | os.PathLike) and zipfile.is_zipfile(file)
    file.seek(0)
    try:
        content = torch.load(file.name if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
    except (pickle.UnpicklingError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"it is not a file of plain tensors, and nothing else is loaded ({reason})") from error
    name = "a tensor"
    if isinstance(content, Mapping):
        name = choose_name([str(key) for key, value in content.items() if isinstance(value, torch.Tensor)])
        content = content[name]
    if not isinstance(content, torch.Tensor):
        raise ValueError(f"it contains a {type(content).__name__}; expected a tensor or a dictionary of tensors")
    content = content.detach()
    # NumPy has no bfloat16.
    return name, (content.float() if content.dtype == torch.bfloat16 else content).numpy()


def _read_pt(file: IO[bytes]) -> np.ndarray:
    return _load_pt(file)[1]


def _peek_pt(file: IO[bytes]) -> np.ndarray:
    return _load_pt(file, mmap=True)[1]


FORMATS = {
    ".npy": Format(_read_npy, _peek_npy, lambda file: "an array"),
    ".npz": Format(_read_npz, _peek_npz, _npz_name),
    ".pt": Format(_read_pt, _peek_pt, lambda file: _load_pt(file)[0]),
    ".pth": Format(_read_pt, _peek_pt, lambda file: _load_pt(file)[0]),
}
