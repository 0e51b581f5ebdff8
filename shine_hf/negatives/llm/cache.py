"""Answers of language models on disk, so that each is paid for once.

One SQLite file with one table. An answer is committed before anything else is done with it, so a killed process loses no answer that it
had received. A row counts as an answer only if its body holds one: a row without a body is a question that was handed to a batch.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from .answers import is_answer

SCHEMA_VERSION = 1
_COLUMNS = """
key BLOB PRIMARY KEY, qid TEXT NOT NULL, level INTEGER NOT NULL, attempt INTEGER NOT NULL, masked_query TEXT NOT NULL, model TEXT NOT NULL,
prompt_version TEXT NOT NULL, parameters TEXT NOT NULL, raw TEXT NOT NULL, model_version TEXT, finish_reason TEXT,
prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd REAL, received_at REAL NOT NULL, batch_id TEXT
"""
_NAMES = [column.split()[0] for column in _COLUMNS.split(",")]
# The first answer stays: what was used once must come out of every later run.
_STORE = (
    f"INSERT INTO answers ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)}) ON CONFLICT (key) DO UPDATE SET "
    f"{', '.join(f'{name} = excluded.{name}' for name in _NAMES[1:])} WHERE NOT is_answer(answers.raw)"
)
_DEFAULTS = dict.fromkeys(_NAMES) | {"raw": "", "prompt_tokens": 0, "completion_tokens": 0, "received_at": 0.0}

Row = Mapping[str, Any]


def request_key(**parts: object) -> bytes:
    """Return the SHA-256 of everything that determines an answer. The values must be JSON; their order does not matter."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class AnswerCache:
    """The cache file, created with its folder if it is not there. A row is a question and, once received, its answer.

    Raises:
        ValueError: the file is no cache, or one of another version of this library.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(f"{self.path}.lock", is_singleton=True)  # one for all caches of this process
        # SQLite serializes the threads of a process itself. Autocommit: a single statement is a transaction.
        self._connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.create_function("is_answer", 1, is_answer, deterministic=True)
        try:
            self._prepare()
        except (sqlite3.DatabaseError, ValueError, OSError) as error:
            self._connection.close()
            raise ValueError(f"{self.path} cannot be used as a cache of answers: {error}") from error

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        # A commit is in the operating system's hands at once, so a killed process loses nothing. FULL would wait for the disk each time.
        self._connection.execute("PRAGMA synchronous=NORMAL")
        with self._transaction() as connection:
            [version] = connection.execute("PRAGMA user_version").fetchone()
            tables = {name for [name] in connection.execute("SELECT name FROM sqlite_master")}
            if not version and not tables:
                connection.execute(f"CREATE TABLE answers ({_COLUMNS}) WITHOUT ROWID")
                connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION or "answers" not in tables:
                raise ValueError(
                    f"it has schema {version}, not {SCHEMA_VERSION}; use the shine_hf that wrote it, or another path"
                )
            elif "batches" in tables and connection.execute("SELECT 1 FROM batches").fetchone():
                raise ValueError(
                    "an older shine_hf handed in batches that are still open; collect them with that version, or give them up with "
                    f"sqlite3 {self.path} 'DROP TABLE batch_items; DROP TABLE batches'"
                )

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def lock(self) -> None:
        """Keep other processes from paying for the same answers, until this one ends.

        Raises:
            ValueError: another run has the cache.
        """
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(f"another run uses the cache {self.path}: wait for it, or give another --cache") from None

    def get(self, key: bytes) -> str | None:
        """Return the body of the answer to a question; None if there is none yet."""
        row = self._connection.execute("SELECT raw FROM answers WHERE key = ? AND is_answer(raw)", (key,)).fetchone()
        return row and row["raw"]

    def __len__(self) -> int:
        return self._connection.execute("SELECT count(*) FROM answers WHERE raw <> ''").fetchone()[0]

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the answers in the order of their arrival."""
        return self._connection.execute("SELECT * FROM answers WHERE raw <> '' ORDER BY received_at, key")

    def store(self, rows: Iterable[Row], *, ended_batch: str | None = None) -> None:
        """Commit answers or waiting questions; where there is an answer already, it stays. An ended batch frees its other questions.

        Raises:
            OSError: the file cannot be written, e.g. because the disk is full.
        """
        with self._transaction() as connection:
            connection.executemany(_STORE, [_DEFAULTS | dict(row) for row in rows])
            connection.execute("DELETE FROM answers WHERE batch_id = ? AND raw = ''", (ended_batch,))

    def waiting(self) -> dict[str, dict[bytes, Row]]:
        """Return the questions that were handed to batches: batch -> key -> question."""
        batches: dict[str, dict[bytes, Row]] = {}
        for row in self._connection.execute("SELECT * FROM answers WHERE raw = ''"):
            batches.setdefault(row["batch_id"], {})[row["key"]] = dict(row)
        return batches

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:  # commits, or rolls back after an error
                yield self._connection
        except sqlite3.OperationalError as error:
            raise OSError(f"the cache {self.path} cannot be written: {error}") from error
