"""Made-up requests for tests of the generators that use language models."""

from __future__ import annotations

from collections.abc import Iterable

from shine_hf.negatives.generators.base import Fill, FillRequest

VERBS = ("opens", "closes", "lifts", "carries", "washes", "paints", "drinks", "pours", "holds", "throws")
NOUNS = ("table", "window", "basket", "jacket", "garden", "door", "cup", "book", "phone", "laptop")


def make_request(number: int = 0, level: int = 2) -> FillRequest:
    """Return the request `person <mask> the <mask> NUMBER.`; each number is a distinct request."""
    return FillRequest(
        qid=f"row_{number}",
        query=f"person opens the door {number}.",
        level=level,
        template=("person", "<mask>", "the", "<mask>", str(number), "."),
        masked_query=f"person <mask> the <mask> {number}.",
        originals=("opens", "door"),
        parts_of_speech=("VERB", "NOUN"),
        candidates=(VERBS, NOUNS),
    )


def make_requests(count: int) -> list[FillRequest]:
    return [make_request(number) for number in range(count)]


def all_filled(fills: Iterable[Fill], count: int) -> bool:
    """Return whether there are `count` fills and each has a text."""
    texts = [fill.text for fill in fills]
    return len(texts) == count and all(texts)
