"""The base class of feature stores: clip features by video, or token features by query, from files of any layout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..specs import Spec
from .grid import EXTRACTOR_SLACK_CLIPS
from .rows import as_rows

# Where to find the features that the papers used.
PUBLIC_SOURCES = (
    "I3D features of Charades are published with VSLNet (github.com/26hzhang/VSLNet), C3D features of ActivityNet with MS-2D-TAN "
    "(github.com/microsoft/VideoX); `--video_features simulated:` needs no download"
)


class Kind(NamedTuple):
    """
    How to open one kind of store: `open(spec, rows, clip_length)`, the options that its specification accepts, and whether its features are
    simulated, i.e. computed from annotations.
    """

    open: Callable[[Spec, Sequence[Mapping] | None, float], FeatureStore]
    options: Mapping[str, Callable[[str], Any]]
    from_annotations: bool = False


# Each module of this package registers its kinds here. The empty kind detects the layout of a bare path.
KINDS: dict[str, Kind] = {}


class FeatureStore(ABC):
    """
    `store[key]` -> float32 `(length, dim)`: clip features of the video `key`, or token features of the query `key`.

    Every array is checked when it is read. Stores can be pickled, so data loaders may use workers.

    Raises:
        KeyError: for a key without features. The message names the missing file and public sources of features.
        ValueError: for a key that points outside the folder, and for features that are empty, not two-dimensional, or contain NaN.
    """

    spec: str
    layout: str
    """Human-readable description of how the features are stored."""
    encoder: str | None = None
    """Specification of the video encoder that computed the features, if known."""
    clip_length: float | None = None
    """Seconds per clip, if known."""
    _dim: int | None = None
    _layers: int | None = None

    @staticmethod
    def from_spec(spec: str, rows: Sequence[Mapping] | None = None, clip_length: float = 0.5) -> FeatureStore:
        """Open the store that a specification describes.

        Args:
            spec: A folder, a file, or a dataset repository on the Hub, whose layout is detected. To force a layout, write `kind:where`:
                `i3d:` or `npy:` (a folder or tar of `.npy` files), `npz:`, `pt:`, `hdf5:FILE`, `packed:DIR` (see [`PackedFeatures`]),
                `simulated:[options]` (see [`SimulatedFeatures`]) or `scenes:[options]` (see [`SimulatedScenes`]). Specifications joined by
                `+` are concatenated.
            rows: Annotations of all splits, from which `simulated:` and `scenes:` compute their features.
            clip_length: Seconds per clip, for `simulated:` and `scenes:`.

        Raises:
            ValueError: for an unknown kind, or files whose layout is ambiguous.
            FileNotFoundError: if the folder or file does not exist.
        """
        stores = [KINDS[part.kind].open(part, rows, clip_length) for part in _parse(spec)]
        return stores[0] if len(stores) == 1 else ConcatenatedFeatures(stores)

    @staticmethod
    def from_specs(
        specs: Sequence[str], rows: Sequence[Mapping] | None = None, clip_length: float = 0.5
    ) -> FeatureStore:
        """Open one store, or concatenate several along the feature axis; see [`FeatureStore.from_spec`]."""
        stores = [FeatureStore.from_spec(spec, rows, clip_length) for spec in specs]
        return stores[0] if len(stores) == 1 else ConcatenatedFeatures(stores)

    @abstractmethod
    def keys(self) -> Iterator[str]:
        """Iterate over all keys."""

    @abstractmethod
    def __contains__(self, key: str) -> bool:
        """Return whether a key has features, without reading them."""

    @abstractmethod
    def _read(self, key: str) -> np.ndarray:
        """Return the array of a key as stored.

        Raises:
            KeyError: if the key has no features.
        """

    def peek(self, key: str) -> np.ndarray:
        """Return an array with the shape and type that [`_read`] gives, without reading the values if the format allows that."""
        return self._read(key)

    def location(self, key: str) -> str:
        """Return where the features of a key are stored, for error messages."""
        return self.spec

    def array_name(self, key: str) -> str:
        """Return the name that the array of a key has in its file."""
        return "an array"

    @property
    def public_spec(self) -> str:
        """How cards and configurations name the features: by their encoder, or by the kind without the path."""
        return self.encoder or f"{self.spec.partition(':')[0]}:"

    @property
    def encoders(self) -> list[str | None]:
        """The encoder of each feature type, parallel to `dims`; None if unknown."""
        return [self.encoder]

    @property
    def dim(self) -> int:
        """Width of the features, taken from the first entry."""
        if self._dim is None:
            key = next(iter(self), None)
            if key is None:
                raise FileNotFoundError(f"{self.spec} contains no features. {PUBLIC_SOURCES}")
            self._dim = int(self.as_rows(key)[0].shape[1])
        return self._dim

    @property
    def dims(self) -> list[int]:
        """Width of each concatenated feature type."""
        return [self.dim]

    def num_rows(self, key: str) -> int:
        """Return the number of rows of `store[key]`.

        Raises:
            KeyError, ValueError: as for `store[key]`.
        """
        return len(self.as_rows(key)[0])

    def as_rows(self, key: str, array: np.ndarray | None = None) -> tuple[np.ndarray, str]:
        """Return the array of a key as `(length, dim)` and a description of the conversion; see [`~shine_hf.features.rows.as_rows`].

        Args:
            key: The key of the array.
            array: The array as stored. Without it, only the shape and type of the result are meaningful.

        Raises:
            KeyError: if the key has no features.
            ValueError: if the array cannot be converted to this shape.
        """
        try:
            return as_rows(self.peek(key) if array is None else array, self._layers)
        except ValueError as error:
            raise ValueError(f"{self.location(key)}: features of {key!r} {error}") from error

    def __getitem__(self, key: str) -> np.ndarray:
        features, _ = self.as_rows(key, self._read(key))
        if features.shape[1] != self.dim:
            hint = "; they seem to be transposed" if features.shape[0] == self.dim else ""
            raise ValueError(
                f"{self.location(key)}: features of {key!r} have {features.shape[1]} channels, the others have {self.dim}{hint}"
            )
        with np.errstate(over="ignore"):  # Values beyond float32 become infinite and are rejected below.
            features = np.ascontiguousarray(features, dtype=np.float32)
        finite = np.isfinite(features).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{self.location(key)}: features of {key!r} contain NaN or infinite numbers in row {int(np.argmin(finite))}"
            )
        return features

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __len__(self) -> int:
        return sum(1 for _ in self)


class ConcatenatedFeatures(FeatureStore):
    """Several stores concatenated along the feature axis, cut to the shortest.

    Args:
        stores: Stores that share one time grid. Extractors may differ by a row or two at the end of a video; a larger difference is an
            error when the video is read.

    Raises:
        ValueError: if the stores are known to have different clip lengths.
    """

    def __init__(self, stores: Sequence[FeatureStore]):
        self.stores = list(stores)
        self.spec = "+".join(store.spec for store in self.stores)
        lengths = {store.clip_length: store.spec for store in self.stores if store.clip_length is not None}
        if len(lengths) > 1:
            raise ValueError(
                "these stores have different time grids: "
                + ", ".join(f"{spec} has clips of {length:g} s" for length, spec in lengths.items())
                + ". Extract them with the same clip length"
            )
        self.clip_length = next(iter(lengths), None)

    @property
    def encoder(self) -> str | None:
        """The encoders of all parts, joined by `+`; None if any is unknown."""
        return None if None in self.encoders else "+".join(self.encoders)

    @property
    def encoders(self) -> list[str | None]:
        return [encoder for store in self.stores for encoder in store.encoders]

    @property
    def public_spec(self) -> str:
        return "+".join(store.public_spec for store in self.stores)

    @property
    def dims(self) -> list[int]:
        return [dim for store in self.stores for dim in store.dims]

    @property
    def dim(self) -> int:
        return sum(self.dims)

    def keys(self) -> Iterator[str]:
        return (key for key in self.stores[0] if key in self)

    def __contains__(self, key: str) -> bool:
        return all(key in store for store in self.stores)

    def num_rows(self, key: str) -> int:
        return self._common_length(key, [store.num_rows(key) for store in self.stores])

    def _read(self, key: str) -> np.ndarray:
        parts = [store[key] for store in self.stores]
        length = self._common_length(key, list(map(len, parts)))
        return np.concatenate([part[:length] for part in parts], axis=1)

    def _common_length(self, key: str, lengths: list[int]) -> int:
        if max(lengths) - min(lengths) > EXTRACTOR_SLACK_CLIPS:
            found = ", ".join(f"{length} in {store.location(key)}" for length, store in zip(lengths, self.stores))
            raise ValueError(
                f"the features of {key!r} do not share one time grid: {found} rows. Extract them with the same clip length"
            )
        return min(lengths)


def is_simulated(specs: Iterable[str]) -> bool:
    """Return whether any part of these feature stores is computed from annotations. Results with such features must say so."""
    return any(KINDS[part.kind].from_annotations for spec in specs for part in _parse(spec))


def _parse(spec: str) -> list[Spec]:
    return Spec.parse_all(spec, {name: kind.options for name, kind in KINDS.items() if name})


def known_kinds() -> str:
    """Return the kinds that a specification may name, for error messages."""
    return ", ".join(f"{name}:" for name in KINDS if name)
