"""Cache the answers of language models on disk, so that each is paid for once.

The cache is a SQLite file with one table. An answer is committed before it is used, so a killed process loses no answer that it had
received. A row only counts as an answer if its body contains one. A row without a body is a question that was submitted in a batch.
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
# Keep the first answer: every later run must give the same result.
_STORE = (
    f"INSERT INTO answers ({', '.join(_NAMES)}) VALUES ({', '.join(f':{name}' for name in _NAMES)}) ON CONFLICT (key) DO UPDATE SET "
    f"{', '.join(f'{name} = excluded.{name}' for name in _NAMES[1:])} WHERE NOT is_answer(answers.raw)"
)
_DEFAULTS = dict.fromkeys(_NAMES) | {"raw": "", "prompt_tokens": 0, "completion_tokens": 0, "received_at": 0.0}

Row = Mapping[str, Any]


def request_key(**parts: object) -> bytes:
    """Return the SHA-256 of everything that determines an answer. The values must be JSON-serializable; their order does not matter."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class AnswerCache:
    """The cache file. A row is a question and, once received, its answer.

    Args:
        path: The file. It is created, together with its folder, if it does not exist.

    Raises:
        ValueError: if the file is not a cache, or was written by an incompatible version of this library.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().resolve()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(f"{self.path}.lock", is_singleton=True)  # Shared by all caches of this process.
        # SQLite serializes the threads of a process. Autocommit: each single statement is a transaction.
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
        # NORMAL hands each commit to the operating system, so a killed process loses nothing. FULL would also wait for the disk.
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
                    "an older version of shine_hf submitted batches that are still open; collect them with that version, or abandon them with "
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
        """Lock the cache until this process ends, so that no other process pays for the same answers.

        Raises:
            ValueError: if another run is using the cache.
        """
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise ValueError(
                f"another run is using the cache {self.path}: wait for it to end, or pass another --cache"
            ) from None

    def get(self, key: bytes) -> str | None:
        """Return the body of the answer to a question; None if there is none yet."""
        row = self._connection.execute("SELECT raw FROM answers WHERE key = ? AND is_answer(raw)", (key,)).fetchone()
        return row and row["raw"]

    def __len__(self) -> int:
        return self._connection.execute("SELECT count(*) FROM answers WHERE raw <> ''").fetchone()[0]

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the answers in order of arrival."""
        return self._connection.execute("SELECT * FROM answers WHERE raw <> '' ORDER BY received_at, key")

    def store(self, rows: Iterable[Row], *, ended_batch: str | None = None) -> None:
        """Commit answers or waiting questions. Existing answers are kept.

        Args:
            rows: The answers and questions.
            ended_batch: A batch whose remaining questions are released.

        Raises:
            OSError: if the file cannot be written, e.g. because the disk is full.
        """
        with self._transaction() as connection:
            connection.executemany(_STORE, [_DEFAULTS | dict(row) for row in rows])
            connection.execute("DELETE FROM answers WHERE batch_id = ? AND raw = ''", (ended_batch,))

    def waiting(self) -> dict[str, dict[bytes, Row]]:
        """Return the questions in open batches: batch -> key -> question."""
        batches: dict[str, dict[bytes, Row]] = {}
        for row in self._connection.execute("SELECT * FROM answers WHERE raw = ''"):
            batches.setdefault(row["batch_id"], {})[row["key"]] = dict(row)
        return batches

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:  # Commits, or rolls back after an error.
                yield self._connection
        except sqlite3.OperationalError as error:
            raise OSError(f"the cache {self.path} cannot be written: {error}") from error
