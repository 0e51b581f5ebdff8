"""Queries that a negative must not repeat: the positive queries of its video and the queries of the test splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .alignment import words_of


class PositiveQueries:
    """The queries of every video with their windows, to find negatives that are true during the moment."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._windows: dict[tuple[str, tuple[str, ...]], list[list[float]]] = defaultdict(list)
        for row in rows:
            self._windows[row["vid"], tuple(words_of(row["query"]))].extend(row["relevant_windows"])

    def overlaps(self, vid: str, text: str, windows: Sequence[Sequence[float]]) -> bool:
        """Return whether `text` is a query of the video with a window that overlaps one of `windows`."""
        others = self._windows.get((vid, tuple(words_of(text))), ())
        return any(start < other[1] and other[0] < end for start, end in windows for other in others)


@dataclass
class TestContact:
    """The queries and the novel words of the test splits."""

    __test__ = False  # Keeps pytest from collecting this class.

    queries: Collection[str] = ()
    novel_words: Collection[str] = ()

    def __post_init__(self) -> None:
        self._queries = {tuple(words_of(query)) for query in self.queries}
        self._words = {word.lower() for word in self.novel_words}

    def has_query(self, text: str) -> bool:
        return tuple(words_of(text)) in self._queries

    def has_word(self, word: str) -> bool:
        return word.lower() in self._words
