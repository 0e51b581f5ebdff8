"""Statistics of a dataset with negatives. The card is rendered from these `statistics`, which `build.json` records for each config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ..negatives.alignment import words_of
from ..negatives.contact import TestContact
from ..negatives.validation import ValidationSummary
from ..schema import MASK

WINDOW_SHARE_BINS = 10


def dataset_statistics(splits: Mapping[str, Sequence[Mapping]]) -> dict:
    """Compute the statistics of each split. All values have JSON types.

    Args:
        splits: Split name -> rows of the schema. Must include `train`.
    """
    rows = {name: list(split) for name, split in splits.items()}
    train_queries = {row["query"] for row in rows["train"]}
    return {
        "splits": {
            name: _split_statistics(split, None if name == "train" else train_queries) for name, split in rows.items()
        },
        "negatives": {name: _negative_statistics(split) for name, split in rows.items()},
        "test_contact": _test_contact(rows),
        "shared": _shared(rows),
    }


def _split_statistics(rows: list[Mapping], train_queries: set[str] | None) -> dict:
    words = [len(row["query"].split()) for row in rows]
    windows = [(start, end, row["duration"]) for row in rows for start, end in row["relevant_windows"]]
    seconds = [end - start for start, end, _ in windows if end > start]
    shares = [
        min(WINDOW_SHARE_BINS - 1, int(WINDOW_SHARE_BINS * (end - start) / duration))
        for start, end, duration in windows
        if end > start
    ]
    durations = {row["vid"]: row["duration"] for row in rows}
    queries = Counter((row["vid"], row["query"]) for row in rows)
    moments = Counter((row["vid"], row["query"], str(row["relevant_windows"])) for row in rows)
    return {
        "queries": len(rows),
        "videos": len(durations),
        "words_per_query": _spread(words),
        "window_seconds": _spread(seconds),
        "video_seconds": _spread(list(durations.values())),
        "moments_per_video": _spread(list(Counter(row["vid"] for row in rows).values())),
        "word_histogram": _histogram(words),
        "window_share_histogram": _histogram(shares),
        "annotation_flags": _histogram(flag for row in rows for flag in row["annotation_flags"]),
        "composition_types": _histogram(kind for row in rows for kind in set(row["composition_types"])),
        "compositions": len({tuple(words) for row in rows for words in row["composition_words"]}),
        "repeated_queries_of_a_video": sum(count - 1 for count in queries.values()),
        "repeated_moments": sum(count - 1 for count in moments.values()),
        "queries_in_train": None if train_queries is None else sum(row["query"] in train_queries for row in rows),
    }


def _negative_statistics(rows: list[Mapping]) -> dict:
    summary, masks = ValidationSummary(), Counter()
    for row in rows:
        if row["negative_queries"]:
            summary.add(row["negative_flags"])
            masks[", ".join(str(text.count(MASK)) for text in row["masked_queries"])] += 1
    return {
        "rows": summary.rows,
        "clean_rows": summary.clean_rows,
        "flags": [_histogram(counter.elements()) for counter in summary.flags],
        "masks": dict(masks.most_common()),
    }


def _test_contact(rows: Mapping[str, list[Mapping]]) -> dict:
    """Count the test queries and novel words that occur in the training negatives."""
    negatives = [text for row in rows["train"] for text in row["negative_queries"]]
    texts = {tuple(words_of(text)) for text in negatives}
    words = {word for text in texts for word in text}
    known = {word for row in rows["train"] for word in words_of(row["query"])}
    contact: dict[str, Any] = {
        "new_word_forms": len(words - known),
        "train_word_forms": len(known),
        "queries": {},
        "novel_words": {},
    }
    for name, split in rows.items():
        if name == "train":
            continue
        contact["queries"][name] = sum(tuple(words_of(row["query"])) in texts for row in split)
        novel = {group[0] for row in split for group in row["composition_words"] if len(group) == 1}
        if novel:
            seen = TestContact(novel_words=words)
            contact["novel_words"][name] = [sum(seen.has_word(word) for word in novel), len(novel)]
    return contact


def _shared(rows: Mapping[str, list[Mapping]]) -> list[dict]:
    """Return the videos and sentences that two splits have in common."""
    found = []
    for first, second in combinations(rows, 2):
        videos, queries = (
            {row[name] for row in rows[first]} & {row[name] for row in rows[second]} for name in ("vid", "query")
        )
        found.append({"splits": [first, second], "videos": len(videos), "queries": len(queries)})
    return found


def _spread(values: Sequence[float]) -> dict:
    if not values:
        return {"mean": 0.0, "min": 0.0, "max": 0.0}
    return {"mean": round(sum(values) / len(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def _histogram(values) -> dict:
    counts = Counter(values)
    return {str(value): counts[value] for value in sorted(counts)}


def plot_statistics(statistics: Mapping, path: str | Path) -> None:
    """Draw the figure of a card: words per query, share of the video that a moment takes, and masks per level.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('the figure of a dataset card needs matplotlib: pip install "shine-hf[plots]"') from error
    figure = Figure(figsize=(10, 3), layout="constrained")
    words, shares, masks = figure.subplots(1, 3)
    for name, split in statistics["splits"].items():
        total = split["queries"]
        lengths = {int(length): 100 * count / total for length, count in split["word_histogram"].items()}
        words.plot(lengths.keys(), lengths.values(), label=name)
        bins = {int(bin) * 10 + 5: 100 * count / total for bin, count in split["window_share_histogram"].items()}
        shares.plot(bins.keys(), bins.values(), label=name)
    levels = _masks_per_level(statistics["negatives"]["train"]["masks"])
    for level, counts in enumerate(levels, start=1):
        masks.plot(counts.keys(), counts.values(), marker=".", label=f"level {level}")
    words.set(xlabel="words per query", ylabel="queries (%)")
    shares.set(xlabel="share of the video that the moment takes (%)")
    masks.set(xlabel="masked words", ylabel="training queries (%)")
    words.legend(fontsize="small")
    if levels:
        masks.legend(fontsize="small")
    # Without the version of matplotlib, so that the same numbers give the same file.
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _masks_per_level(masks: Mapping[str, int]) -> list[dict[int, float]]:
    total, levels = sum(masks.values()), []
    for combination, count in masks.items():
        for level, number in enumerate(combination.split(", ")):
            while len(levels) <= level:
                levels.append(Counter())
            levels[level][int(number)] += 100 * count / total
    return [dict(sorted(level.items())) for level in levels]
