"""Deterministic word vectors without weights, from hashed character n-grams, so that inflections of a word are similar."""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

# Words with inner apostrophes and hyphens, numbers, and single punctuation marks.
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]")
_SHORTEST, _LONGEST = 3, 5


def tokenize(text: str) -> list[str]:
    """Return the lower-case words and punctuation marks of a text."""
    return _TOKEN.findall(text.lower())


@lru_cache(maxsize=65536)
def word_vector(word: str, dim: int, seed: int = 0) -> np.ndarray:
    """Return the unit vector `(dim,)` of a word: the normalized sum of fixed random vectors for its character n-grams and the word itself.

    The ends of the word are marked. N-grams at its start have twice the weight, since English inflects at the end.
    """
    marked = f"<{word}>"
    weights: dict[str, float] = {marked: 1.0}
    for size in range(_SHORTEST, _LONGEST + 1):
        for start in range(len(marked) - size + 1):
            gram = marked[start : start + size]
            weights[gram] = weights.get(gram, 0.0) + (2.0 if start == 0 else 1.0)
    vector = sum(weight * _gram_vector(gram, dim, seed) for gram, weight in weights.items())
    vector = np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)
    vector.setflags(write=False)
    return vector


@lru_cache(maxsize=65536)
def _gram_vector(gram: str, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([zlib.crc32(gram.encode()), len(gram), seed])
    return rng.standard_normal(dim).astype(np.float32)


class WordTextEncoder(ABC):
    """Base class of the text encoders with one vector per word."""

    dim: int

    @property
    @abstractmethod
    def spec(self) -> str:
        """The specification that rebuilds this encoder."""

    @abstractmethod
    def vector(self, word: str) -> np.ndarray:
        """Return the vector `(dim,)` float32 of a lower-case word or punctuation mark."""

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return token features `(L, dim)` float32 of each text, where L is its number of words and punctuation marks.

        Raises:
            ValueError: for a text without a word.
        """
        encoded = []
        for text in texts:
            words = tokenize(text)
            if not words:
                raise ValueError(f"the query {text!r} has no words")
            encoded.append(np.stack([self.vector(word) for word in words]))
        return encoded


class WordsTextEncoder(WordTextEncoder):
    """A text encoder without weights: one vector per word of the query.

    Args:
        dim (`int`): Width of the vectors.
        seed (`int`): Seed of the hashing.
    """

    def __init__(self, dim: int = 512, seed: int = 0):
        if dim < 1:
            raise ValueError(f"dim must be positive, got {dim}")
        self.dim, self.seed = dim, seed

    @property
    def spec(self) -> str:
        return f"words:dim={self.dim},seed={self.seed}"

    def vector(self, word: str) -> np.ndarray:
        return word_vector(word, self.dim, self.seed)
