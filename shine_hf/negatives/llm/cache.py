"""Answers of language models on disk, so that each is paid for once.

One SQLite file in WAL mode. An answer is committed before anything else is done with it, so a process that is killed
loses no answer that it had received. Processes that share the file divide the work: a request is claimed before it is
asked, and the claims of a process that has died are free at once (same machine) or after `LEASE_SECONDS`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SCHEMA_VERSION = 1
LEASE_SECONDS = 60.0
# SQLite's own limit on the variables of one statement is far higher; small statements keep the write lock short.
_CHUNK = 500

_SCHEMA = """
CREATE TABLE answers (
    key BLOB PRIMARY KEY,
    qid TEXT NOT NULL,
    level INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    masked_query TEXT NOT NULL,
    model TEXT NOT NULL,
    prompt_version TEXT NOT NULL,
    parameters TEXT NOT NULL,
    raw TEXT NOT NULL,
    model_version TEXT,
    finish_reason TEXT,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost_usd REAL,
    received_at REAL NOT NULL,
    batch_id TEXT
) WITHOUT ROWID;
CREATE TABLE workers (id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, heartbeat REAL NOT NULL);
CREATE TABLE claims (key BLOB PRIMARY KEY, worker TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE batches (
    name TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    worker TEXT NOT NULL,
    batch_id TEXT,
    created_at REAL NOT NULL
);
CREATE TABLE batch_items (
    key BLOB NOT NULL,
    batch TEXT NOT NULL REFERENCES batches,
    question TEXT NOT NULL,
    PRIMARY KEY (batch, key)
) WITHOUT ROWID;
CREATE INDEX batch_items_by_key ON batch_items (key);
"""


def request_key(**parts: object) -> bytes:
    """SHA-256 of everything that determines an answer. The values must be JSON; their order does not matter."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Question:
    """What is asked, as provenance: `key` stands for all that determines the answer. `attempt` counts from 0."""

    key: bytes
    qid: str
    level: int
    attempt: int
    masked_query: str
    model: str
    prompt_version: str
    parameters: str


@dataclass(frozen=True)
class Answer(Question):
    """One paid answer as it came: `raw` is the whole body, also when it could not be used."""

    raw: str
    model_version: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    received_at: float
    batch_id: str | None = None


@dataclass(frozen=True)
class Batch:
    """A batch that is planned or at work. `batch_id` is None until the endpoint is known to have it."""

    name: str
    worker: str
    batch_id: str | None
    created_at: float


_COLUMNS = tuple(Answer.__dataclass_fields__)
_INSERT = f"INSERT OR IGNORE INTO answers ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM answers"


class AnswerCache:
    """The cache file, opened by one worker. Close it (or use it as a context manager) to give its claims back.

    Args:
        path: the SQLite file; made, with its folder, if it is not there. `":memory:"` keeps nothing.

    Raises:
        ValueError: the file is no cache, or one of another version of this library.
    """

    def __init__(self, path: str | Path, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self.path = str(path)
        self.worker = uuid.uuid4().hex
        self.lease_seconds = lease_seconds
        self._host = socket.gethostname()
        self._lock = threading.RLock()
        self._last_heartbeat = 0.0
        if self.path != ":memory:":
            Path(path).expanduser().resolve().parent.mkdir(parents=True, exist_ok=True)
        # One connection, used by one thread at a time (`_lock`); autocommit, so that a lone INSERT is a transaction.
        self._connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise ValueError(f"{self.path} cannot be used as a cache of answers: {error}") from error
        except (ValueError, OSError):
            self._connection.close()
            raise

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        # NORMAL: a commit is in the operating system's hands at once, so a killed process loses nothing, and is synced
        # to the disk with the next checkpoint. FULL would block the event loop for a disk sync per answer.
        self._connection.execute("PRAGMA synchronous=NORMAL")
        with self._transaction():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version == SCHEMA_VERSION:
                # Killed processes leave their row; long after the lease nobody asks for it.
                self._connection.execute("DELETE FROM workers WHERE heartbeat < ?", (time.time() - 86_400,))
            elif version == 0:
                if self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise ValueError(f"{self.path} is an SQLite file, but not a cache of answers; choose another path")
                for statement in _SCHEMA.split(";")[:-1]:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            else:
                raise ValueError(
                    f"{self.path} has cache schema {version}, this version of shine_hf reads {SCHEMA_VERSION}; "
                    "use the version that wrote it, or another file"
                )

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back this worker's claims and close the file."""
        with self._lock:
            try:
                with self._transaction():
                    self._connection.execute("DELETE FROM claims WHERE worker = ?", (self.worker,))
                    self._connection.execute("DELETE FROM workers WHERE id = ?", (self.worker,))
            except sqlite3.ProgrammingError:
                pass  # closed before
            finally:
                self._connection.close()

    # Answers

    def get(self, key: bytes) -> Answer | None:
        with self._lock:
            row = self._connection.execute(f"{_SELECT} WHERE key = ?", (key,)).fetchone()
        return Answer(*row) if row else None

    def store(self, answer: Answer) -> None:
        """Commit one answer. The first answer to a key stays: what was used once must come out of every later run.

        Raises:
            OSError: it cannot be written (disk full, file locked for a minute).
        """
        try:
            with self._lock:
                self._connection.execute(_INSERT, _row(answer))
        except sqlite3.OperationalError as error:
            raise OSError(
                f"cannot keep the answer to {answer.qid}, level {answer.level}, in {self.path}: {error}"
            ) from error

    def __len__(self) -> int:
        with self._lock:
            return self._connection.execute("SELECT count(*) FROM answers").fetchone()[0]

    def __iter__(self) -> Iterator[Answer]:
        """All answers in the order of their arrival, for export; read in portions, not all at once."""
        with self._lock:
            keys = [row[0] for row in self._connection.execute("SELECT key FROM answers ORDER BY received_at, key")]
        for key in keys:
            if answer := self.get(key):
                yield answer

    # Division of work

    def claim(self, keys: Sequence[bytes]) -> set[bytes]:
        """Claim requests for this worker; returns those that are now its own, the others are being asked elsewhere."""
        with self._lock, self._transaction():
            self._heartbeat(time.time())
            mine: set[bytes] = set()
            for start in range(0, len(keys), _CHUNK):
                chunk = list(keys[start : start + _CHUNK])
                marks = ", ".join("?" * len(chunk))
                owners = dict(
                    self._connection.execute(f"SELECT key, worker FROM claims WHERE key IN ({marks})", chunk)
                )
                foreign = set(owners.values()) - {self.worker}
                alive = {worker for worker in foreign if self._is_alive(worker)}
                free = [key for key in chunk if owners.get(key) not in alive]
                self._connection.executemany(
                    "INSERT INTO claims VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET worker = excluded.worker",
                    [(key, self.worker) for key in free],
                )
                mine.update(free)
            return mine

    def release(self, keys: Iterable[bytes]) -> None:
        """Give claims back that led to no answer."""
        with self._lock, self._transaction():
            self._connection.executemany(
                "DELETE FROM claims WHERE key = ? AND worker = ?", [(key, self.worker) for key in keys]
            )

    def release_all(self) -> None:
        """Give all claims of this worker back, at the end of a run."""
        with self._lock, self._transaction():
            self._connection.execute("DELETE FROM claims WHERE worker = ?", (self.worker,))

    def heartbeat(self) -> None:
        """Say that this worker lives. Cheap: writes at most every tenth of the lease."""
        now = time.time()
        if now - self._last_heartbeat > self.lease_seconds / 10:
            with self._lock, self._transaction():
                self._heartbeat(now)

    def _heartbeat(self, now: float) -> None:
        self._connection.execute(
            "INSERT INTO workers VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET heartbeat = excluded.heartbeat",
            (self.worker, self._host, os.getpid(), now),
        )
        self._last_heartbeat = now

    def _is_alive(self, worker: str) -> bool:
        row = self._connection.execute("SELECT host, pid, heartbeat FROM workers WHERE id = ?", (worker,)).fetchone()
        if row is None:
            return False
        host, pid, heartbeat = row
        if time.time() - heartbeat > self.lease_seconds:
            return False
        return host != self._host or _process_exists(pid)

    # Batches: a batch holds its questions from the moment it is planned until its answers are stored, whoever collects

    def plan_batch(self, endpoint: str, questions: Sequence[Question]) -> tuple[Batch, list[Question]] | None:
        """Reserve the questions that are neither answered nor in a batch of this endpoint; None if there are none."""
        batch = Batch(uuid.uuid4().hex, self.worker, None, time.time())
        with self._lock, self._transaction():
            self._heartbeat(batch.created_at)
            in_batch = (
                "SELECT 1 FROM batch_items JOIN batches ON batches.name = batch_items.batch "
                "WHERE batch_items.key = ?1 AND batches.endpoint = ?2"
            )
            taken = f"SELECT EXISTS (SELECT 1 FROM answers WHERE key = ?1) OR EXISTS ({in_batch})"
            free = [q for q in questions if not self._connection.execute(taken, (q.key, endpoint)).fetchone()[0]]
            if not free:
                return None
            self._connection.execute(
                "INSERT INTO batches VALUES (?, ?, ?, NULL, ?)", (batch.name, endpoint, self.worker, batch.created_at)
            )
            self._connection.executemany(
                "INSERT OR IGNORE INTO batch_items VALUES (?, ?, ?)",
                [(q.key, batch.name, _question_to_json(q)) for q in free],
            )
        return batch, free

    def batch_submitted(self, name: str, batch_id: str) -> None:
        """The endpoint has the batch under this id."""
        with self._lock:
            self._connection.execute("UPDATE batches SET batch_id = ? WHERE name = ?", (batch_id, name))

    def open_batches(self, endpoint: str) -> list[Batch]:
        """The batches of all workers at this endpoint that are not finished, oldest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT name, worker, batch_id, created_at FROM batches WHERE endpoint = ? ORDER BY created_at",
                (endpoint,),
            ).fetchall()
        return [Batch(*row) for row in rows]

    def batch_questions(self, name: str) -> dict[bytes, Question]:
        with self._lock:
            rows = self._connection.execute(
                "SELECT key, question FROM batch_items WHERE batch = ?", (name,)
            ).fetchall()
        return {key: Question(key=key, **json.loads(question)) for key, question in rows}

    def finish_batch(self, name: str, answers: Sequence[Answer] = ()) -> None:
        """Store a batch's answers and free its other questions, in one transaction."""
        with self._lock, self._transaction():
            self._connection.executemany(_INSERT, [_row(answer) for answer in answers])
            self._connection.execute("DELETE FROM batch_items WHERE batch = ?", (name,))
            self._connection.execute("DELETE FROM batches WHERE name = ?", (name,))

    def free_questions(self, name: str, keys: Iterable[bytes]) -> None:
        """Take questions out of a planned batch again."""
        with self._lock, self._transaction():
            self._connection.executemany(
                "DELETE FROM batch_items WHERE batch = ? AND key = ?", [(name, key) for key in keys]
            )

    def is_alive(self, worker: str) -> bool:
        """Whether another worker still runs, as far as its process and its heartbeat tell."""
        with self._lock:
            return self._is_alive(worker)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """BEGIN IMMEDIATE … COMMIT: takes the write lock first, so that what is read inside stays true until the end."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path} cannot be written: {error}") from error


def _row(answer: Answer) -> tuple:
    return tuple(getattr(answer, name) for name in _COLUMNS)


def _question_to_json(question: Question) -> str:
    return json.dumps({name: getattr(question, name) for name in Question.__dataclass_fields__ if name != "key"})


def _process_exists(pid: int) -> bool:
    if os.name != "posix":
        return True  # there os.kill(pid, 0) would end the process; the lease decides alone
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it exists and belongs to somebody else
    return True
