"""Events of Shapes-CG: what a shape does in a video, in five words, and the sentences that describe it."""

from __future__ import annotations

from dataclasses import dataclass

from ..schema import MASK

WORDS = {
    "color": ("red", "green", "blue", "yellow", "purple", "white"),
    "shape": ("square", "triangle", "star", "cross", "crescent"),
    "verb": ("slides", "bounces", "spins", "grows", "blinks"),
    "adverb": ("slowly", "quickly"),
    "preposition": ("above", "below", "beside", "behind"),
}
SLOTS = tuple(WORDS)
TEMPLATES = (
    "a {color} {shape} {verb} {adverb} {preposition} the box.",
    "the {color} {shape} {adverb} {verb} {preposition} the box.",
    "{preposition} the box a {color} {shape} {verb} {adverb}.",
)
# Kind of pair, named as in Charades-CG -> the slots that it combines.
PAIR_SLOTS = {
    "a-n": ("color", "shape"),
    "v-n": ("verb", "shape"),
    "v-adv": ("verb", "adverb"),
    "v-p": ("verb", "preposition"),
}

Words = tuple[str, ...]  # One per slot.
Pair = tuple[str, str, str]


@dataclass(frozen=True)
class Event:
    """A shape that does something between two times (seconds). `words` are in the order of [`SLOTS`]."""

    words: Words
    start: float
    end: float
    phase: float = 0.0
    side: int = 1


@dataclass(frozen=True)
class ShapesVideo:
    """The content of a video. `box` is the center of the box, as fractions of the width and height."""

    vid: str
    duration: float
    box: tuple[float, float]
    background: int
    events: tuple[Event, ...]


def caption(words: Words, template: str = TEMPLATES[0]) -> str:
    """Return a sentence with the words of an event."""
    return template.format(**dict(zip(SLOTS, words)))


def masked(words: Words, negative: Words) -> Words:
    """Return the words, with a mask for each word that a negative changes."""
    return tuple(word if word == other else MASK for word, other in zip(words, negative))


def pairs_of(words: Words) -> list[Pair]:
    """Return the pairs of words in an event, as (kind, word, word), one for each kind of pair that has held-out pairs."""
    by_slot = dict(zip(SLOTS, words))
    return [(kind, by_slot[first], by_slot[second]) for kind, (first, second) in PAIR_SLOTS.items()]
