"""The columns of every dataset, and how to parse and check a row from a file of any format.

A value is converted if its meaning is clear (a number as an id, `[1, 5]` for a single window). Anything else is an error that names the
file, the line, the field, what was found and what was expected. This module imports nothing else from the package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Features

MASK = "<mask>"
"""Replaces a word in `masked_queries`."""

_TEXT, _NUMBER = "string", "float64"
_TYPES: dict[str, Any] = {
    "qid": _TEXT,
    "vid": _TEXT,
    "query": _TEXT,
    "duration": _NUMBER,
    "relevant_windows": [[_NUMBER]],
    "masked_queries": [_TEXT],
    "negative_queries": [_TEXT],
    "negative_flags": [[_TEXT]],
    "annotation_flags": [_TEXT],
    "composition_types": [_TEXT],
    "composition_words": [[_TEXT]],
}
_SALIENCY_TYPES: dict[str, Any] = {"relevant_clip_ids": ["int64"], "saliency_scores": [[_NUMBER]]}

FEATURES: Features
"""`relevant_windows` are in seconds. `masked_queries`, `negative_queries` and `negative_flags` have one entry per level, or are empty.
`composition_types` and `composition_words` are parallel, with one entry per pair of words."""

SALIENCY_FEATURES: Features
"""Graded saliency of QVHighlights, which only some files have: the relevant clips, and every annotator's grade of each clip."""


def __getattr__(name: str) -> Features:
    """Build the `Features` on first use, so that the metrics do not import `datasets`, which takes seconds."""
    types: dict[str, Any] = {"FEATURES": _TYPES, "SALIENCY_FEATURES": _SALIENCY_TYPES}.get(name, {})
    if not types:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from datasets import Features, List, Value

    def feature(column: str | list) -> Value | List:
        return Value(column) if isinstance(column, str) else List(feature(column[0]))

    globals()[name] = Features({column: feature(type_) for column, type_ in types.items()})
    return globals()[name]


SALIENCY_CLIP_LENGTH = 2.0
"""Seconds per clip of graded saliency and of `pred_saliency_scores` (QVHighlights), independent of the clip length of a model."""

VALIDATION = "validation"
"""The split that is used to select a model."""

SPLIT_ALIASES = {"val": VALIDATION, "valid": VALIDATION, "dev": VALIDATION}
"""Other common names of the validation split."""

REQUIRED_COLUMNS = ("qid", "vid", "query", "duration")
NEGATIVE_COLUMNS = ("masked_queries", "negative_queries", "negative_flags")

# Flags of rows that are skipped in training.
UNTRAINABLE_FLAGS = frozenset({"window_empty", "window_reversed", "window_outside", "no_window"})

# Column names in other formats. They are only hints in error messages, since such a name may mean something else in another file.
OTHER_NAMES = {
    "qid": ("id", "query_id", "question_id", "annotation_id"),
    "vid": ("video", "video_id", "video_name", "vid_name"),
    "query": ("sentence", "sentences", "description", "caption", "text", "desc"),
    "duration": ("length", "video_duration", "video_length", "seconds"),
    "relevant_windows": ("windows", "window", "timestamps", "timestamp", "times", "moments", "segments", "spans"),
}


def canonical_split(name: str) -> str:
    """Return the canonical name of a split: `validation` for `val`, `valid` and `dev`."""
    return SPLIT_ALIASES.get(name, name)


def annotation_flags(duration: float, windows: Sequence[Sequence[float]]) -> list[str]:
    """Return the flags of odd windows (seconds) in a video of `duration` seconds, sorted.

    A window with `window_after_end` or `window_before_start` extends beyond the video; training clips it. Rows with `window_empty`,
    `window_reversed`, `window_outside` (entirely outside the video) or `no_window` cannot be trained on.
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
    """Return whether a row can be trained on: it has windows, and each of them overlaps the video."""
    return UNTRAINABLE_FLAGS.isdisjoint(annotation_flags(row["duration"], row["relevant_windows"]))


def parse_row(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Parse and check one row.

    Args:
        raw: Field -> value, as in the file. `recomposed_queries` is accepted as `negative_queries`. Unknown fields are ignored.
        where: File and line, for error messages.

    Returns:
        Every column of [`FEATURES`], empty if missing, and those of [`SALIENCY_FEATURES`] if the row has saliency.

    Raises:
        ValueError: for a field that is missing or cannot be understood.
    """
    row = parse_fields(raw, where, _FIELDS, REQUIRED_COLUMNS)
    row["annotation_flags"] = annotation_flags(row["duration"], row["relevant_windows"])
    if len(row["composition_types"]) != len(row["composition_words"]):
        counts = f"{len(row['composition_types'])} and {len(row['composition_words'])}"
        raise ValueError(
            f"{_at(where, row)}: composition_types and composition_words must have the same length, not {counts}"
        )
    return {name: row[name] for name in _TYPES} | _saliency(raw, row, where)


