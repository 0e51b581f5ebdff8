"""Describe the contents of a store in words, for `shine-hf features inspect` and for messages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .base import ConcatenatedFeatures, FeatureStore

# Read the lengths of at most this many keys, since some formats must be read in full.
SAMPLED_KEYS = 200


def inspect_store(store: FeatureStore, durations: Mapping[str, float] | None = None) -> list[dict[str, str]]:
    """Describe a store, with one dictionary of facts per concatenated feature type.

    Args:
        store: Any store.
        durations: Key -> seconds, for the videos whose duration is known.

    Raises:
        FileNotFoundError: for a store without features.
        ValueError: for features that cannot be read. The message names the file and the key.
    """
    if isinstance(store, ConcatenatedFeatures):
        return [facts for part in store.stores for facts in inspect_store(part, durations)]
    dim, keys = store.dim, list(store.keys())
    array, (_, treatment) = store.peek(keys[0]), store.as_rows(keys[0])
    lengths = [store.num_rows(key) for key in _sample(keys)]
    facts = {
        "features": store.spec,
        "layout": store.layout,
        "keys": f"{len(keys):,} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})",
        "array": f"{store.array_name(keys[0])} of shape {array.shape}" + (f": {treatment}" if treatment else ""),
        "width": str(dim),
        "type": str(array.dtype),
        "rows per key": f"{min(lengths):,} to {max(lengths):,}, median {int(np.median(lengths)):,}",
        "seconds per row": _seconds(store, durations or {}),
    }
    if store.encoder:
        facts["encoder"] = store.encoder
    return [facts]


def seconds_per_row(store: FeatureStore, durations: Mapping[str, float]) -> float | None:
    """Return the median of duration / rows over the videos; None if no duration is known.

    Args:
        store: Any store.
        durations: Key -> seconds.
    """
    known = [key for key in durations if durations[key] is not None and key in store]
    return float(np.median([durations[key] / store.num_rows(key) for key in _sample(known)])) if known else None


def _seconds(store: FeatureStore, durations: Mapping[str, float]) -> str:
    measured = seconds_per_row(store, durations)
    parts = [f"{store.clip_length:g} as recorded"] if store.clip_length is not None else []
    parts += [f"{measured:.3g} from the durations of the videos (median)"] if measured is not None else []
    if parts:
        return ", ".join(parts)
    return "unknown: " + (
        "no key is a video of the annotations" if durations else "pass the annotations with --dataset"
    )


def _sample(keys: list[str]) -> list[str]:
    return [keys[index] for index in np.unique(np.linspace(0, len(keys) - 1, SAMPLED_KEYS).astype(int))]
