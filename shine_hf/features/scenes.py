"""A second simulated world, in which finding a moment requires understanding the query; see [`SimulatedScenes`]."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..encoders.vectors import VectorsTextEncoder
from ..encoders.words import word_vector
from ..io import hide_path
from ..specs import Spec
from .base import KINDS, Kind
from .simulated import PlantedFeatures, content_words, required_rows, word_pairs

# Words for nothing visible, in addition to the function words that no simulated world shows.
_UNSEEN = frozenset(
    "some any another other something anything one my your can start starts starting begin begins beginning appear appears".split()
)
# Words that relate other words. Sharing one does not make two events similar.
_RELATIONS = frozenset(
    "in on at from into onto with by out off up down over under through behind beside near around for back away".split()
)
_AFTER_DETERMINER = re.compile(
    r"\b(?:the|an?|of|some|his|her|their|its|my|your|any|another)\s+([^\W_]+(?:['’-][^\W_]+)*)"
)
# A word is an object if at least this share of its occurrences follow a determiner.
_OBJECT_SHARE = 0.3
# Words whose vectors have a cosine above this count as the same when a distractor is chosen, e.g. "opens" and "opening" in GloVe.
_ALIKE = 0.6
# A distractor is the best of this many candidates: the one that shares the most words with its query.
_CANDIDATES, _MAX_DRAWS = 4, 20
# A distractor that is shorter than this share of the moment that it competes with is left out.
_SHORTEST_DISTRACTOR = 0.5
# Width of the word vectors without a file: those of the text encoder `words:dim=64`.
_WORDS_DIM = 64


class SimulatedScenes(PlantedFeatures):
    r"""
    Features of videos in which objects persist, unannotated events compete with the annotated ones, words that mean the same look alike, and
    what a pair of words adds follows from its words. Clip t of a video has the features

    $$ x_t = \frac{o}{\sqrt{n}} \sum_{i} v(object_i) + \sum_{e} c_{te} \Big( \frac{w}{\sqrt{n_e}} \sum_{i} v(action_{ei}) + \frac{p}{\sqrt{m_e}} \sum_{i<j} u(word_{ei}, word_{ej}) \Big) + n \, \epsilon_t $$

    * The video's n objects are the nouns of its events. They are visible in all its clips, so a noun by itself does not show when something
      happens.
    * The events e are the annotated ones and, for each query, `distractors` others: queries of other videos that share words with it. They lie
      outside the moments of their query. Every query of the video has a word that no distractor has, not even a similar one.
      c is the share of the clip that the event covers.
    * v is a fixed linear map of a word's vector, so words with similar vectors look alike.
    * u is a fixed bilinear map of two words' vectors, so what a new pair adds can be inferred from other pairs.

    The actions of an event are its words that are not objects. A word counts as an object if it often follows a determiner in the annotations.
    The features depend on the annotations (those of other videos determine the distractors) and the seed, not on the order of the rows or the
    process.

    Args:
        rows, clip_length: See [`PlantedFeatures`].
        vectors (`str`, *optional*): A file of word vectors that the text encoder `vectors:` can read, e.g. GloVe; use the same file for the
            text features. By default the vectors are those of `words:dim=64`, in which words that are spelled alike are similar, e.g. inflections.
        vocabulary (`str`, *optional*): See [`VectorsTextEncoder`].
        dim (`int`): Number of channels.
        word, pair, object, noise (`float`): Strengths w, p, o and n. In each channel, a word, a pair, the objects and the noise of strength 1 have
            a variance of about 1.
        distractors (`int`): Number of unannotated events for each query.
        seed (`int`): Seed of the maps, the distractors and the noise.

    Raises:
        FileNotFoundError: for a missing file of vectors.
        ValueError: for a file that contains no vectors, and numbers out of range.
    """

    kind = "scenes"

    def __init__(
        self,
        rows: Sequence[Mapping],
        clip_length: float = 0.5,
        vectors: str | None = None,
        vocabulary: str | None = None,
        dim: int = 64,
        word: float = 1.0,
        pair: float = 2.0,
        object: float = 1.0,
        noise: float = 3.0,
        distractors: int = 1,
        seed: int = 0,
    ):
        super().__init__(
            rows, clip_length, dim, noise, seed, word=word, pair=pair, object=object, distractors=distractors
        )
        if vectors == "":
            raise ValueError("scenes: the option vectors is empty; write vectors=FILE")
        if vocabulary and not vectors:
            raise ValueError("scenes: the option vocabulary needs vectors=FILE")
        strengths = f"dim={dim},word={word:g},pair={pair:g},object={object:g},noise={noise:g},distractors={distractors},seed={seed}"
        files = {"vectors": vectors, "vocabulary": vocabulary}
        self.spec, self._public_spec = (
            f"scenes:{','.join([*(f'{name}={path}' for name, path in paths.items() if path), strengths])}"
            for paths in (files, {**files, "vectors": vectors and hide_path(vectors)})
        )
        self.word, self.pair, self.object, self.distractors = word, pair, object, distractors
        self._words: dict[str, list[str]] = {
            query: _visible_words(query) for query in sorted({r["query"] for r in rows})
        }
        self._objects = _object_words(self._words)
        self._queries_with: dict[str, list[str]] = {}
        for query in sorted(row["query"] for row in rows):  # Frequent queries are frequent distractors.
            for one in self._words[query]:
                self._queries_with.setdefault(one, []).append(query)
        known = sorted(self._queries_with)
        self._vectors = dict(zip(known, _word_vectors(known, vectors, vocabulary)))
        # One map for the words themselves, two for pairs.
        maps = np.random.default_rng([seed, 1]).standard_normal((3, dim, len(self._vectors[known[0]]) if known else 1))
        self._looks = {one: maps @ vector for one, vector in self._vectors.items()}
        self._similar: dict[str, set[str]] = {}
        self._found: dict[str, list[tuple[float, float, str]]] = {}

    @property
    def public_spec(self) -> str:
        return self._public_spec

    def word_vector(self, word: str) -> np.ndarray:
        """Return the unit vector of a word of the annotations, which determines its appearance: `(width of the word vectors,)`."""
        return self._vectors[word]

    def look(self, word: str) -> np.ndarray:
        """Return v, the appearance of a word of the annotations: `(dim,)`, linear in its vector."""
        return self._looks[word][0]

    def binding(self, first: str, second: str) -> np.ndarray:
        """Return u, what a pair of words adds: `(dim,)`, symmetric, and linear in the vector of each word."""
        _, left, right = self._looks[first]
        _, other_left, other_right = self._looks[second]
        return (left * other_right + other_left * right) / 2**0.5

    def events(self, key: str) -> list[tuple[float, float, str]]:
        if key not in self._found:
            annotated = sorted(set(super().events(key)))
            self._found[key] = annotated + self._distractors(key, annotated)
        return self._found[key]

    def _read(self, key: str) -> np.ndarray:
        features = super()._read(key)
        objects = sorted({word for _, _, query in self.events(key) for word in self._words[query]} & self._objects)
        return features + (self.object * _sum(map(self.look, objects), self._dim)).astype(np.float32)

    def event_vector(self, query: str) -> np.ndarray:
        words = self._words[query]
        of_words = _sum((self.look(word) for word in words if word not in self._objects), self._dim)
        of_pairs = _sum((self.binding(*pair) for pair in word_pairs(words)), self._dim)
        return (self.word * of_words + self.pair * of_pairs).astype(np.float32)

    def _distractors(self, key: str, annotated: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
        rng = np.random.default_rng([zlib.crc32(key.encode()), self.seed, 1])
        windows: dict[str, list[tuple[float, float]]] = {}
        for start, end, query in annotated:
            windows.setdefault(query, []).append((start, end))
        found = []
        for query, moments in windows.items():
            for _ in range(self.distractors):
                other = self._similar_event(query, list(windows), rng)
                place = _free_place(moments, self._durations[key], rng)
                if other and place:
                    found.append((*place, other))
        return found

    def _similar_event(self, query: str, present: Sequence[str], rng: np.random.Generator) -> str | None:
        """Return another query that shares words with `query` but lacks a word of each query in `present`; None if no draw finds one."""
        words = self._distinctive_words(query)
        candidates: list[str] = []
        for _ in range(_MAX_DRAWS):
            sharing = self._queries_with[words[rng.integers(len(words))]]
            candidate = sharing[rng.integers(len(sharing))]
            if not any(self._has_all_words(candidate, one) for one in present):
                candidates.append(candidate)
            if len(candidates) == _CANDIDATES:
                break
        shared = [len(set(words) & set(self._words[candidate])) for candidate in candidates]
        return candidates[int(np.argmax(shared))] if candidates else None

    def _has_all_words(self, event: str, query: str) -> bool:
        """Return whether an event has all words of a query, or similar ones."""
        has = self._distinctive_words(event)
        return all(not self._similar_words(word).isdisjoint(has) for word in self._distinctive_words(query))

    def _similar_words(self, word: str) -> set[str]:
        """Return the words of the annotations that are similar to a word, and itself."""
        if word not in self._similar:
            cosines = np.stack(list(self._vectors.values())) @ self._vectors[word]
            self._similar[word] = {other for other, cosine in zip(self._vectors, cosines) if cosine > _ALIKE}
        return self._similar[word]

    def _distinctive_words(self, query: str) -> list[str]:
        words = self._words[query]
        return [word for word in words if word not in _RELATIONS] or words


def _visible_words(query: str) -> list[str]:
    words = content_words(query)
    return [word for word in words if word not in _UNSEEN] or words


def _object_words(words_of: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the words that often follow a determiner. `words_of` maps each query to its words."""
    count, after = Counter(), Counter()
    for query, words in words_of.items():
        count.update(words)
        after.update(set(_AFTER_DETERMINER.findall(query.lower())))
    return {word for word in count if after[word] >= _OBJECT_SHARE * count[word]}


