"""Simulated clip features, computed from the annotations, so that everything can run and be compared without downloads.

They say nothing about real videos, and every result obtained with them says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

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


class SimulatedFeatures(FeatureStore):
    r"""
    Features that encode every annotated event of a video. Clip t of a video has the features

    $$ x_t = \sqrt{D} \sum_{e} c_{te} \Big( \frac{w}{\sqrt{n_e}} \sum_{i} v(word_{ei}) + \frac{p}{\sqrt{m_e}} \sum_{i<j} u(word_{ei}, word_{ej}) \Big) + n \, \epsilon_t $$

    where e runs over the events of the video, c is the share of the clip that the event covers, v is a fixed unit vector for each of the
    event's n content words, u one for each of their m pairs, and \\(\epsilon_t\\) is standard normal noise. The vector of a pair is
    unrelated to those of its words, so a model only knows the pairs that it has seen in training.

    The features of a video depend only on its own annotations and the seed, not on the order of the rows or the process.

    Args:
        rows: Annotations of *all* splits (`vid`, `query`, `duration`, `relevant_windows`), since the test splits share videos.
        clip_length (`float`): Seconds per clip. A video has ceil(duration / clip_length) clips.
        dim (`int`): Width D. The default is that of I3D.
        word, pair, noise (`float`): Strengths w, p and n. Noise is per channel, so signal and noise of strength 1 have the same size.
        seed (`int`): Seed of the vectors and the noise.
    """

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
        if dim < 1 or clip_length <= 0 or min(word, pair, noise) < 0:
            raise ValueError(
                "simulated: dim and clip length must be positive, and word, pair and noise must not be negative"
            )
        self.layout = "computed from annotations"
        self.spec = f"simulated:dim={dim},word={word:g},pair={pair:g},noise={noise:g},seed={seed}"
        self.clip_length, self._dim = clip_length, dim
        self.word, self.pair, self.noise, self.seed = word, pair, noise, seed
        self._events: dict[str, list[tuple[float, float, str]]] = {}
        self._durations: dict[str, float] = {}
        for row in rows:
            duration = max(row["duration"], self._durations.get(row["vid"], 0.0))
            self._durations[row["vid"]] = duration
            events = self._events.setdefault(row["vid"], [])
            events.extend((start, end, row["query"]) for start, end in row["relevant_windows"])
        for events in self._events.values():
            events.sort()

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
            raise KeyError(f"simulated: there is no annotation of {key!r} to compute features from")
        return TimeGrid.of_video(self._durations[key], self.clip_length).num_clips

    def _read(self, key: str) -> np.ndarray:
        clips = self.num_rows(key)
        rng = np.random.default_rng([zlib.crc32(key.encode()), self.seed])
        features = rng.standard_normal((clips, self._dim), dtype=np.float32) * np.float32(self.noise)
        begin = np.arange(clips) * self.clip_length
        for start, end, query in self._events[key]:
            covered = (np.minimum(begin + self.clip_length, end) - np.maximum(begin, start)) / self.clip_length
            features += covered.clip(0, 1)[:, None].astype(np.float32) * self._event_vector(query)
        return features

    def _event_vector(self, query: str) -> np.ndarray:
        words = sorted(set(tokenize(query)) - _FUNCTION_WORDS)
        words = [word for word in words if word[0].isalnum()] or ["nothing"]
        # A different seed than that of the text encoder's vectors, so the model has to learn how they correspond.
        of_words = [word_vector(word, self._dim, seed=self.seed + 1) for word in words]
        # A single word is paired with itself, so that all events have the same strength.
        pairs = list(combinations(words, 2)) or [(words[0], words[0])]
        of_pairs = [_pair_vector(*pair, self._dim, self.seed) for pair in pairs]
        signal = self.word * sum(of_words) / len(words) ** 0.5 + self.pair * sum(of_pairs) / len(pairs) ** 0.5
        return (signal * self._dim**0.5).astype(np.float32)


@lru_cache(maxsize=65536)
def _pair_vector(first: str, second: str, dim: int, seed: int) -> np.ndarray:
    """Return a unit vector `(dim,)` for two words in this order, unrelated to that of any other pair."""
    vector = np.random.default_rng([zlib.crc32(f"{first} {second}".encode()), seed]).standard_normal(dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _open(spec: Spec, rows: Sequence[Mapping] | None, clip_length: float) -> SimulatedFeatures:
    if rows is None:
        raise ValueError("simulated: features are computed from annotations: pass the rows of all splits")
    return SimulatedFeatures(rows, clip_length, **spec.without_where().options)


KINDS["simulated"] = Kind(_open, {"dim": int, "word": float, "pair": float, "noise": float, "seed": int})
