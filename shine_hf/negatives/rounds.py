"""Request levels of negatives from a generator, check the answers, and request those that fail again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tqdm.auto import tqdm

from ..schema import MASK
from .generators.base import FillRequest, Generator
from .language.tagging import TaggedQuery
from .validation import ValidationSummary, Validator

NO_ANSWER = ["missing"]


@dataclass
class GenerationSummary(ValidationSummary):
    """Counts of flags, requests and errors."""

    requests: int = 0
    regenerated: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"requests: {self.requests:,}, of which repeated after a failed check: {self.regenerated:,}"]
        lines += [f"no answer ({error}): {count:,}" for error, count in self.errors.most_common()]
        return "\n".join([*lines, super().__str__()])


@dataclass
class Level:
    """One level of a row: the current request, the best text so far, and the newest answer, which has not been checked yet."""

    request: FillRequest
    source: str
    text: str = ""
    flags: list[str] = field(default_factory=lambda: list(NO_ANSWER))
    answer: str | None = None
    gave_up: bool = False

    def __post_init__(self) -> None:
        if MASK not in self.request.template:
            self.flags = ["nothing_to_mask"]


def fill_levels(
    rows: Sequence[Mapping[str, Any]],
    tagged: Sequence[TaggedQuery],
    levels: Sequence[Sequence[Level]],
    generator: Generator,
    validator: Validator,
    max_attempts: int,
    progress: bool,
) -> GenerationSummary:
    """Request every level that has a flag, in rounds, until all pass or `max_attempts` is reached."""
    if max_attempts < 1:
        raise ValueError(f"max_attempts must be at least 1; got {max_attempts}")
    if len({row["qid"] for row in rows}) != len(rows):
        raise ValueError("two rows have the same qid; qids must be unique")
    summary = GenerationSummary()
    for attempt in range(max_attempts):
        pending = {
            (level.request.qid, level.request.level): (index, level)
            for index, row_levels in enumerate(levels)
            for level in row_levels
            if level.flags and not level.gave_up and MASK in level.request.template
        }
        if not pending:
            break
        summary.requests += len(pending)
        summary.regenerated += len(pending) if attempt else 0
        _ask(generator, [level.request for _, level in pending.values()], pending, summary, progress, attempt)
        touched = sorted({index for index, _ in pending.values()})
        _check(validator, touched, rows, tagged, levels, generator.source)
    for row_levels in levels:
        summary.add([level.flags for level in row_levels])
    return summary


def _ask(
    generator: Generator,
    requests: list[FillRequest],
    pending: Mapping[tuple[str, int], tuple[int, Level]],
    summary: GenerationSummary,
    progress: bool,
    attempt: int,
) -> None:
    cost_so_far = getattr(generator, "cost_so_far", None)
    title = generator.source if attempt == 0 else f"{generator.source}, attempt {attempt + 1}"
    with tqdm(total=len(requests), desc=title, unit=" negatives", disable=not progress) as bar:
        for fill in generator.fill(requests):
            _, level = pending[fill.request.qid, fill.request.level]
            if fill.text is None:
                # The generator has already made all its attempts.
                level.gave_up = True
                summary.errors[(fill.error or "no reason given").split(":")[0]] += 1
            else:
                level.answer = fill.text
            if cost_so_far:
                bar.set_postfix_str(str(cost_so_far()), refresh=False)
            bar.update()
    silent = [level for _, level in pending.values() if level.answer is None and not level.gave_up]
    if silent:
        raise ValueError(
            f"the generator {generator.source} returned no fill for {len(silent)} of {len(requests)} requests, "
            f"the first for qid {silent[0].request.qid}, level {silent[0].request.level}"
        )


def _check(
    validator: Validator,
    touched: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    tagged: Sequence[TaggedQuery],
    levels: Sequence[Sequence[Level]],
    source: str,
) -> None:
    """Check the new answers. Each level keeps the text with the fewest flags, and the newest of equally good ones."""
    validator.tag_unknown_words(
        (rows[index], tagged[index], level.request.masked_query, level.answer)
        for index in touched
        for level in levels[index]
        if level.answer is not None
    )
    for index in touched:
        earlier: list[str] = []
        for level in levels[index]:
            flags_of = partial(
                validator.check_level,
                rows[index],
                level.request.masked_query,
                earlier=tuple(earlier),
                tagged=tagged[index],
            )
            if level.text:
                level.flags = flags_of(text=level.text)  # A lower level may have changed.
            if level.answer is not None:
                answer, flags = level.answer, flags_of(text=level.answer)
                level.answer = None
                if flags:
                    level.request = level.request.rejected(answer, flags)
                if not level.text or len(flags) <= len(level.flags):
                    level.text, level.flags, level.source = answer, flags, source
            earlier.append(level.text)
