"""A short hand-made list of words that captions use for the same thing (`synonyms.txt`).

A hard negative that swaps such words still describes the moment, so it is a false negative. When in doubt, the list treats two words as
synonyms. Words that are not in the list have no synonyms.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from .inflection import stems

SYNONYMS = Path(__file__).with_name("synonyms.txt")


@cache
def _groups_of() -> dict[str, frozenset[int]]:
    """Return base form -> the groups that contain it."""
    groups: dict[str, set[int]] = {}
    for number, line in enumerate(SYNONYMS.read_text(encoding="utf-8").splitlines()):
        for word in line.partition("#")[0].split():
            groups.setdefault(word, set()).add(number)
    return {word: frozenset(numbers) for word, numbers in groups.items()}


@cache
def _groups_of_form(word: str) -> frozenset[int]:
    table = _groups_of()
    return frozenset().union(*(table[stem] for stem in stems(word) if stem in table))


def are_near_synonyms(word: str, other: str) -> bool:
    """Return whether captions use the two words, in any form, for the same thing (`takes`, `grabbed`)."""
    return not _groups_of_form(word).isdisjoint(_groups_of_form(other))
