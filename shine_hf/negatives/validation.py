"""Named checks of hard negatives against the rules of the method.

The names of the checks that a level fails are stored in `negative_flags`. No negative is dropped. The checks are:

`nothing_to_mask`       the query has no word that the masking rule would replace
`missing`               there is no text
`template_changed`      a word outside the masks was changed, added or dropped
`empty_mask`            a mask was left empty
`extra_words`           a mask was filled with two or more words
`original_word`         a mask was filled with the original word
`inflection`            a mask was filled with another form of the original word
`near_synonym`          a mask was filled with a word that captions use for the same thing
`part_of_speech`        a mask was filled with a word of another part of speech
`markup`                the text contains `_`, `^`, `*` or a literal `<mask>`
`equals_query`          the text is the query itself
`equals_earlier_level`  the text is the same as at a lower level
`positive_query`        the text is a query of the same video whose moment overlaps in time
`test_query`            the text is a query of a test split (only if contact with test splits should be avoided)
`test_word`             a mask was filled with a novel word of a test split (likewise)

Comparisons ignore case, punctuation and spacing, so "what's" and "what s" match.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..schema import MASK
from .alignment import Alignment, align, words_of
from .columns import with_column
from .contact import PositiveQueries, TestContact
from .language.inflection import is_inflection_of
from .language.synonyms import are_near_synonyms
from .language.tagging import BAR_AFTER_SECONDS, TaggedQuery, Tagger
from .language.vocabulary import Vocabulary

if TYPE_CHECKING:
    from datasets import Dataset

CHECKS = (
    "nothing_to_mask",
    "missing",
    "template_changed",
    "empty_mask",
    "extra_words",
    "original_word",
    "inflection",
    "near_synonym",
    "part_of_speech",
    "markup",
    "equals_query",
    "equals_earlier_level",
    "positive_query",
    "test_query",
    "test_word",
)
MAY_BE_TRUE = frozenset({"inflection", "near_synonym", "equals_query", "positive_query"})
"""Checks that find negatives that may be true of the moment. The other checks find texts that do not match the request."""
_MARKUP = re.compile(r"[_^*]|<mask>")
# Parts of speech that a tagger without a parser confuses, or that can replace each other, form one class.
_CLASS = {
    "VERB": "verb",
    "AUX": "verb",
    "NOUN": "noun",
    "PROPN": "noun",
    "PRON": "noun",
    "ADJ": "adjective",
    "ADP": "particle",
    "ADV": "particle",
    "SCONJ": "particle",
}


class Validator:
    """Check the negatives of rows.

    Args:
        checks: Names of the checks to run; by default all. Some need the arguments below.
        vocabulary: The dictionary of the training queries, to check the parts of speech of the fills.
        tagger: Tags words that are not in the dictionary, in the context of their sentence. Without it, such words pass.
        positives: To find negatives that are true during the moment.
        test_contact: To find negatives with contact to the test splits.

    Raises:
        ValueError: for an unknown check.
    """

    def __init__(
        self,
        checks: Iterable[str] = CHECKS,
        *,
        vocabulary: Vocabulary | None = None,
        tagger: Tagger | None = None,
        positives: PositiveQueries | None = None,
        test_contact: TestContact | None = None,
    ) -> None:
        self.checks = frozenset(checks)
        unknown = sorted(self.checks - set(CHECKS))
        if unknown:
            raise ValueError(f"unknown checks: {', '.join(unknown)}; the checks are {', '.join(CHECKS)}")
        self.vocabulary, self.tagger = vocabulary, tagger
        self.positives, self.test_contact = positives, test_contact
        self._tags_in_context: dict[str, TaggedQuery] = {}

    def check_row(self, row: Mapping[str, Any], tagged: TaggedQuery | None = None) -> list[list[str]]:
        """Return the flags of each level of a row.

        Args:
            row: A row with `query`, `masked_queries` and `negative_queries`; also `vid` and `relevant_windows` to find positive queries.
            tagged: The query with its parts of speech; without it, parts of speech are not checked.

        Raises:
            ValueError: if the numbers of masked and negative queries differ.
        """
        texts = row["negative_queries"]
        if len(texts) != len(row["masked_queries"]):
            raise ValueError(
                f"qid {row.get('qid')}: {len(texts)} negative queries for {len(row['masked_queries'])} masked queries"
            )
        return [
            self.check_level(row, masked_query, text, earlier=texts[:index], tagged=tagged)
            for index, (masked_query, text) in enumerate(zip(row["masked_queries"], texts))
        ]

    def check_level(
        self,
        row: Mapping[str, Any],
        masked_query: str,
        text: str | None,
        *,
        earlier: Sequence[str | None] = (),
        tagged: TaggedQuery | None = None,
    ) -> list[str]:
        """Return the names of the checks that a negative fails, in the order of `CHECKS`."""
        if MASK not in masked_query:
            return ["nothing_to_mask"]
        if not text or not text.strip():
            return ["missing"]
        found = set()
        words = words_of(text)
        if _MARKUP.search(text):
            found.add("markup")
        if words == words_of(row["query"]):
            found.add("equals_query")
        if any(other and words == words_of(other) for other in earlier):
            found.add("equals_earlier_level")
        if self.positives and self.positives.overlaps(row["vid"], text, row["relevant_windows"]):
            found.add("positive_query")
        if self.test_contact and self.test_contact.has_query(text):
            found.add("test_query")
        alignment = align(masked_query, text)
        if alignment.problem:
            # It is uncertain here which words fill which mask, so do not check the fills.
            found.add(alignment.problem)
        else:
            found |= self._check_fills(row["query"], masked_query, alignment)
            if self._misfits(row["query"], masked_query, alignment, tagged, text):
                found.add("part_of_speech")
        return [name for name in CHECKS if name in found & self.checks]

    def check_rows(
        self, rows: Sequence[Mapping[str, Any]], tagged: Sequence[TaggedQuery | None]
    ) -> list[list[list[str]]]:
        """Check many rows like `check_row`, but much faster if there are unknown words."""
        self.tag_unknown_words(
            (row, query, masked_query, text)
            for row, query in zip(rows, tagged)
            for masked_query, text in zip(row["masked_queries"], row["negative_queries"])
        )
        pairs = tqdm(
            zip(rows, tagged), total=len(rows), desc="checking", unit=" rows", delay=BAR_AFTER_SECONDS, disable=None
        )
        return [self.check_row(row, query) for row, query in pairs]

    def tag_unknown_words(
        self, negatives: Iterable[tuple[Mapping[str, Any], TaggedQuery | None, str, str | None]]
    ) -> None:
        """Tag all texts with unknown words at once, instead of one by one during the checks.

        Args:
            negatives: Tuples of a row, its tagged query, a masked query and the text that fills it.
        """
        if not (self.tagger and self.vocabulary and "part_of_speech" in self.checks):
            return
        texts = {
            text
            for row, query, masked_query, text in negatives
            if text and self._misfits(row["query"], masked_query, align(masked_query, text), query)
        }
        new = sorted(texts - self._tags_in_context.keys())
        self._tags_in_context |= zip(new, self.tagger.tag(new))

    def _check_fills(self, query: str, masked_query: str, alignment: Alignment) -> set[str]:
        found = set()
        for original, [word] in zip(align(masked_query, query).fills, alignment.fills):
            if word in original:
                found.add("original_word")
            elif any(is_inflection_of(other, word) for other in original):
                found.add("inflection")
            elif any(are_near_synonyms(other, word) for other in original):
                found.add("near_synonym")
            if self.test_contact and word not in original and self.test_contact.has_word(word):
                found.add("test_word")
        return found

    def _misfits(
        self, query: str, masked_query: str, alignment: Alignment, tagged: TaggedQuery | None, text: str | None = None
    ) -> list[str]:
        """Return the fills that share no class of parts of speech with the word that they replace.

        A word has all classes that it has anywhere in the training queries. With `text`, the class that the tagger gives it in that
        sentence counts too. So a fill gets the benefit of the doubt.
        """
        if tagged is None or self.vocabulary is None or alignment.problem:
            return []
        misfits = []
        originals = align(masked_query, query).fills
        for tag, original, [word] in zip(_mask_tags(masked_query, tagged), originals, alignment.fills):
            wanted = {_CLASS.get(tag)}.union(*map(self._known_classes, original)) - {None}
            classes = self._known_classes(word)
            if text is not None and self.tagger is not None and not classes & wanted:
                classes = classes | self._classes_in_context(word, text)
            if wanted and not classes & wanted and (text is None or self.tagger is not None or classes):
                misfits.append(word)
        return misfits

    def _known_classes(self, word: str) -> frozenset[str]:
        return frozenset(_CLASS[part] for part in self.vocabulary.parts_of_speech(word))

    def _classes_in_context(self, word: str, text: str) -> frozenset[str]:
        if text not in self._tags_in_context:
            [self._tags_in_context[text]] = self.tagger.tag([text])
        tagged = self._tags_in_context[text]
        pairs = zip(tagged.tokens, tagged.parts_of_speech)
        return frozenset(_CLASS[tag] for token, tag in pairs if tag in _CLASS and word in words_of(token))


@dataclass
class ValidationSummary:
    """Counts of a dataset: flags per level, and levels and rows without flags."""

    rows: int = 0
    levels: int = 0
    flags: list[Counter[str]] = field(default_factory=list)  # One counter per level.
    clean_levels: int = 0
    clean_rows: int = 0

    def add(self, flags: Sequence[Sequence[str]]) -> None:
        """Count the flags of a row."""
        self.rows += 1
        self.levels += len(flags)
        while len(self.flags) < len(flags):
            self.flags.append(Counter())
        for counter, level in zip(self.flags, flags):
            counter.update(level)
            counter["any"] += bool(level)
            self.clean_levels += not level
        self.clean_rows += not any(flags)

    def __str__(self) -> str:
        names = [name for name in CHECKS if any(counter[name] for counter in self.flags)]
        lines = [f"{'check':<22}" + "".join(f"{f'level {level}':>10}" for level in range(1, len(self.flags) + 1))]
        lines += [
            f"{name:<22}" + "".join(f"{counter[name]:>10,}" for counter in self.flags) for name in [*names, "any"]
        ]
        percent = 100 * self.clean_rows / self.rows if self.rows else 0.0
        lines.append(f"clean at all levels: {self.clean_rows:,} of {self.rows:,} rows ({percent:.1f} %)")
        return "\n".join(lines)


def validate_dataset(
    dataset: Dataset, validator: Validator | None = None, tagger: Tagger | None = None
) -> tuple[Dataset, ValidationSummary]:
    """Compute new `negative_flags` for every row with negatives.

    Args:
        dataset: Rows with at least `qid`, `vid`, `query`, `relevant_windows`, `masked_queries`, `negative_queries`.
        validator: By default all checks, with the vocabulary and the positive queries of the dataset itself.
        tagger: By default the validator's tagger, or the packaged one.

    Returns:
        The dataset with its flags, and the counts.
    """
    from .language.masking import mask_query

    tagger = tagger or (validator.tagger if validator else None) or Tagger()
    rows = dataset.to_list()
    tagged = tagger.tag(row["query"] for row in rows)
    if validator is None:
        vocabulary = Vocabulary(mask_query(query) for query in tagged)
        validator = Validator(vocabulary=vocabulary, tagger=tagger, positives=PositiveQueries(rows))
    summary = ValidationSummary()
    flags = validator.check_rows(rows, tagged)
    for row_flags in flags:
        if row_flags:
            summary.add(row_flags)
    return with_column(dataset, "negative_flags", flags), summary


def _mask_tags(masked_query: str, tagged: TaggedQuery) -> list[str | None]:
    """Return the part of speech of the word that each mask replaces; all None if the query was tokenized differently."""
    tags = [tag for token, tag in zip(tagged.tokens, tagged.parts_of_speech) for _ in words_of(token)]
    template = words_of(masked_query)
    if len(tags) != len(template):
        return [None] * template.count(MASK)
    return [tag for word, tag in zip(template, tags) if word == MASK]
