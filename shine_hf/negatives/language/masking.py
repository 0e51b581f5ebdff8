"""Progressive masking: choose which words of a query are replaced at each level of its hard negatives.

The words are ordered: verbs, nouns, adjectives, prepositions, adverbs. Each level masks a longer prefix of that order (SHINE, arXiv
2407.05118), so the levels are nested. `rule="released"` is the rule of the authors' published `masked_queries`, as inferred from that
file. In addition to the paper's order, "person" and the grammatical subject come last, and particles count as prepositions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...schema import MASK
from ..columns import with_column
from .caption_tags import ACTOR, caption_tags, subject_positions
from .tagging import TaggedQuery, Tagger

if TYPE_CHECKING:
    from datasets import Dataset

PARTS_OF_SPEECH = ("VERB", "NOUN", "ADJ", "ADP", "ADV")  # In masking order.
RATIOS = (0.25, 0.50, 0.75)
# The ratios of the paper for each benchmark.
RATIOS_OF_DATASET = {"charades_cg": RATIOS, "activitynet_cg": (0.10, 0.30, 0.50)}


@dataclass(frozen=True)
class MaskingOptions:
    """Which words of a query are masked, and how many.

    Args:
        ratios: Share of the maskable words that each level masks, in ascending order. There are as many levels as ratios.
        parts_of_speech: A subset of VERB, NOUN, ADJ, ADP, ADV. `("VERB", "NOUN")` keeps function words.
        rule: `"released"` (as in the authors' published masks) or `"paper"` (only the order of parts of speech).
        ratios_by_length: `((maximum number of maskable words, ratios), …)` in ascending order. The first entry that a query fits replaces
            `ratios`, which applies to longer queries.

    Raises:
        ValueError: for an invalid value.
    """

    ratios: tuple[float, ...] = RATIOS
    parts_of_speech: tuple[str, ...] = PARTS_OF_SPEECH
    rule: Literal["released", "paper"] = "released"
    ratios_by_length: tuple[tuple[int, tuple[float, ...]], ...] = ()

    def __post_init__(self) -> None:
        for ratios in (self.ratios, *(ratios for _, ratios in self.ratios_by_length)):
            if not ratios or list(ratios) != sorted(ratios) or not (ratios[0] > 0 and ratios[-1] <= 1):
                raise ValueError(f"mask ratios must increase within (0, 1]; got {ratios}")
            if len(ratios) != len(self.ratios):
                raise ValueError(f"all mask ratios need the same number of levels; got {ratios} and {self.ratios}")
        lengths = [length for length, _ in self.ratios_by_length]
        if lengths != sorted(set(lengths)):
            raise ValueError(f"the lengths of ratios_by_length must increase; got {lengths}")
        unknown = set(self.parts_of_speech) - set(PARTS_OF_SPEECH)
        if unknown or not self.parts_of_speech:
            raise ValueError(f"parts_of_speech must be some of {PARTS_OF_SPEECH}; got {self.parts_of_speech}")
        if self.rule not in ("released", "paper"):
            raise ValueError(f'rule must be "released" or "paper"; got {self.rule!r}')

    def mask_counts(self, maskable_words: int) -> tuple[int, ...]:
        """Return how many words each level masks: rounded up for fewer than four maskable words, else rounded down, but at least one."""
        ratios = next((r for length, r in self.ratios_by_length if maskable_words <= length), self.ratios)
        # 0.58 * 50 is 28.999…: round off the last digits first to get 29.
        exact = [round(ratio * maskable_words, 9) for ratio in ratios]
        if maskable_words < 4:
            return tuple(math.ceil(count) for count in exact)
        return tuple(max(1, math.floor(count)) for count in exact)


@dataclass(frozen=True)
class MaskedQuery:
    """The tokens of a query, and the positions of the masked ones at each level, in ascending order.

    `parts_of_speech` are those that masking used: a particle is an ADP, and a masked pronoun a PRON.
    """

    tokens: tuple[str, ...]
    parts_of_speech: tuple[str, ...]
    levels: tuple[tuple[int, ...], ...]

    def template(self, level: int) -> tuple[str, ...]:
        """Return the tokens with `<mask>` in place of the masked ones. `level` counts from 1."""
        masked = set(self.levels[level - 1])
        return tuple(MASK if position in masked else token for position, token in enumerate(self.tokens))

    def masked_query(self, level: int) -> str:
        """Return the template of a level as one string."""
        return join_tokens(self.template(level))

    def masked_queries(self) -> list[str]:
        """Return the templates of all levels."""
        return [self.masked_query(level) for level in range(1, len(self.levels) + 1)]


def join_tokens(tokens: Sequence[str]) -> str:
    """Join tokens with spaces, except before periods and commas, as in the authors' release."""
    text = " ".join(tokens)
    return text.replace(" .", ".").replace(" ,", ",")


def fill_masks(masked_query: str, words: Sequence[str]) -> str:
    """Replace the masks of `masked_query` with words, from left to right.

    Raises:
        ValueError: if the number of words is not the number of masks.
    """
    pieces = masked_query.split(MASK)
    if len(words) != len(pieces) - 1:
        raise ValueError(f"{len(words)} words for the {len(pieces) - 1} masks of {masked_query!r}")
    return pieces[0] + "".join(word + piece for word, piece in zip(words, pieces[1:]))


def extract_fills(masked_query: str, text: str) -> list[str] | None:
    """Return the word that replaces each mask; None if `text` is not the template with one word per mask."""
    pieces = [re.escape(piece) for piece in masked_query.split(MASK)]
    match = re.fullmatch(r"(\S+)".join(pieces), text)
    return list(match.groups()) if match else None


def masked_positions(tokens: Sequence[str], masked_query: str) -> tuple[int, ...] | None:
    """Return the positions of the tokens that an existing template masks; None if the template does not match the tokens."""
    rest, positions = masked_query, []
    for position, token in enumerate(tokens):
        rest = rest.lstrip()
        if not token.strip():
            continue
        if rest.startswith(MASK):
            positions.append(position)
        elif not rest.startswith(token):
            return None
        rest = rest[len(MASK if rest.startswith(MASK) else token) :]
    return None if rest.strip() else tuple(positions)


def mask_query(tagged: TaggedQuery, options: MaskingOptions | None = None) -> MaskedQuery:
    """Choose the masked positions of one query at every level (SHINE, arXiv 2407.05118)."""
    options = options or MaskingOptions()
    words = tuple(token.lower() for token in tagged.tokens)
    if options.rule == "released":
        tags = caption_tags(words, tagged.parts_of_speech)
        subjects = subject_positions(words, tags)
    else:
        tags = tuple("NOUN" if tag == "PROPN" else tag for tag in tagged.parts_of_speech)
        subjects = frozenset()

    def rank(position: int) -> tuple[int, int]:
        is_last = position in subjects or (options.rule == "released" and words[position] == ACTOR)
        return (len(PARTS_OF_SPEECH) if is_last else PARTS_OF_SPEECH.index(tags[position]), position)

    maskable = [
        position
        for position, tag in enumerate(tags)
        if tag in options.parts_of_speech or (position in subjects and tag == "PRON")
    ]
    order = sorted(maskable, key=rank)
    levels = tuple(tuple(sorted(order[:count])) for count in options.mask_counts(len(order)))
    return MaskedQuery(tagged.tokens, tags, levels)


def mask_dataset(
    dataset: Dataset, tagger: Tagger | None = None, options: MaskingOptions | None = None, processes: int = 1
) -> Dataset:
    """Return the dataset with new `masked_queries`, one template per level."""
    options = options or MaskingOptions()
    tagged = (tagger or Tagger()).tag(dataset["query"], processes=processes)
    return with_column(dataset, "masked_queries", [mask_query(query, options).masked_queries() for query in tagged])


def parse_ratios(text: str) -> tuple[tuple[float, ...], tuple[tuple[int, tuple[float, ...]], ...]]:
    """Parse `0.25,0.5,0.75`, or by length `6:0.25,0.5,0.75;12:0.2,0.4,0.6;0.1,0.3,0.5` (the last for longer queries).

    Returns:
        `ratios` and `ratios_by_length` of `MaskingOptions`.

    Raises:
        ValueError: for text in another format.
    """
    by_length, ratios = [], None
    try:
        for part in text.split(";"):
            length, colon, numbers = part.rpartition(":")
            values = tuple(float(number) for number in numbers.split(","))
            if colon:
                by_length.append((int(length), values))
            elif ratios is None:
                ratios = values
            else:
                raise ValueError
        if ratios is None:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"cannot parse the mask ratios {text!r}: pass 0.25,0.5,0.75, or by length 6:0.25,0.5,0.75;0.1,0.3,0.5"
        ) from None
    return ratios, tuple(by_length)
