"""Convert arrays from extractors to the shape `(length, channels)`, or explain why that would be ambiguous."""

from __future__ import annotations

import numpy as np

# Patches and class token of CLIP's vision transformers: B/32, B/16, L/14, L/14 at 336 pixels.
_PATCH_TOKENS = (50, 197, 257, 577)
_MOST_LAYERS = 12


def as_rows(array: np.ndarray, layers: int | None = None) -> tuple[np.ndarray, str]:
    """Return the array as `(length, channels)`, and a description of the conversion (empty if there was none).

    The accepted shapes are `(T, D)`; a pooled vector `(D,)`; either with additional axes of length 1, e.g. `(1, T, D)`, `(T, 1, D)` or `(T, D, 1, 1)`;
    and the last layers of a CLIP encoder as R2-Tuning stores them: `(T, K, P, D)` for video, of which the first token of the last layer is
    used, and `(L, K, D)` for text, of which the last layer is used.

    Args:
        array: Numbers of any float or integer type. Only the shape and type matter.
        layers: K, if known. Text features with several layers are only recognized if it is given.

    Raises:
        ValueError: for any other shape or type. The message says what the array is.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"have shape {array.shape} and type {array.dtype}; expected numbers")
    if not array.size:
        raise ValueError(f"have shape {array.shape}; expected at least one row and one channel")
    if _is_layers_of_patches(array.shape, layers):
        return array[:, -1, 0], f"the first token of the last of {array.shape[1]} layers"
    if layers and array.ndim == 3 and array.shape[1] == layers:
        return array[:, -1], f"the last of {layers} layers"
    if array.ndim == 2:
        return array, ""
    if array.ndim == 1:
        return array[None], "one pooled vector"
    long_axes = [size for size in array.shape if size > 1]
    if len(long_axes) == 2:
        return array.reshape(long_axes), f"squeezed from {array.shape}"
    if len(long_axes) < 2 and array.shape[:1] == (1,):
        return array.reshape(1, -1), f"squeezed from {array.shape}"
    raise ValueError(
        f"have shape {array.shape}; expected (length, channels), and it is not clear which of these axes is which. Save one vector per "
        "clip, e.g. the mean over the spatial axes"
    )


def _is_layers_of_patches(shape: tuple[int, ...], layers: int | None) -> bool:
    return (
        len(shape) == 4
        and (shape[1] == layers if layers else 1 < shape[1] <= _MOST_LAYERS)
        and shape[2] in _PATCH_TOKENS
        and shape[3] > 1
    )
