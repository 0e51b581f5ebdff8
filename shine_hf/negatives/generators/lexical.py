"""Generate hard negatives without a model, from words that occur together in the training queries.

For every mask, the words of the same part of speech and inflection are scored by how well they fit the rest of the sentence, using
smoothed conditional counts of the word given its left neighbor, its right neighbor, and each content word of the sentence. One of
the best words is drawn at random. The draw depends only on the seed, the qid, the level and the number of rejections, not on the order of the rows,
the number of processes or earlier draws.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache

import numpy as np
from scipy import sparse

from ...schema import MASK
from ..language.caption_tags import ACTOR
from ..language.inflection import is_inflection_of
from ..language.masking import PARTS_OF_SPEECH, MaskedQuery, extract_fills, fill_masks
from ..language.synonyms import are_near_synonyms
from .base import Fill, FillRequest

SMOOTHING = 2.0  # Pseudo-counts in proportion to the word's frequency, as with a Dirichlet prior.
FREQUENCY_WEIGHT = 0.7  # Below 1, so that a few frequent words do not fill the entire dataset.
CONTENT_WEIGHT = 1.0  # Weight of all content words together, relative to one neighbor.
SHORTLIST = 12  # Number of best words to draw from.


class LexicalGenerator:
    """Fill masks with words that the training queries use in similar sentences.

    Args:
        queries: The training queries to count, tagged by `mask_query`.
        seed: Seed of the draws.
    """

    source = "lexical"

    def __init__(self, queries: Iterable[MaskedQuery], seed: int = 0) -> None:
        self.seed = seed
        self._count(queries)
        self._candidates = lru_cache(maxsize=4096)(self._known_candidates)

    def _count(self, queries: Iterable[MaskedQuery]) -> None:
        self._index: dict[str, int] = {}
        pairs: Counter[tuple[int, int]] = Counter()
        neighbors: Counter[tuple[int, int]] = Counter()
        unigrams: Counter[int] = Counter()
        for query in queries:
            ids = [self._index.setdefault(token.lower(), len(self._index)) for token in query.tokens]
            unigrams.update(ids)
            neighbors.update(zip(ids, ids[1:]))
            content = sorted({i for i, part in zip(ids, query.parts_of_speech) if part in PARTS_OF_SPEECH})
            pairs.update((a, b) for a in content for b in content if a != b)
        size = len(self._index)
        frequency = np.array([unigrams[i] for i in range(size)], dtype=np.float64)
        self._share = frequency / max(frequency.sum(), 1.0)
        following = _matrix(neighbors, size)
        self._tables = {
            "left": self._evidence(following),
            "right": self._evidence(following.T.tocsr()),
            # Most pairs of words occur together in a single sentence, mostly by chance.
            "content": self._evidence(_matrix(Counter({p: n for p, n in pairs.items() if n > 1}), size)),
        }

    def _evidence(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return how much a word (row) supports each other word (column), in nats.

        This is log P(column | row) / P(column), smoothed: log((n + k p) / (N + k) / p), minus its value at n = 0, which is the same
        for all columns and does not affect the choice. The result is zero for all pairs that were never seen, so it is sparse.
        """
        counts.data = np.log(counts.data / self._share[counts.indices] + SMOOTHING) - np.log(SMOOTHING)
        return counts.astype(np.float32)

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        """Yield one `Fill` per request, in order. A request without a suitable word gets an error."""
        for request in requests:
            words = self.choose(request)
            if words is None:
                yield Fill(request, None, "no candidates")
            else:
                yield Fill(request, fill_masks(request.masked_query, words))

    def choose(self, request: FillRequest) -> list[str] | None:
        """Return a word for each mask of a request; None if there is no suitable word for a mask."""
        key = f"{self.seed}\n{request.qid}\n{request.level}\n{len(request.rejections)}"
        random = np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:8])))
        sentence = _Sentence(self._index, self._tables, request.template)
        masks = [position for position, token in enumerate(request.template) if token == MASK]
        unwanted = {
            word
            for rejection in request.rejections
            for word in extract_fills(request.masked_query, rejection.answer) or ()
        }
        # Verbs first, since they determine suitable nouns; then prepositions and the actor, which depend on both.
        for number in sorted(range(len(masks)), key=lambda number: _rank(request, number)):
            words, ids, log_frequency = self._candidates(request.candidates[number])
            scores = log_frequency + sentence.evidence(masks[number], ids) + self._preference(request.level, words)
            original, taken = request.originals[number], unwanted.union(sentence.tokens)
            shortlist = []
            for index in np.argsort(-scores, kind="stable"):
                if words[index] not in taken and not _is_similar(original, words[index]):
                    shortlist.append(index)
                    if len(shortlist) == SHORTLIST:
                        break
            if not shortlist:
                return None
            # The maximum of the scores plus Gumbel noise is a draw from their softmax.
            drawn = np.argmax(scores[shortlist] + random.gumbel(size=len(shortlist)))
            sentence.put(masks[number], words[shortlist[drawn]])
        return [sentence.tokens[position] for position in masks]

    def _preference(self, level: int, words: Sequence[str]) -> np.ndarray | float:
        """Return what to add to the scores of words at a level, regardless of the sentence."""
        return 0.0

    def _known_candidates(self, candidates: tuple[str, ...]) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Return the candidates that occur in the training queries, their indices, and the weights of their frequencies."""
        words = [word for word in candidates if word in self._index]
        ids = np.array([self._index[word] for word in words], dtype=np.int64)
        return words, ids, FREQUENCY_WEIGHT * np.log(self._share[ids])


class _Sentence:
    """A template that is being filled, and the evidence of its words for other words."""

    def __init__(self, index: dict[str, int], tables: dict[str, sparse.csr_matrix], template: Sequence[str]) -> None:
        self.tokens = [token.lower() for token in template]
        self._index, self._tables = index, tables
        self._content = np.zeros(len(index), dtype=np.float32)
        self._content_words = 0
        for token in self.tokens:
            self._count_as_content(token)

    def put(self, position: int, word: str) -> None:
        """Fill a mask."""
        self.tokens[position] = word
        self._count_as_content(word)

    def evidence(self, position: int, ids: np.ndarray) -> np.ndarray:
        """Return how well each of the words `ids` fits the rest of the sentence at a position, in the shape of `ids`."""
        neighbors = np.zeros_like(self._content)
        if position > 0:
            self._add(neighbors, "left", self.tokens[position - 1])
        if position + 1 < len(self.tokens):
            self._add(neighbors, "right", self.tokens[position + 1])
        # The words of a sentence are correlated, so their evidence should only grow with the square root of their number.
        return neighbors[ids] + CONTENT_WEIGHT / max(self._content_words, 1) ** 0.5 * self._content[ids]

    def _count_as_content(self, token: str) -> None:
        if token != ACTOR:
            self._content_words += self._add(self._content, "content", token)

    def _add(self, total: np.ndarray, table: str, token: str) -> bool:
        """Add the evidence of a word, and return whether it has any."""
        row = self._index.get(token)
        if row is None:
            return False
        start, end = self._tables[table].indptr[row : row + 2]
        total[self._tables[table].indices[start:end]] += self._tables[table].data[start:end]
        return bool(end > start)


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
def _is_similar(word: str, other: str) -> bool:
    return is_inflection_of(word, other) or are_near_synonyms(word, other)
