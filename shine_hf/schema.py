"""The columns of every dataset here, and what rows must satisfy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from datasets import Features, List, Value

FEATURES = Features(
    {
        "qid": Value("string"),
        "vid": Value("string"),
        "query": Value("string"),
        "duration": Value("float64"),
        "relevant_windows": List(List(Value("float64"))),
        "masked_queries": List(Value("string")),
        "negative_queries": List(Value("string")),
        "negative_flags": List(List(Value("string"))),
        "annotation_flags": List(Value("string")),
        "composition_types": List(Value("string")),
        "composition_words": List(List(Value("string"))),
    }
)
"""`relevant_windows` in seconds; `masked_queries`, `negative_queries` and `negative_flags` by level (all of one length, or empty);
`composition_types` and `composition_words` in parallel, one entry per pair of words."""

REQUIRED_COLUMNS = ("qid", "vid", "query", "duration", "relevant_windows")

# Flags of windows that nothing can be learned from.
UNTRAINABLE_FLAGS = frozenset({"window_empty", "window_reversed", "window_outside", "no_window"})


def annotation_flags(duration: float, windows: Sequence[Sequence[float]]) -> list[str]:
    """What is odd about the windows (seconds) of a video of `duration` seconds, in a fixed order.

    `window_after_end` ends after the video and is clipped to it in training; `window_before_start` likewise. `window_empty`,
    `window_reversed`, `window_outside` (wholly after the end) and `no_window` cannot be trained on.
    """
    found = set() if len(windows) else {"no_window"}
    for start, end in windows:
        if start == end:
            found.add("window_empty")
        elif start > end:
            found.add("window_reversed")
        if start >= duration or end <= 0 < end - start:
            found.add("window_outside")
        elif end > duration:
            found.add("window_after_end")
        if start < 0:
            found.add("window_before_start")
    return sorted(found)


def trainable(row: Mapping) -> bool:
    """Whether a row can be trained on: every window has something inside the video."""
    return UNTRAINABLE_FLAGS.isdisjoint(annotation_flags(row["duration"], row["relevant_windows"]))


def check_rows(rows: Iterable[Mapping], source: str) -> None:
    """Refuse rows that break the schema; odd windows are not refused but flagged (see [`annotation_flags`]).

    Args:
        rows: Rows with at least `qid`, `vid`, `query`, `duration` and `relevant_windows`.
        source: Where they come from, for the message.

    Raises:
        ValueError: for a missing column, a duplicate qid, an empty query or vid, a duration that is not a positive number, a window that
            is not a pair of finite numbers, or levels of negatives that do not agree; names the source, the row and the qid.
    """
    seen: dict[str, int] = {}
    levels: tuple[int, str] | None = None
    for index, row in enumerate(rows):
        missing = [name for name in REQUIRED_COLUMNS if name not in row]
        if missing:
            raise ValueError(f"{source}, row {index}: no column {', '.join(missing)}")
        qid = row["qid"]
        where = f"{source}, row {index} (qid {qid!r})"
        if qid in seen:
            raise ValueError(f"{where}: the same qid as row {seen[qid]}; qids must be unique")
        seen[qid] = index
        for name in ("query", "vid"):
            if not isinstance(row[name], str) or not row[name].strip():
                raise ValueError(f"{where}: empty {name}")
        duration = row["duration"]
        if not _is_finite(duration) or duration <= 0:
            raise ValueError(f"{where}: the duration must be a positive number of seconds, got {duration!r}")
        for window in row["relevant_windows"]:
            if len(window) != 2 or not all(map(_is_finite, window)):
                raise ValueError(f"{where}: a window must be [start, end] in seconds, got {list(window)!r}")
        lengths = {
            name: len(row[name]) for name in ("masked_queries", "negative_queries", "negative_flags") if row.get(name)
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{where}: the levels do not agree: {lengths}")
        if count := lengths.get("negative_queries"):
            if levels is not None and count != levels[0]:
                raise ValueError(
                    f"{where}: {count} negatives, but {levels[0]} in row {levels[1]!r}; all rows need the same number of levels"
                )
            levels = levels or (count, qid)


def _is_finite(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
