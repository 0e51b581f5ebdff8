"""Events of Shapes-CG: what a shape does in a video, in five words, and the sentences that say so."""

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
# Kinds of pairs, named like those of Charades-CG, and the slots that they join.
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
    """A shape that does something between two times (seconds). `words` in the order of [`SLOTS`]."""

    words: Words
    start: float
    end: float
    phase: float = 0.0
    side: int = 1


@dataclass(frozen=True)
class ShapesVideo:
    """What can be seen in a video. `box` is the center of the box as fractions of the width and height."""

    vid: str
    duration: float
    box: tuple[float, float]
    background: int
    events: tuple[Event, ...]


def caption(words: Words, template: str = TEMPLATES[0]) -> str:
    """Return an event's words as a sentence."""
    return template.format(**dict(zip(SLOTS, words)))


def masked(words: Words, negative: Words) -> Words:
    """Return the words with a mask in place of those that a negative changes."""
    return tuple(word if word == other else MASK for word, other in zip(words, negative))


def pairs_of(words: Words) -> list[Pair]:
    """Return every pair of an event's words whose kind is held out, as (kind, word, word)."""
    by_slot = dict(zip(SLOTS, words))
    return [(kind, by_slot[first], by_slot[second]) for kind, (first, second) in PAIR_SLOTS.items()]
