"""Random recombination: any word of the same part of speech, regardless of its form and the rest of the sentence.

This is the baseline of SHINE (arXiv 2407.05118), and the method of DeCo.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence

from ...schema import MASK
from ..language.inflection import is_inflection_of
from ..language.masking import fill_masks
from ..language.vocabulary import Vocabulary
from .base import Fill, FillRequest


class RandomWordsGenerator:
    """Fill masks with words of the dictionary, drawn uniformly.

    Args:
        vocabulary: The dictionary of the training queries.
        seed: The draws depend only on the seed, the qid, the level and the number of rejected answers.
    """

    source = "random"

    def __init__(self, vocabulary: Vocabulary, seed: int = 0) -> None:
        self.vocabulary = vocabulary
        self.seed = seed

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        """Yield one `Fill` per request, in order. A request without a suitable word gets an error."""
        for request in requests:
            words = self._draw(request)
            if words is None:
                yield Fill(request, None, "no candidates")
            else:
                yield Fill(request, fill_masks(request.masked_query, words))

    def _draw(self, request: FillRequest) -> list[str] | None:
        key = f"{self.seed}\n{request.qid}\n{request.level}\n{len(request.rejections)}"
        generator = random.Random(hashlib.sha256(key.encode()).digest())
        taken = {token.lower() for token in request.template if token != MASK}
        taken.update(word.lower() for word in request.originals)
        words = []
        for original, part, candidates in zip(request.originals, request.parts_of_speech, request.candidates):
            pool = self.vocabulary.words(part) or candidates
            word = _first_suitable(pool, original, taken, generator)
            if word is None:
                return None
            taken.add(word)
            words.append(word)
        return words


def _first_suitable(pool: Sequence[str], original: str, taken: set[str], generator: random.Random) -> str | None:
    # A few draws nearly always contain a suitable word; otherwise go through the entire dictionary.
    for number in (16, len(pool)):
        for word in generator.sample(pool, min(number, len(pool))):
            if word not in taken and not is_inflection_of(original, word):
                return word
    return None
