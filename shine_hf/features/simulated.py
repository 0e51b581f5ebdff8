"""Simulated clip features, computed from the annotations, so that everything can run and be compared without downloads.

They say nothing about real videos, and every result obtained with them says so. See [`SimulatedScenes`] for a world that is closer to real videos.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from math import inf

import numpy as np

from ..encoders.words import tokenize, word_vector
from ..specs import Spec
from .base import KINDS, FeatureStore, Kind
from .grid import TimeGrid

# Words that do not describe anything visible.
_FUNCTION_WORDS = frozenset(
    "a an the and or of to is are was were be being been it its his her their "
    "they he she them him this that these those person people someone man woman who which as then there s".split()
)


class PlantedFeatures(FeatureStore):
    """
    Base class of features computed from annotations: noise, to which each event of a video adds its vector.

    Args:
        rows: Annotations of *all* splits (`vid`, `query`, `duration`, `relevant_windows`), since the test splits share videos.
        clip_length (`float`): Seconds per clip. A video has ceil(duration / clip_length) clips.
        dim (`int`): Number of channels.
        noise (`float`): Standard deviation of the noise in each channel.
        seed (`int`): Seed of all random draws.
        strengths: The world's other strengths, by option name.

    Raises:
        ValueError: for a number that is out of range. The message names it.
    """

    kind: str
    layout = "computed from annotations"

    def __init__(
        self, rows: Sequence[Mapping], clip_length: float, dim: int, noise: float, seed: int, **strengths: float
    ):
        for name, value in {"dim": dim, "clip_length": clip_length}.items():
            if not 0 < value < inf:
                raise ValueError(f"{self.kind}: {name} must be positive, got {value}")
        for name, value in {**strengths, "noise": noise, "seed": seed}.items():
            if not 0 <= value < inf:
                raise ValueError(f"{self.kind}: {name} must not be negative, got {value}")
        self.clip_length, self._dim = clip_length, dim
        self.noise, self.seed = noise, seed
        self._events: dict[str, list[tuple[float, float, str]]] = {}
        self._durations: dict[str, float] = {}
        for row in rows:
            duration = max(row["duration"], self._durations.get(row["vid"], 0.0))
            self._durations[row["vid"]] = duration
            events = self._events.setdefault(row["vid"], [])
            events.extend((start, end, row["query"]) for start, end in row["relevant_windows"])
        for events in self._events.values():
            events.sort()

    @abstractmethod
    def event_vector(self, query: str) -> np.ndarray:
        """Return what an event adds to its clips, `(dim,)` float32."""

    def events(self, key: str) -> list[tuple[float, float, str]]:
        """Return the events of a video: start and end in seconds, and what happens."""
        return self._events[key]

    def keys(self) -> Iterator[str]:
        return iter(self._durations)

    def __contains__(self, key: str) -> bool:
        return key in self._durations

    def __len__(self) -> int:
        return len(self._durations)

    @property
    def public_spec(self) -> str:
        return self.spec

    def num_rows(self, key: str) -> int:
        if key not in self._durations:
            raise KeyError(f"{self.kind}: there is no annotation of {key!r} to compute features from")
        return TimeGrid.of_video(self._durations[key], self.clip_length).num_clips

    def _read(self, key: str) -> np.ndarray:
        clips = self.num_rows(key)
        rng = np.random.default_rng([zlib.crc32(key.encode()), self.seed])
        features = rng.standard_normal((clips, self._dim), dtype=np.float32) * np.float32(self.noise)
        begin = np.arange(clips) * self.clip_length
        for start, end, query in self.events(key):
            covered = (np.minimum(begin + self.clip_length, end) - np.maximum(begin, start)) / self.clip_length
            features += covered.clip(0, 1)[:, None].astype(np.float32) * self.event_vector(query)
        return features


def content_words(query: str) -> list[str]:
    """Return the distinct words of a query that may be visible, sorted; `["nothing"]` if there is none."""
    words = sorted(set(tokenize(query)) - _FUNCTION_WORDS)
    return [word for word in words if word[0].isalnum()] or ["nothing"]


def word_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return all pairs of words. A single word is paired with itself, so that all events have the same strength."""
    return list(combinations(words, 2)) or [(words[0], words[0])]


class SimulatedFeatures(PlantedFeatures):
    r"""
    Features that encode every annotated event of a video. Clip t of a video has the features

    $$ x_t = \sqrt{D} \sum_{e} c_{te} \Big( \frac{w}{\sqrt{n_e}} \sum_{i} v(word_{ei}) + \frac{p}{\sqrt{m_e}} \sum_{i<j} u(word_{ei}, word_{ej}) \Big) + n \, \epsilon_t $$

    where e runs over the events of the video, c is the share of the clip that the event covers, v is a fixed unit vector for each of the
    event's n content words, u one for each of their m pairs, and \\(\epsilon_t\\) is standard normal noise. The vector of a pair is
    unrelated to those of its words, so a model only knows the pairs that it has seen in training.

    The features of a video depend only on its own annotations and the seed, not on the order of the rows or the process.

    Args:
        rows, clip_length: See [`PlantedFeatures`].
        dim (`int`): Width D. The default is that of I3D.
        word, pair, noise (`float`): Strengths w, p and n. Noise is per channel, so signal and noise of strength 1 have the same size.
        seed (`int`): Seed of the vectors and the noise.
    """

    kind = "simulated"

    def __init__(
        self,
        rows: Sequence[Mapping],
        clip_length: float = 0.5,
        dim: int = 1024,
        word: float = 1.0,
        pair: float = 1.0,
        noise: float = 3.0,
        seed: int = 0,
    ):
        super().__init__(rows, clip_length, dim, noise, seed, word=word, pair=pair)
        self.spec = f"simulated:dim={dim},word={word:g},pair={pair:g},noise={noise:g},seed={seed}"
        self.word, self.pair = word, pair

    def event_vector(self, query: str) -> np.ndarray:
        words = content_words(query)
        # A different seed from that of the text encoder's vectors, so the model has to learn how they correspond.
        of_words = [word_vector(word, self._dim, seed=self.seed + 1) for word in words]
        pairs = word_pairs(words)
        of_pairs = [_pair_vector(*pair, self._dim, self.seed) for pair in pairs]
        signal = self.word * sum(of_words) / len(words) ** 0.5 + self.pair * sum(of_pairs) / len(pairs) ** 0.5
        return (signal * self._dim**0.5).astype(np.float32)


@lru_cache(maxsize=65536)
def _pair_vector(first: str, second: str, dim: int, seed: int) -> np.ndarray:
    """Return a unit vector `(dim,)` for two words in this order, unrelated to that of any other pair."""
    vector = np.random.default_rng([zlib.crc32(f"{first} {second}".encode()), seed]).standard_normal(dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def required_rows(spec: Spec, rows: Sequence[Mapping] | None) -> Sequence[Mapping]:
    """Return the rows, which every kind of simulated features requires.

    Raises:
        ValueError: if there are none.
    """
    if rows is None:
        raise ValueError(f"{spec.kind}: features are computed from annotations: pass the rows of all splits")
    return rows


def _open(spec: Spec, rows: Sequence[Mapping] | None, clip_length: float) -> SimulatedFeatures:
    return SimulatedFeatures(required_rows(spec, rows), clip_length, **spec.without_where().options)


KINDS["simulated"] = Kind(
    _open, {"dim": int, "word": float, "pair": float, "noise": float, "seed": int}, from_annotations=True
)
