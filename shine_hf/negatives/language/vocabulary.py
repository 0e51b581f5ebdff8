"""The dictionary D of the training queries: words by part of speech and inflection, with counts.

SHINE (arXiv 2407.05118) builds D from the verbs, nouns, adjectives, prepositions and adverbs of the training split and
lets the language model choose replacements from it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from functools import lru_cache

from .caption_tags import SUBJECT_PRONOUNS
from .inflection import inflection, is_inflection_of, starts_with_vowel_sound, substitutes
from .masking import PARTS_OF_SPEECH, MaskedQuery

# Masked pronouns are subjects, which are replaced by other subjects and not by words of the dictionary.
PERSONAL_SUBJECTS = ("someone", "he", "she", "they", "everyone", "nobody")
RELATIVE_SUBJECTS = ("who", "that", "which")
# An actor is replaced by another possible actor: "sofa opens the door" is not a hard negative.
PEOPLE = frozenset(
    "person man woman boy girl child kid lady guy baby teenager couple dog cat animal people men women boys girls "
    "children kids ladies guys babies teenagers dogs cats animals".split(" ")
)
# A word only counts for a part of speech that the tagger assigned to at least this share of its occurrences.
LEAST_SHARE = 0.4
MAX_CANDIDATES = 1000


class Vocabulary:
    """Word counts of a set of masked queries.

    Args:
        queries: Queries from `mask_query`, in which particles count as prepositions.
        min_count: Less frequent words are counted but are not candidates, since most of them are typos.
        avoid: Words that are never candidates, e.g. the novel words of a test split.
    """

    def __init__(self, queries: Iterable[MaskedQuery], min_count: int = 2, avoid: Collection[str] = ()) -> None:
        self.min_count = min_count
        self.avoid = frozenset(word.lower() for word in avoid)
        self.counts: dict[str, Counter[str]] = {part: Counter() for part in PARTS_OF_SPEECH}
        total: Counter[str] = Counter()
        for query in queries:
            for token, part in zip(query.tokens, query.parts_of_speech):
                word = token.lower()
                total[word] += 1
                if part in self.counts:
                    self.counts[part][word] += 1
        self.total = total
        self._buckets = self._sort_into_buckets()
        self._words_of_part = {
            part: tuple(sorted(word for (p, _), words in self._buckets.items() if p == part for word in words))
            for part in PARTS_OF_SPEECH
        }
        self._select = lru_cache(maxsize=None)(self._candidates)

    def _sort_into_buckets(self) -> dict[tuple[str, str], list[str]]:
        buckets: dict[tuple[str, str], list[str]] = defaultdict(list)
        for part, counts in self.counts.items():
            # Words with equal counts are sorted alphabetically, so the order of the queries does not matter.
            for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
                is_reliable = count >= max(self.min_count, LEAST_SHARE * self.total[word])
                if is_reliable and word.isalpha() and len(word) > 1 and word not in self.avoid:
                    buckets[part, inflection(word, part)].append(word)
        return buckets

    def parts_of_speech(self, word: str) -> frozenset[str]:
        """Return all parts of speech that the tagger ever assigned to a word; empty for an unknown word."""
        return frozenset(part for part, counts in self.counts.items() if word.lower() in counts)

    def words(self, part_of_speech: str) -> tuple[str, ...]:
        """Return all candidates of a part of speech, in any form, sorted."""
        return self._words_of_part.get(part_of_speech, ())

    def candidates(self, word: str, part_of_speech: str, previous: str = "") -> tuple[str, ...]:
        """Return words that can replace `word`, with the same part of speech and inflection, most frequent first.

        Neither the word nor another form of it is included. If no other word has the same form, words in any form are returned.

        Args:
            word: The word to replace.
            part_of_speech: Its part of speech (UPOS).
            previous: The word before it. After "a" or "an", candidates agree with the article if possible.
        """
        article = previous.lower() if previous.lower() in ("a", "an") else ""
        return self._select(word.lower(), part_of_speech, article)

    def _candidates(self, word: str, part_of_speech: str, article: str) -> tuple[str, ...]:
        if part_of_speech == "PRON" or (word in SUBJECT_PRONOUNS and part_of_speech not in self.counts):
            words = RELATIVE_SUBJECTS if word in RELATIVE_SUBJECTS else PERSONAL_SUBJECTS
        else:
            forms = substitutes(inflection(word, part_of_speech))
            words = [other for form in forms for other in self._buckets.get((part_of_speech, form), ())]
            if len(forms) > 1:
                words.sort(key=lambda other: (-self.counts[part_of_speech][other], other))
        # Cut the list before the slow comparison of forms; rare words hardly ever fit.
        offered = [other for other in words if other not in self.avoid][:MAX_CANDIDATES]
        people = [other for other in offered if word in PEOPLE and other in PEOPLE]
        fitting = [
            other for other in people or offered if not article or starts_with_vowel_sound(other) == (article == "an")
        ]
        # In a small corpus, a form may have a single word. Then words with any article or form are better than none.
        for choice in (fitting, offered, self.words(part_of_speech)):
            others = tuple(other for other in choice if not is_inflection_of(word, other))
            if others:
                return others
        return ()
