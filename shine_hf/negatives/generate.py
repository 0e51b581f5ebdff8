"""Generate hard negatives for queries with any generator, and validate them.

    negatives, summary = generate_negatives(dataset, generator)

This module stores nothing between runs. A generator that is slow or costs money caches its own answers, so a killed run can simply be
restarted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .columns import with_column
from .contact import PositiveQueries
from .generators.base import Generator, build_request
from .language.masking import MaskedQuery, MaskingOptions, mask_query, masked_positions
from .language.tagging import TaggedQuery, Tagger
from .language.vocabulary import Vocabulary
from .rounds import GenerationSummary, Level, fill_levels
from .validation import Validator

if TYPE_CHECKING:
    from datasets import Dataset

MAX_ATTEMPTS = 4


def generate_negatives(
    dataset: Dataset,
    generator: Generator,
    *,
    vocabulary: Vocabulary | None = None,
    masking: MaskingOptions | None = None,
    tagger: Tagger | None = None,
    validator: Validator | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    progress: bool = True,
) -> tuple[Dataset, GenerationSummary]:
    """Generate hard negatives for every row: mask, fill, check, retry levels that fail, and flag those that still fail.

    Args:
        dataset: Rows of the common schema with at least `qid`, `vid`, `query` and `relevant_windows`.
        generator: Fills the masks.
        vocabulary: The dictionary of the training queries; by default, it is built from `dataset`.
        masking: Which words each level replaces; by default the released rule with 25, 50 and 75 percent.
        tagger: By default the validator's tagger, or the packaged one.
        validator: By default all checks, with the vocabulary above and the positive queries of `dataset`.
        max_attempts: Maximum number of requests per level. Repeated requests include the rejected answers and the reasons.
        progress: Show a progress bar.

    Returns:
        The dataset with new columns `masked_queries`, `negative_queries`, `negative_flags`, `source` and `level_sources`, and the counts.
        A level without an answer has an empty text and the flag `missing`.

    Raises:
        ValueError: if `max_attempts` is below 1, qids are not unique, or the generator skips a request.
    """
    tagger = tagger or (validator.tagger if validator else None) or Tagger()
    rows = dataset.to_list()
    tagged = tagger.tag(row["query"] for row in rows)
    masked = [mask_query(query, masking) for query in tagged]
    if vocabulary is None:
        vocabulary = Vocabulary(masked)
    levels = [
        [
            Level(build_request(row, query, level, vocabulary), generator.source)
            for level in range(1, len(query.levels) + 1)
        ]
        for row, query in zip(rows, masked)
    ]
    validator = validator or Validator(vocabulary=vocabulary, tagger=tagger, positives=PositiveQueries(rows))
    summary = fill_levels(rows, tagged, levels, generator, validator, max_attempts, progress)
    return _with_negatives(dataset, levels, generator.source), summary


def repair_negatives(
    dataset: Dataset,
    generator: Generator,
    *,
    source: str,
    vocabulary: Vocabulary | None = None,
    tagger: Tagger | None = None,
    validator: Validator | None = None,
    max_attempts: int = MAX_ATTEMPTS,
    progress: bool = True,
) -> tuple[Dataset, GenerationSummary]:
    """Keep the negatives that pass all checks, and regenerate the others with the existing masks.

    For the other arguments, the result and the errors, see `generate_negatives`. `level_sources` names the source of each level.

    Args:
        dataset: Rows with `masked_queries` and `negative_queries`.
        generator: Replaces the levels that fail.
        source: Name of the existing negatives, e.g. `"gpt-3.5-turbo"`. The result is named `…-clean`.

    Raises:
        ValueError: if a row has no negatives, or its masks do not match its query.
    """
    tagger = tagger or (validator.tagger if validator else None) or Tagger()
    rows = dataset.to_list()
    tagged = tagger.tag(row["query"] for row in rows)
    masked = [_existing_masks(row, query) for row, query in zip(rows, tagged)]
    if vocabulary is None:
        vocabulary = Vocabulary(mask_query(query) for query in tagged)
    validator = validator or Validator(vocabulary=vocabulary, tagger=tagger, positives=PositiveQueries(rows))
    flags = validator.check_rows(rows, tagged)
    levels = [
        [
            Level(
                # The template exactly as published, including spaces.
                replace(build_request(row, query, number + 1, vocabulary), masked_query=row["masked_queries"][number]),
                source,
                text,
                row_flags[number],
            )
            for number, text in enumerate(row["negative_queries"])
        ]
        for row, query, row_flags in zip(rows, masked, flags)
    ]
    summary = fill_levels(rows, tagged, levels, generator, validator, max_attempts, progress)
    return _with_negatives(dataset, levels, f"{source}-clean"), summary


def _with_negatives(dataset: Dataset, levels: Sequence[Sequence[Level]], source: str) -> Dataset:
    columns: dict[str, list] = {
        "masked_queries": [[level.request.masked_query for level in row_levels] for row_levels in levels],
        "negative_queries": [[level.text for level in row_levels] for row_levels in levels],
        "negative_flags": [[level.flags for level in row_levels] for row_levels in levels],
        "source": [source] * len(levels),
        "level_sources": [[level.source for level in row_levels] for row_levels in levels],
    }
    for name, values in columns.items():
        dataset = with_column(dataset, name, values)
    return dataset


def _existing_masks(row: Mapping[str, Any], tagged: TaggedQuery) -> MaskedQuery:
    """Return the masked positions of a row with existing templates.

    Raises:
        ValueError: if the row has no negatives, or a template does not match the query.
    """
    if not row.get("negative_queries") or len(row["negative_queries"]) != len(row["masked_queries"]):
        raise ValueError(
            f"qid {row['qid']}: {len(row.get('negative_queries') or [])} negative queries for "
            f"{len(row.get('masked_queries') or [])} masked queries; there is nothing to repair: generate negatives first"
        )
    ours = mask_query(tagged)
    positions = [masked_positions(ours.tokens, masked_query) for masked_query in row["masked_queries"]]
    for masked_query, level in zip(row["masked_queries"], positions):
        if level is None:
            raise ValueError(f"qid {row['qid']}: the masked query {masked_query!r} does not match {row['query']!r}")
    return MaskedQuery(ours.tokens, ours.parts_of_speech, tuple(positions))
