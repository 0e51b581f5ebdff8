"""Make the generators that need no model, only the words of the training queries."""

from __future__ import annotations

from collections.abc import Iterable

from ..language.masking import MaskedQuery
from ..language.vocabulary import Vocabulary
from .balanced import BalancedGenerator
from .base import Generator
from .lexical import LexicalGenerator
from .random_words import RandomWordsGenerator


def make_generator(
    name: str, queries: Iterable[MaskedQuery], vocabulary: Vocabulary, seed: int = 0, progress: bool = False
) -> Generator:
    """Return a generator by its name.

    Args:
        name: `lexical`, `balanced` or `random_words`.
        queries: The training queries, tagged by `mask_query`.
        vocabulary: Their dictionary.
        seed: Seed of the draws.
        progress: Show a progress bar if the generator takes long to prepare.

    Raises:
        ValueError: for an unknown name.
    """
    if name == "lexical":
        return LexicalGenerator(queries, seed=seed)
    if name == "balanced":
        return BalancedGenerator(queries, vocabulary, seed=seed, progress=progress)
    if name == "random_words":
        return RandomWordsGenerator(vocabulary, seed=seed)
    raise ValueError(f"unknown generator {name!r}: expected lexical, balanced or random_words")
