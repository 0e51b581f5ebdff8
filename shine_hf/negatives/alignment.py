"""Align a negative with its masked query: which words fill which mask.

Comparisons ignore case, punctuation and spacing, so "what's" and "what s" match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..schema import MASK

_WORD = re.compile(r"<mask>|[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, including `<mask>`, without punctuation or spaces."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Alignment:
    """How a text fills a template. `problem` is None, or the name of the first check that the text fails."""

    problem: str | None
    fills: tuple[tuple[str, ...], ...] = ()  # The words that fill each mask; empty if the template was changed.


def align(masked_query: str, text: str) -> Alignment:
    """Find the words that fill each mask (any number per mask), in linear time.

    From left to right, each mask gets as few words as the kept words allow. In a run of adjacent masks, the last one gets the rest.
    """
    template, words = words_of(masked_query), words_of(text)
    if len(template) == len(words) and all(t in (w, MASK) for t, w in zip(template, words)):
        return Alignment(None, tuple((w,) for t, w in zip(template, words) if t == MASK))
    for least, problem in ((1, "extra_words"), (0, "empty_mask")):
        fills = _fills(template, words, least)
        if fills is not None:
            return Alignment(problem, fills)
    return Alignment("template_changed")


def _fills(template: Sequence[str], words: Sequence[str], least: int) -> tuple[tuple[str, ...], ...] | None:
    """Match a template whose masks cover at least `least` words each; None if the text does not contain the kept words in order."""
    # Encode each distinct word as a character, so that `str.find` can find runs of words.
    codes: dict[str, str] = {MASK: "\0"}

    def encode(items: Sequence[str]) -> str:
        return "".join(codes.setdefault(item, chr(len(codes))) for item in items)

    runs = re.split("(\0+)", encode(template))  # Kept words, masks, kept words, …, kept words.
    line = encode(words).replace("\0", chr(len(codes)))
    if not line.startswith(runs[0]):
        return None
    end = len(runs[0])
    fills: list[tuple[str, ...]] = []
    for number in range(1, len(runs), 2):
        masks, kept = len(runs[number]), runs[number + 1]
        # The last run of kept words must be at the end; the others are at the first position that fits.
        is_last = number + 2 == len(runs)
        start = len(line) - len(kept) if is_last else line.find(kept, end + least * masks)
        if start < end + least * masks or not line.startswith(kept, start):
            return None
        fills += [tuple(words[end + i * least : end + (i + 1) * least]) for i in range(masks - 1)]
        fills.append(tuple(words[end + (masks - 1) * least : start]))
        end = start + len(kept)
    return tuple(fills) if end == len(line) else None
