"""Hard negatives without a model: words of the training queries that are seen together.

For every mask the words of the same part of speech and inflection are weighed by how well they go with the rest of the
sentence: smoothed conditional counts of the word given its left neighbour, its right neighbour, and each content word
of the sentence. One of the best is drawn. What is drawn depends on the seed, the qid and the level alone, never on the
order of the rows, the number of processes or earlier draws.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
from scipy import sparse

from ..caption_tags import ACTOR
from ..inflection import is_inflection_of
from ..masking import MASK, PARTS_OF_SPEECH, MaskedQuery, extract_fills, fill_masks
from ..synonyms import are_near_synonyms
from .base import Fill, FillRequest

SMOOTHING = 2.0  # pseudo-counts that follow the word's frequency, in the sense of a Dirichlet prior
FREQUENCY_WEIGHT = 0.7  # below 1, so that the few commonest words do not fill the whole dataset
CONTENT_WEIGHT = 0.5  # neighbouring words count fully, the others of the sentence half
SHORTLIST = 12  # the draw is among this many of the best


class LexicalGenerator:
    """Fills masks with words that the training queries use in such sentences.

    Args:
        queries: the training queries, tagged by `mask_query`; the counts are taken from them.
        seed: another seed gives other negatives, of the same quality.
    """

    source = "lexical"

    def __init__(self, queries: Iterable[MaskedQuery], seed: int = 0) -> None:
        self.seed = seed
        self._count(queries)
        self._associations = lru_cache(maxsize=4096)(self._association_row)
        self._candidates = lru_cache(maxsize=4096)(self._known_candidates)

    def _count(self, queries: Iterable[MaskedQuery]) -> None:
        self._index: dict[str, int] = {}
        pairs: Counter[tuple[int, int]] = Counter()
        neighbours: Counter[tuple[int, int]] = Counter()
        unigrams: Counter[int] = Counter()
        for query in queries:
            ids = [self._index.setdefault(token.lower(), len(self._index)) for token in query.tokens]
            unigrams.update(ids)
            neighbours.update(zip(ids, ids[1:]))
            content = sorted({i for i, part in zip(ids, query.parts_of_speech) if part in PARTS_OF_SPEECH})
            pairs.update((a, b) for a in content for b in content if a != b)
        size = len(self._index)
        self._frequency = np.array([unigrams[i] for i in range(size)], dtype=np.float64)
        self._share = self._frequency / max(self._frequency.sum(), 1.0)
        following = _matrix(neighbours, size)
        self._tables = {"left": following, "right": following.T.tocsr(), "content": _matrix(pairs, size)}

    def _association_row(self, kind: str, word: int) -> np.ndarray:
        """Log of how much likelier each word is beside `word` than anywhere, shape `(vocabulary,)`."""
        row = self._tables[kind][word]
        total = row.sum()
        # log((n + k p) / (N + k) / p) = log(n / p + k) - log(N + k), and n = 0 for nearly all words.
        scores = np.full(len(self._share), np.log(SMOOTHING) - np.log(total + SMOOTHING), dtype=np.float32)
        scores[row.indices] = np.log(row.data / self._share[row.indices] + SMOOTHING) - np.log(total + SMOOTHING)
        return scores

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        """One `Fill` per request, in order. A request without any fitting word is answered with an error."""
        for request in requests:
            words = self._choose(request)
            if words is None:
                yield Fill(request, None, "no candidates")
            else:
                yield Fill(request, fill_masks(request.masked_query, words))

    def _choose(self, request: FillRequest) -> list[str] | None:
        key = f"{self.seed}\n{request.qid}\n{request.level}\n{len(request.rejections)}"
        random = np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])))
        tokens = [token.lower() for token in request.template]
        masks = [position for position, token in enumerate(request.template) if token == MASK]
        unwanted = {
            word
            for rejection in request.rejections
            for word in extract_fills(request.masked_query, rejection.answer) or ()
        }
        # The verb decides what its nouns can be, and both what the prepositions and the actor can be.
        for number in sorted(range(len(masks)), key=lambda number: _rank(request, number)):
            position = masks[number]
            word = self._draw(request, number, position, tokens, unwanted, random)
            if word is None:
                return None
            tokens[position] = word
        return [tokens[position] for position in masks]

    def _draw(
        self,
        request: FillRequest,
        number: int,
        position: int,
        tokens: list[str],
        unwanted: set[str],
        random: np.random.Generator,
    ) -> str | None:
        words, ids, log_frequency = self._candidates(request.candidates[number])
        scores = log_frequency + self._fit(tokens, position)[ids]
        best = np.argsort(-scores, kind="stable")
        original, taken = request.originals[number], unwanted.union(tokens)
        shortlist = []
        for index in best:
            word = words[index]
            if word not in taken and not _means_the_same(original, word):
                shortlist.append(index)
                if len(shortlist) == SHORTLIST:
                    break
        if not shortlist:
            return None
        # The largest of the scores plus Gumbel noise is a draw in proportion to their exponentials.
        drawn = scores[shortlist] + random.gumbel(size=len(shortlist))
        return words[shortlist[int(np.argmax(drawn))]]

    def _fit(self, tokens: list[str], position: int) -> np.ndarray:
        """How well every word goes with the sentence around a position, shape `(vocabulary,)`."""
        neighbours = {position - 1: "left", position + 1: "right"}
        total, content = np.zeros(len(self._share), dtype=np.float32), []
        for other, token in enumerate(tokens):
            word = self._index.get(token)
            if other == position or word is None:
                continue
            if other in neighbours:
                total = total + self._associations(neighbours[other], word)
            elif token != ACTOR:
                content.append(word)
        for word in content:
            # Many words of one sentence say the same thing twice: their evidence grows with the root of their number.
            total = total + CONTENT_WEIGHT / np.sqrt(len(content)) * self._associations("content", word)
        return total

    def _known_candidates(self, candidates: tuple[str, ...]) -> tuple[list[str], np.ndarray, np.ndarray]:
        """The candidates that the training queries hold, their numbers, and the weight of their frequency."""
        words = [word for word in candidates if word in self._index]
        ids = np.array([self._index[word] for word in words], dtype=np.int64)
        return words, ids, FREQUENCY_WEIGHT * np.log(self._share[ids])


def _matrix(counts: Counter[tuple[int, int]], size: int) -> sparse.csr_matrix:
    if not counts:
        return sparse.csr_matrix((size, size))
    rows, columns = np.array(list(counts), dtype=np.int64).T
    return sparse.csr_matrix((np.fromiter(counts.values(), dtype=np.float64), (rows, columns)), shape=(size, size))


def _rank(request: FillRequest, number: int) -> int:
    part = request.parts_of_speech[number]
    if part not in PARTS_OF_SPEECH or request.originals[number].lower() == ACTOR:
        return len(PARTS_OF_SPEECH)
    return PARTS_OF_SPEECH.index(part)


@cache
def _means_the_same(word: str, other: str) -> bool:
    return is_inflection_of(word, other) or are_near_synonyms(word, other)