def _word_vectors(words: Sequence[str], file: str | None, vocabulary: str | None) -> list[np.ndarray]:
    """Return unit vectors of words.

    Vectors of a file are centered first, since all of GloVe's point in a similar direction. A word that the file lacks gets a vector computed from
    its letters.
    """
    encoder = VectorsTextEncoder(file, vocabulary) if file else None
    found = []
    for word in words:
        vector = (encoder.encode([word])[0][0] - encoder.mean) if encoder else word_vector(word, _WORDS_DIM)
        vector = (vector if vector.any() else word_vector(word, len(vector))).astype(np.float64)
        found.append(vector / np.linalg.norm(vector))
    return found


def _sum(vectors: Iterable[np.ndarray], dim: int) -> np.ndarray:
    """Return the sum of vectors divided by the root of their number, so that it does not grow with the number."""
    vectors = list(vectors)
    return sum(vectors) / len(vectors) ** 0.5 if vectors else np.zeros(dim)


def _free_place(
    moments: Sequence[tuple[float, float]], duration: float, rng: np.random.Generator
) -> tuple[float, float] | None:
    """Return a random window outside the moments, as long as the longest one if it fits; None if there is too little room."""
    moments = [(max(start, 0.0), min(end, duration)) for start, end in moments]
    length = max(end - start for start, end in moments)
    edges = [0.0]
    for start, end in sorted(moments):
        edges += [max(start, edges[-1]), max(end, edges[-1])]
    gaps = [(start, end) for start, end in zip(edges[::2], [*edges[1::2], duration])]
    gaps = [gap for gap in gaps if gap[1] - gap[0] >= max(_SHORTEST_DISTRACTOR * length, 1e-3)]
    if length <= 0 or not gaps:
        return None
    room = np.array([end - start for start, end in gaps])
    start, end = gaps[rng.choice(len(gaps), p=room / room.sum())]
    length = min(length, end - start)
    start += rng.random() * (end - start - length)
    return start, start + length


def _open(spec: Spec, rows: Sequence[Mapping] | None, clip_length: float) -> SimulatedScenes:
    return SimulatedScenes(required_rows(spec, rows), clip_length, **spec.without_where().options)


KINDS["scenes"] = Kind(
    _open,
    {
        **{"vectors": str, "vocabulary": str, "dim": int, "distractors": int, "seed": int},
        **dict.fromkeys(("word", "pair", "object", "noise"), float),
    },
    from_annotations=True,
)
