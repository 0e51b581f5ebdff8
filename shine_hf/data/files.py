"""Read annotation files into raw rows, each with its position in the file for error messages.

The supported formats are JSON lines, JSON, CSV, TSV and Parquet with the columns of the schema, and the original formats of the field (see
[`shine_hf.data.formats`]), which are recognized by their content. Text may be UTF-8 with or without a byte order mark, UTF-16 or UTF-32,
and may be gzipped.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .formats import charades_sta_rows, didemo_rows, is_by_video, is_charades_sta, is_didemo, rows_by_video
from .text_files import locate, read_text, suffix_of

SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".txt", ".parquet")
RawRow = tuple[str, Any]
"""The location of a row, for error messages, and its fields as written in the file."""


def is_annotation_file(path: str | Path) -> bool:
    """Return whether a path has the suffix of a file that [`raw_rows`] reads."""
    return suffix_of(path) in SUFFIXES


def raw_rows(path: str | Path, split: str = "") -> Iterator[RawRow]:
    """Read the rows of a file.

    Args:
        path: The file; if it does not exist, `.gz` is added.
        split: The name of the split, for the qids of formats without qids.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that cannot be read, is empty, or has an unknown format.
    """
    path = locate(path)
    if suffix_of(path) == ".parquet":
        yield from _parquet_rows(path)
        return
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"{path} is empty; expected one row per query")
    if suffix_of(path) in (".csv", ".tsv"):
        yield from _csv_rows(text, path)
    elif is_charades_sta(text):
        yield from charades_sta_rows(text, path, split)
    elif text.lstrip()[0] not in "[{":
        raise ValueError(
            f"{path}, line 1: neither JSON nor Charades-STA text (VID START END##SENTENCE); found {text.strip()[:40]!r}"
        )
    else:
        document = _single_document(text, path)
        if document is None:
            yield from json_lines(text, path)
        elif is_by_video(document):
            yield from rows_by_video(document, str(path), split)
        elif is_didemo(document):
            yield from didemo_rows(document, str(path))
        elif isinstance(document, list):
            yield from ((f"{path}, item {index}", item) for index, item in enumerate(document, start=1))
        else:
            yield f"{path}, line 1", document


def json_lines(text: str, path: Path) -> Iterator[RawRow]:
    """Read one JSON value per line. Blank lines are skipped.

    Raises:
        ValueError: for a line that is not JSON.
    """
    # Not `splitlines`, which also splits at separators that may occur inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", _parse_json(line, path, number)


def _single_document(text: str, path: Path) -> Any | None:
    """Return the JSON value of the entire file; None if the file is JSON lines.

    Raises:
        ValueError: for a file that is neither.
    """
    first_line = text.lstrip().partition("\n")[0]
    if text.strip() != first_line.strip() and first_line.lstrip().startswith("{"):
        try:
            json.loads(first_line)
            return None  # The first of several lines.
        except (ValueError, RecursionError):
            pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        lines = text.strip().split("\n")
        is_lines = (suffix_of(path) != ".json" and lines[0].rstrip().endswith(("}", "]"))) or len(lines) == 1
        if is_lines or not isinstance(error, json.JSONDecodeError):
            return None
        raise _not_json(path, error, error.lineno) from error


def _parse_json(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise _not_json(path, error, number) from error
    except RecursionError as error:
        raise ValueError(f"{path}, line {number}: not JSON (nested too deeply)") from error


def _not_json(path: Path, error: json.JSONDecodeError, line: int) -> ValueError:
    found = error.doc[error.pos : error.pos + 20].split("\n")[0]
    return ValueError(
        f"{path}, line {line}, column {error.colno}: not JSON"
        + (f" at {found!r}" if found else ": it ends unexpectedly")
    )


def _csv_rows(text: str, path: Path) -> Iterator[RawRow]:
    header = text.lstrip("\n").partition("\n")[0]
    delimiter = max("\t;,", key=header.count)
    reader = csv.DictReader(io.StringIO(text.lstrip("\n"), newline=""), delimiter=delimiter, skipinitialspace=True)
    skipped = len(text) - len(text.lstrip("\n"))
    try:
        for fields in reader:
            where = f"{path}, line {reader.line_num + skipped}"
            if None in fields:
                raise ValueError(f"{where}: more fields than in the header; quote texts that contain {delimiter!r}")
            # An empty field counts as missing.
            yield where, {(name or "").strip(): value or None for name, value in fields.items()}
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + skipped}: not CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file, or an incomplete one") from error
    for index, row in enumerate(table.to_pylist(), start=1):
        yield f"{path}, row {index}", row