def parse_fields(
    raw: Mapping[str, Any], where: str, names: Iterable[str], required: Collection[str]
) -> dict[str, Any]:
    """Parse some fields of a row; see [`parse_row`]. Optional fields that are missing become empty lists.

    Args:
        raw, where: See [`parse_row`].
        names: The fields to read.
        required: The fields that must be present.

    Raises:
        ValueError: as [`parse_row`].
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"{where}: expected an object with {', '.join(names)}; found {_shown(raw)}")
    row: dict[str, Any] = {}
    for name in names:
        convert, expected = _FIELDS[name]
        given = raw.get(name)
        if name == "negative_queries" and not given:
            given = raw.get("recomposed_queries")
        if name not in raw and (hint := _other_name(name, raw)):
            raise ValueError(f"{where}: no field {name}; rename {hint} to {name}")
        if given is None and name not in required:
            row[name] = []
            continue
        if name in required and name not in raw:
            raise ValueError(f"{where}: no field {name}; expected {expected}")
        try:
            row[name] = convert(_plain(given))
        except _NotUnderstood as error:
            raise _bad_field(where, row, name, error.args[0] if error.args else expected, given) from None
    return row


def parse_rows(raw_rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Parse the rows of a split, e.g. of one file, and check that they are consistent.

    Args:
        raw_rows: Pairs of a location (file and line, for error messages) and a row.

    Yields:
        The rows as returned by [`parse_row`].

    Raises:
        ValueError: as [`parse_row`]; also for duplicate qids, and for rows with different numbers of negatives.
    """
    seen: dict[str, str] = {}
    first_levels: tuple[int, str] | None = None
    for where, raw in raw_rows:
        row = parse_row(raw, where)
        if (first := seen.setdefault(row["qid"], where)) is not where:
            raise ValueError(f"{_at(where, row)}: the same qid as {first}; every query needs its own")
        if count := check_levels(row, where):
            first_levels = first_levels or (count, where)
            if count != first_levels[0]:
                raise ValueError(
                    f"{_at(where, row)}: {count} negative_queries, but {first_levels[0]} at {first_levels[1]}; every row needs the "
                    "same number of levels (an empty text for a missing one), or none"
                )
        yield row


def check_levels(row: Mapping[str, Any], where: str) -> int:
    """Return the number of levels of negatives in a row.

    Raises:
        ValueError: if the columns of negatives have different lengths.
    """
    levels = {name: len(row[name]) for name in NEGATIVE_COLUMNS if row[name]}
    if len(set(levels.values())) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in levels.items())
        raise ValueError(f"{_at(where, row)}: the levels do not agree: {counts}")
    return levels.get("negative_queries", 0)


def check_rows(rows: Iterable[Mapping[str, Any]], source: str) -> None:
    """Raise an error for rows that break the schema. Odd windows are not an error; see [`annotation_flags`].

    Args:
        rows: Rows of the schema.
        source: Where the rows come from, for error messages.

    Raises:
        ValueError: as [`parse_rows`]. The message names the source, the row and the qid.
    """
    for _ in parse_rows((f"{source}, row {index}", row) for index, row in enumerate(rows)):
        pass


class _NotUnderstood(Exception):
    """Raised for a value that cannot be interpreted. The argument is what was expected, by default the description of the field."""


def _at(where: str, row: Mapping) -> str:
    return f"{where} (qid {row['qid']!r})" if "qid" in row else where


def _bad_field(where: str, row: Mapping, name: str, expected: str, found: object) -> ValueError:
    return ValueError(f"{_at(where, row)}, field {name}: expected {expected}; found {_shown(found)}")


