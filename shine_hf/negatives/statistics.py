"""Statistics of a set of negatives: masks per level and part of speech, changed words per level, words that give a negative away, test contact."""

from __future__ import annotations

import difflib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..io import atomic_file
from ..schema import MASK
from .alignment import words_of
from .contact import TestContact
from .language.masking import PARTS_OF_SPEECH, mask_query, masked_positions
from .language.tagging import TaggedQuery
from .text_only import text_only_accuracy
from .validation import ValidationSummary


@dataclass
class NegativeStatistics:
    """Statistics of a set of negatives. Every list has one entry per level."""

    validation: ValidationSummary = field(default_factory=ValidationSummary)
    mask_counts: Counter[tuple[int, ...]] = field(default_factory=Counter)
    masks_by_part_of_speech: list[Counter[str]] = field(default_factory=list)
    changed_shares: list[list[float]] = field(default_factory=list)  # Share of changed words of each query, 0 to 1.
    text_only: list[float] = field(default_factory=list)  # See `text_only_accuracy`.

    def __str__(self) -> str:
        levels = range(1, len(self.changed_shares) + 1)
        head = f"{'':<22}" + "".join(f"{f'level {level}':>10}" for level in levels)
        lines = [str(self.validation), "", head]
        for part in (*PARTS_OF_SPEECH, "PRON", "other"):
            counts = [counter[part] for counter in self.masks_by_part_of_speech]
            if any(counts):
                lines.append(f"{'masked ' + part:<22}" + "".join(f"{count:>10,}" for count in counts))
        means = [sum(shares) / len(shares) if shares else 0.0 for shares in self.changed_shares]
        lines.append(f"{'words changed':<22}" + "".join(f"{f'{100 * mean:.1f} %':>10}" for mean in means))
        lines.append(
            f"{'given away by words':<22}" + "".join(f"{f'{100 * share:.1f} %':>10}" for share in self.text_only)
        )
        lines += ["", "masks per level, most frequent first:"]
        lines += [
            f"  {', '.join(map(str, counts)):<14}{number:>10,}" for counts, number in self.mask_counts.most_common(8)
        ]
        return "\n".join(lines)


def describe_negatives(rows: Sequence[Mapping[str, Any]], tagged: Sequence[TaggedQuery]) -> NegativeStatistics:
    """Compute statistics of rows with `query`, `masked_queries`, `negative_queries` and `negative_flags`.

    Rows without negatives are skipped. The masks are those in the data.

    Args:
        rows: The rows.
        tagged: Their queries with parts of speech, in the same order.
    """
    statistics = NegativeStatistics(text_only=text_only_accuracy(rows))
    for row, query in zip(rows, tagged):
        if not row["negative_queries"]:
            continue
        masked = mask_query(query)
        statistics.validation.add(row["negative_flags"])
        statistics.mask_counts[tuple(text.count(MASK) for text in row["masked_queries"])] += 1
        while len(statistics.changed_shares) < len(row["negative_queries"]):
            statistics.changed_shares.append([])
            statistics.masks_by_part_of_speech.append(Counter())
        for level, (template, negative) in enumerate(zip(row["masked_queries"], row["negative_queries"])):
            parts = [masked.parts_of_speech[i] for i in masked_positions(masked.tokens, template) or ()]
            known = (*PARTS_OF_SPEECH, "PRON")
            statistics.masks_by_part_of_speech[level].update(part if part in known else "other" for part in parts)
            if negative:
                statistics.changed_shares[level].append(changed_share(row["query"], negative))
    return statistics


def changed_share(query: str, negative: str) -> float:
    """Return the share of a query's words that a negative changes, 0 to 1."""
    words = words_of(query)
    kept = sum(
        block.size for block in difflib.SequenceMatcher(None, words, words_of(negative), False).get_matching_blocks()
    )
    return 1 - kept / len(words) if words else 0.0


def test_contact_report(
    negatives: Sequence[str], training_queries: Sequence[str], contacts: Mapping[str, TestContact]
) -> str:
    """Describe the overlap of negatives with test splits, which affects results on those splits.

    Args:
        negatives: The negatives.
        training_queries: The training queries.
        contacts: Name of a test split -> its queries and novel words.
    """
    known = {word for query in training_queries for word in words_of(query)}
    words = {word for negative in negatives for word in words_of(negative)}
    lines = [f"word forms of the negatives that do not occur in training queries: {len(words - known):,}"]
    for name, contact in contacts.items():
        if contact.novel_words:
            met = sum(contact.has_word(word) for word in {word.lower() for word in contact.novel_words} & words)
            lines.append(f"{name}: {met:,} of {len(set(contact.novel_words)):,} novel words occur in the negatives")
        texts = {tuple(words_of(negative)) for negative in negatives}
        found = sum(tuple(words_of(query)) in texts for query in contact.queries)
        lines.append(f"{name}: {found:,} of {len(contact.queries):,} queries are among the negatives, word for word")
    return "\n".join(lines)


def sample_negatives(
    rows: Sequence[Mapping[str, Any]],
    number: int,
    *,
    seed: int = 0,
    others: Iterable[Mapping[str, Any]] = (),
    name: str = "",
) -> str:
    """Return a sample of rows with their negatives and flags as text.

    Args:
        rows: Rows with `qid`, `query`, `negative_queries` and `negative_flags`.
        number: How many of the rows with negatives to show.
        seed: Seed of the sample.
        others: Rows with other negatives of the same queries, for comparison.
        name: Name of the other negatives.
    """
    other_negatives = {row["qid"]: row["negative_queries"] for row in others}
    filled = [row for row in rows if row["negative_queries"]]
    lines = []
    for row in random.Random(seed).sample(filled, min(number, len(filled))):
        lines.append(f"\n{row['qid']}: {row['query']}")
        for level, (negative, flags) in enumerate(zip(row["negative_queries"], row["negative_flags"]), start=1):
            lines.append(f"  {level}  {negative}" + (f"  [{', '.join(flags)}]" if flags else ""))
            lines += [f"     {name}: {other}" for other in other_negatives.get(row["qid"], [])[level - 1 : level]]
    return "\n".join(lines)


def plot_changes(statistics: NegativeStatistics, path: str | Path) -> None:
    """Plot the distribution of the share of changed words at each level.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('the figure needs matplotlib: pip install "shine-hf[plots]"') from error
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    shares = [[100 * share for share in level] for level in statistics.changed_shares]
    axes.boxplot(shares, showmeans=True, whis=(5, 95), showfliers=False)
    axes.set(xlabel="level", ylabel="words of the query changed (%)", ylim=(0, 100))
    with atomic_file(path, "wb") as file:
        figure.savefig(file, dpi=150, format=Path(path).suffix[1:] or "png")
