"""The protocol of all generators of hard negatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class Rejection:
    """An earlier answer to a request and the names of the checks that it failed (`shine_hf.negatives.validation`)."""

    answer: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class FillRequest:
    """One masked query to be filled: a row of the dataset at one level.

    `masked_query` is the template as one string; `shine_hf.negatives.language.masking.fill_masks(masked_query, words)` puts
    words into it. `originals`, `parts_of_speech` (UPOS) and `candidates` (words of the same part of speech and
    inflection, most frequent first; may be empty) are parallel, one entry per mask, left to right.
    """

    qid: str
    query: str
    level: int
    template: tuple[str, ...]
    masked_query: str
    originals: tuple[str, ...]
    parts_of_speech: tuple[str, ...]
    candidates: tuple[tuple[str, ...], ...]
    rejections: tuple[Rejection, ...] = ()

    def rejected(self, answer: str, flags: Sequence[str]) -> FillRequest:
        """Return the same request with one more rejected answer, for the next round."""
        return replace(self, rejections=(*self.rejections, Rejection(answer, tuple(flags))))


@dataclass(frozen=True)
class Fill:
    """A generator's answer: the filled query, or None and why (`"refusal"`, `"malformed: …"`, `"budget"`)."""

    request: FillRequest
    text: str | None
    error: str | None = None


@runtime_checkable
class Generator(Protocol):
    """Fills masked queries.

    `source` names the generator in the `source` column and as the config of the published dataset (`"lexical"`,
    `"random"`, a model's name). `fill` yields one `Fill` per request, in any order, as they become ready; it shows no
    progress bar, the driver (`shine_hf.negatives.generate`) does. State that must survive a kill belongs to the
    generator. A generator that costs money may also have `cost_so_far()`; what it returns is shown beside the
    progress bar.
    """

    source: str

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]: ...