def _shown(value: object) -> str:
    """Return a value as JSON, truncated."""
    text = json.dumps(_plain(value), ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(value: Any) -> Any:
    """Convert arrays and tensors, which formatted datasets return, to lists and numbers."""
    return value.tolist() if hasattr(value, "tolist") else value


def _other_name(name: str, raw: Mapping) -> str | None:
    """Return the field of a row that probably contains the missing field `name`."""
    if name == "negative_queries" or name not in OTHER_NAMES:
        return None
    unknown = [key for key in raw if isinstance(key, str) and key not in _FIELDS and key not in _SALIENCY_TYPES]
    lower = {key.lower().replace("-", "_").replace(" ", "_"): key for key in unknown}
    near = [key for key in (name, *OTHER_NAMES[name]) if key in lower] or get_close_matches(name, lower, 1, 0.8)
    return lower[near[0]] if near else None


def _number(value: Any) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise _NotUnderstood from None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise _NotUnderstood
    return float(value)


def _duration(value: Any) -> float:
    if (seconds := _number(value)) <= 0:
        raise _NotUnderstood
    return seconds


def _identifier(value: Any) -> str:
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and value == math.trunc(value):
        return str(math.trunc(value))
    return _text(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _NotUnderstood
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _NotUnderstood("text without unpaired surrogates") from None
    return value


def _query(value: Any) -> str:
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise _NotUnderstood("one sentence; write one row per sentence")
        (value,) = value
    return _text(value).strip()


def _list(value: Any) -> list:
    """Return the value as a list; a string may contain the list as JSON, e.g. in a CSV file."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = json.loads(value)
        except ValueError:
            raise _NotUnderstood from None
    if not isinstance(value, list | tuple):
        return [value]
    return list(value)


def _windows(value: Any) -> list[list[float]]:
    items = [_plain(item) for item in _list(value)]
    if len(items) == 2 and not any(isinstance(item, list | tuple | Mapping) for item in items):
        items = [items]
    return [_window(item) for item in items]


def _window(item: Any) -> list[float]:
    if isinstance(item, Mapping):
        item = [item.get("start"), item.get("end")]
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise _NotUnderstood
    return [_number(_plain(value)) for value in item]


def _texts(value: Any) -> list[str]:
    """Return a list of texts. Empty ones, e.g. for a missing level, keep their place."""
    return [_text(item) if item else "" for item in _list(value)]


def _lists_of_texts(value: Any) -> list[list[str]]:
    return [[] if item is None else _texts(_plain(item)) for item in _list(value)]


_FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "qid": (_identifier, "an id of the query, text or an integer"),
    "vid": (_identifier, "an id of the video, text or an integer"),
    "query": (_query, "a non-empty sentence"),
    "duration": (_duration, "the length of the video, a positive number of seconds"),
    "relevant_windows": (_windows, "[[start, end], …] in seconds, finite numbers"),
    "masked_queries": (_texts, "a list of texts, one per level"),
    "negative_queries": (_texts, "a list of sentences, one per level"),
    "negative_flags": (_lists_of_texts, "a list of flag names per level"),
    "composition_types": (_texts, "a list of texts"),
    "composition_words": (_lists_of_texts, "a list of lists of words"),
}


def _saliency(raw: Mapping, row: Mapping, where: str) -> dict[str, list]:
    """Return the graded saliency of a row, if it has any: the grades of each annotator for each relevant clip of 2 s.

    A single number per clip is the grade of a single annotator. Without ids, there must be a score for every clip of the video.
    """
    scores, ids = _plain(raw.get("saliency_scores")), _plain(raw.get("relevant_clip_ids"))
    if scores is None:
        return {}
    try:
        scores = [[_number(grade) for grade in _list(_plain(grades))] for grades in _list(scores)]
    except _NotUnderstood:
        raise _bad_field(where, row, "saliency_scores", "a list of numbers for each relevant clip", scores) from None
    # A video whose length is not a multiple of 2 s ends with a shorter clip.
    clips = math.ceil(row["duration"] / SALIENCY_CLIP_LENGTH - 1e-6)
    if not ids and len(scores) == clips:
        return {"relevant_clip_ids": list(range(clips)), "saliency_scores": scores}
    try:
        ids = [_clip_id(item) for item in _list([] if ids is None else ids)]
    except _NotUnderstood:
        raise _bad_field(where, row, "relevant_clip_ids", "a list of clip numbers, counted from 0", ids) from None
    if len(ids) != len(scores):
        raise ValueError(
            f"{_at(where, row)}, field relevant_clip_ids: expected one id for each of the {len(scores)} saliency_scores "
            f"(or no ids and one score for each of the {clips} clips of {SALIENCY_CLIP_LENGTH:g} s); found {len(ids)} ids"
        )
    if beyond := [clip for clip in ids if not 0 <= clip < clips]:
        raise ValueError(
            f"{_at(where, row)}, field relevant_clip_ids: expected clips 0 to {clips - 1}, since {row['duration']:g} s have {clips} clips "
            f"of {SALIENCY_CLIP_LENGTH:g} s; found {beyond[0]}"
        )
    if len(set(ids)) < len(ids):
        raise _bad_field(where, row, "relevant_clip_ids", "each clip once", ids)
    return {"relevant_clip_ids": ids, "saliency_scores": scores}


def _clip_id(value: Any) -> int:
    if isinstance(value, bool) or not (
        isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    ):
        raise _NotUnderstood
    return int(value)
