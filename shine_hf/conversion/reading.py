"""Read a checkpoint of the original code without running anything that its pickle contains.

torch's own restricted unpickler (`weights_only=True`) reads the file. It rejects all classes except tensors, but the options of public
checkpoints are instances of `argparse.Namespace`, `easydict.EasyDict` and others. So each class that a file names is replaced with one
that only collects fields: no class of the file is imported, and no function is called except the few in `_BUILDERS`.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..io import content_fault

# Files from before torch 1.6 cannot be searched for the classes that they name; these are the usual ones.
_USUAL_CLASSES = ("argparse.Namespace", "easydict.EasyDict")


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the state dict and the options of a checkpoint.

    Args:
        path: A pickle with the entries `model` and `opt`, or a bare state dict. The options may be an instance of any class; they are
            returned as a plain dictionary of numbers, strings, lists and dictionaries.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a checkpoint, or its pickle calls a function that is not known to be harmless.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals(_substitutes(path)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        with path.open("rb") as file:
            fault = content_fault(file)
        if fault:
            raise ValueError(f"{path} was not loaded: {fault}") from error
        refused = re.search(r"(?:calls|GLOBAL|Unsupported class|global) ([\w.]+)", str(error))
        raise ValueError(
            f"{path} was not loaded: "
            + (f"its pickle calls {refused[1]}, and " if refused else "")
            + "only tensors, plain values and objects with plain fields are accepted from a pickle"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} contains a {type(content).__name__}, not a checkpoint")
    state_dict = content.get("model", content)
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError(f"{path} has no state dict under `model`; its entries are {', '.join(map(str, content))}")
    options = _plain(content.get("opt"))
    return dict(state_dict), options if isinstance(options, dict) else {}


_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, AssertionError, ValueError, TypeError, LookupError, struct.error,
)  # fmt: skip


def _substitutes(path: Path) -> list[tuple[Callable, str]]:
    """Return a substitute for each class and function that the file names and torch does not allow."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except _UNREADABLE:
        named = []
    names = {*named, *_USUAL_CLASSES} - set(_BUILDERS)
    return [(_fields_of(name), name) for name in names] + [(builder, name) for name, builder in _BUILDERS.items()]


class _NeverCalled(type):
    """Metaclass of the substitutes. A pickle creates an object with `cls.__new__(cls)`; `cls(…)` means that it calls a function."""

    def __call__(cls, *args: object) -> Any:
        raise pickle.UnpicklingError(f"the pickle calls {cls.__qualname__}")


def _fields_of(name: str) -> type:
    """Return a class whose objects are ordered dictionaries: items set as items, attributes in `__dict__`."""
    return _NeverCalled(name, (), {"__new__": lambda cls, *args: OrderedDict(), "__qualname__": name})


def _plain(value: object) -> Any:
    """Convert what was read to plain dictionaries, lists, strings and numbers; anything else becomes None."""
    if isinstance(value, Mapping):
        items = {**getattr(value, "__dict__", {}), **value}
        return {str(key): _plain(item) for key, item in items.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) else None


# ---- values that a pickle builds by calling a function ------------------------------------------------------------


class _Dtype:
    """A NumPy data type of numbers or text: its name and byte order."""

    def __init__(self, name: str, *_: object):
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """A placeholder for a NumPy array. No setting of a model is an array, so its content is not read."""

    def __setstate__(self, state: tuple) -> None:
        pass


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.dtype)[0].item()


def _array(*_: object) -> _Array:
    return _Array()


def _path(*parts: str) -> str:
    return "/".join(parts)


def _dictionary(*_: object) -> OrderedDict:
    return OrderedDict()


_BUILDERS: dict[str, Callable] = {
    "collections.defaultdict": _dictionary,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    **{f"{module}.multiarray.scalar": _scalar for module in ("numpy.core", "numpy._core")},
    **{f"{module}.multiarray._reconstruct": _array for module in ("numpy.core", "numpy._core")},
    **{
        f"{module}.{kind}Path": _path
        for module in ("pathlib", "pathlib._local")
        for kind in ("", "Posix", "Windows", "PurePosix", "PureWindows")
    },
}
