"""The protocol of all generators of hard negatives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from ..language.masking import MaskedQuery
    from ..language.vocabulary import Vocabulary


@dataclass(frozen=True)
class Rejection:
    """An earlier answer to a request, and the names of the checks that it failed (`shine_hf.negatives.validation`)."""

    answer: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class FillRequest:
    """A masked query to fill: one level of a row of the dataset.

    `masked_query` is the template as one string; `shine_hf.negatives.language.masking.fill_masks(masked_query, words)` inserts
    words into it. `originals`, `parts_of_speech` (UPOS) and `candidates` (words of the same part of speech and inflection, most
    frequent first; may be empty) are parallel, with one entry per mask, from left to right.
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
        """Return the request with one more rejected answer, for the next round."""
        return replace(self, rejections=(*self.rejections, Rejection(answer, tuple(flags))))


def build_request(
    row: Mapping[str, Any], masked: MaskedQuery, level: int, vocabulary: Vocabulary | None = None
) -> FillRequest:
    """Return the request to a generator for one level (from 1) of a row's negatives."""
    positions = masked.levels[level - 1]
    template = masked.template(level)
    candidates = [
        vocabulary.candidates(
            masked.tokens[position], masked.parts_of_speech[position], template[position - 1] if position else ""
        )
        if vocabulary is not None
        else ()
        for position in positions
    ]
    return FillRequest(
        qid=row["qid"],
        query=row["query"],
        level=level,
        template=template,
        masked_query=masked.masked_query(level),
        originals=tuple(masked.tokens[position] for position in positions),
        parts_of_speech=tuple(masked.parts_of_speech[position] for position in positions),
        candidates=tuple(candidates),
    )


@dataclass(frozen=True)
class Fill:
    """A generator's answer: the complete filled query, or None and the reason, e.g. `"refusal"`, `"malformed: …"`, `"budget"`."""

    request: FillRequest
    text: str | None
    error: str | None = None


@runtime_checkable
class Generator(Protocol):
    """Fills masked queries.

    `source` names the generator in the `source` column and as the config of the published dataset (`"lexical"`, `"random"`, the
    name of a model). `fill` yields one `Fill` per request, in any order, as they become ready. It shows no progress bar, since
    `shine_hf.negatives.generate` does. A generator manages its own state that must survive a kill. A generator that costs money
    may also define `cost_so_far()`, whose result is shown next to the progress bar.
    """

    source: str

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]: ...
