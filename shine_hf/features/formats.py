"""Read one array from an open `.npy`, `.npz` or `.pt` file, without ever loading a pickle."""

from __future__ import annotations

import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..io import content_fault

if TYPE_CHECKING:
    import torch

ARRAY_NAMES = ("features", "last_hidden_state", "pooler_output", "token", "c3d_features", "arr_0")
"""Names to look for, in this order, in a file or group with several arrays."""

# Errors that reading a damaged or unexpected file may raise.
READ_ERRORS = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError)


class Format(NamedTuple):
    """How to read the array in an open file, how to get an array of its shape and type cheaply, and how to get its name."""

    read: Callable[[IO[bytes]], np.ndarray]
    peek: Callable[[IO[bytes]], np.ndarray]
    name: Callable[[IO[bytes]], str]


def choose_name(names: list[str], axes: Callable[[str], int], what: str = "it") -> str:
    """Choose the array that contains the features: the one with a known name, else the only one, else the only one with several axes.

    Args:
        names: The arrays of a file or group.
        axes: Returns the number of axes of an array.
        what: The file or group, for the error message.

    Raises:
        ValueError: if none of these exists. The message names all arrays.
    """
    for name in ARRAY_NAMES:
        if name in names:
            return name
    candidates = names if len(names) == 1 else [name for name in names if axes(name) > 1]
    if len(candidates) == 1:
        return candidates[0]
    raise ValueError(
        f"{what} contains {', '.join(names) or 'nothing'}, but none of {', '.join(ARRAY_NAMES)}; give the features one of these names"
    )


def unreadable(file: IO[bytes], error: Exception) -> str:
    """Return why a file cannot be read, from its first bytes if they tell more than the error."""
    if fault := content_fault(file):
        return fault
    if "pickle" in str(error):  # NumPy suggests loading it unsafely.
        return "it is damaged, or contains Python objects, which are never loaded"
    return str(error)


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
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        return choose_name(names, lambda name: _peek_member(archive, name).ndim)


def _read_npz(file: IO[bytes]) -> np.ndarray:
    name = _npz_name(file)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return arrays[name]


def _peek_npz(file: IO[bytes]) -> np.ndarray:
    name = _npz_name(file)
    with zipfile.ZipFile(file) as archive:
        return _peek_member(archive, name)


def _peek_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as member:
        return _peek_npy(member)


def _load_pt(file: IO[bytes], mmap: bool = False) -> tuple[str, np.ndarray]:
    """Return the name of the tensor or array and its values. With `mmap`, they are not read from disk if the file allows that."""
    import torch

    # A file inside a tar has no path, and the format before PyTorch 1.6 cannot be memory-mapped.
    mmap = mmap and isinstance(getattr(file, "name", None), str | os.PathLike) and zipfile.is_zipfile(file)
    file.seek(0)
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(file.name if mmap else file, map_location="cpu", weights_only=True, mmap=mmap)
    except RuntimeError as error:
        raise ValueError(f"it is damaged ({str(error).partition('. ')[0]})") from error
    except pickle.UnpicklingError as error:
        raise ValueError("it is not a file of plain tensors or arrays, and nothing else is loaded") from error
    name = "a tensor" if isinstance(content, torch.Tensor) else "an array"
    if isinstance(content, Mapping):
        found = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor | np.ndarray)}
        name = choose_name(list(found), lambda name: found[name].ndim)
        content = found[name]
    if isinstance(content, torch.Tensor):
        return name, _to_numpy(content)
    if not isinstance(content, np.ndarray):
        raise ValueError(f"it contains a {type(content).__name__}; expected a tensor or a dictionary of tensors")
    return name, content


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().to_dense()
    # NumPy has neither bfloat16 nor 8-bit floats.
    is_known = tensor.dtype.itemsize > 1 and str(tensor.dtype) != "torch.bfloat16"
    return (tensor if is_known or not tensor.is_floating_point() else tensor.float()).numpy()


def _numpy_globals() -> list[Any]:
    """Return what torch's unpickler may call to build arrays of numbers, under the names of NumPy 1 and 2."""
    build = np.zeros(1).__reduce__()[0]
    kinds = {type(np.dtype(letter)) for letter in "efd?bhilqBHILQ"}
    return [
        np.ndarray,
        np.dtype,
        *kinds,
        *((build, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    ]


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
