"""Generate hard negatives in which every word is about as frequent as in the queries.

If some words are frequent in queries and rare in negatives, or the other way around, a model can tell them apart without the video
(`shine_hf.negatives.text_only`). Here each word fills about as many masks of a level as it leaves: the masked words are, in effect, dealt to other
sentences. Within this limit, words are chosen like those of `LexicalGenerator`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tqdm.auto import tqdm

from ..language.masking import MaskedQuery
from ..language.vocabulary import Vocabulary
from .base import FillRequest, build_request
from .lexical import LexicalGenerator

ROUNDS = 12
STEP = 0.6  # Part of the difference that a round corrects: the choices of all words depend on each other.
SMOOTHING = 0.3  # Pseudo-count of each word, for words that were never chosen or never masked.
SAMPLE = 2000  # Queries to balance on, to limit the time for large datasets.


class BalancedGenerator(LexicalGenerator):
    """Fill masks with words that fit the sentence, each about as often as it is masked in the training queries.

    Args:
        queries: The training queries to count and to balance on, tagged by `mask_query`.
        vocabulary: The dictionary of the training queries.
        seed: Seed of the draws.
        progress: Show a progress bar while balancing, which takes about half a minute for 2,000 or more queries.
    """

    source = "balanced"

    def __init__(
        self, queries: Iterable[MaskedQuery], vocabulary: Vocabulary, seed: int = 0, progress: bool = False
    ) -> None:
        queries = sorted(queries, key=lambda query: query.tokens)
        super().__init__(queries, seed)
        # Level -> word -> what to add to its score.
        self._preferences: dict[int, dict[str, float]] = {}
        requests = list(_requests(queries[:: max(1, math.ceil(len(queries) / SAMPLE))], vocabulary))
        for _ in tqdm(range(ROUNDS), desc=f"{self.source}: frequencies", disable=not progress):
            self._balance(requests)

    def _balance(self, requests: Sequence[FillRequest]) -> None:
        """Prefer words more that fill fewer masks than they leave, and the other way around."""
        masked: dict[int, Counter[str]] = {}
        chosen: dict[int, Counter[str]] = {}
        for request in requests:
            masked.setdefault(request.level, Counter()).update(word.lower() for word in request.originals)
            chosen.setdefault(request.level, Counter()).update(self.choose(request) or ())
        for level in masked:
            preferences = self._preferences.setdefault(level, {})
            for word in masked[level] | chosen[level]:
                ratio = (masked[level][word] + SMOOTHING) / (chosen[level][word] + SMOOTHING)
                preferences[word] = preferences.get(word, 0.0) + STEP * math.log(ratio)

    def _preference(self, level: int, words: Sequence[str]) -> np.ndarray | float:
        preferences = self._preferences.get(level, {})
        return np.array([preferences.get(word, 0.0) for word in words])


def _requests(queries: Sequence[MaskedQuery], vocabulary: Vocabulary) -> Iterator[FillRequest]:
    for number, query in enumerate(queries):
        for level in range(1, len(query.levels) + 1):
            yield build_request({"qid": str(number), "query": " ".join(query.tokens)}, query, level, vocabulary)
