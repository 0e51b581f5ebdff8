import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from shine_hf.negatives.llm.cache import AnswerCache, request_key

RAW = json.dumps({"choices": [{"message": {"content": "hello"}}]})


def make_question(number: int = 0) -> dict:
    return {
        "key": request_key(number=number),
        "qid": f"row_{number}",
        "level": 1,
        "attempt": 0,
        "masked_query": "person <mask>.",
        "model": "m",
        "prompt_version": "1",
        "parameters": "{}",
    }


def make_answer(number: int = 0, raw: str = RAW) -> dict:
    return {**make_question(number), "raw": raw, "received_at": 1.0 + number}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "answers.sqlite"


def test_key_depends_on_every_part_but_not_on_its_order():
    assert request_key(a=1, b=[2]) == request_key(b=[2], a=1)
    assert len({request_key(a=1), request_key(a=2), request_key(b=1), request_key(a="1")}) == 4


def test_answers_survive_the_process_that_wrote_them(path):
    with AnswerCache(path) as cache:
        cache.store([make_answer()])
    with AnswerCache(path) as cache:
        assert cache.get(make_question()["key"]) == RAW
        assert cache.get(make_question(1)["key"]) is None
        assert [(row["qid"], row["prompt_tokens"]) for row in cache] == [("row_0", 0)]


def test_first_answer_is_kept_but_an_error_is_replaced(path):
    error = '{"choices": null, "error": {"message": "overloaded"}}'
    with AnswerCache(path) as cache:
        cache.store([make_answer(raw=error)])
        assert cache.get(make_question()["key"]) is None
        cache.store([make_answer()])
        cache.store([make_answer(raw=RAW.replace("hello", "again"))])
        assert cache.get(make_question()["key"]) == RAW
        assert len(cache) == 1


def test_full_disk_error_names_the_file(path):
    with AnswerCache(path) as cache:
        cache.store([make_answer(0)])
        pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
        cache._connection.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(OSError, match=r"answers\.sqlite cannot be written.*full"):
            cache.store([make_answer(1, raw="x" * 100_000)])
        assert cache.get(make_question(0)["key"]) is not None


def test_cache_uses_a_write_ahead_log(path):
    with AnswerCache(path):
        assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_other_files_are_rejected_and_unchanged(path):
    path.parent.mkdir()
    path.write_text("not a database, but long enough to be taken for one " * 30)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"answers\.sqlite"):
        AnswerCache(path)
    assert path.read_bytes() == before
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(ValueError, match="cannot be used as a cache of answers"):
        AnswerCache(path)


def test_other_schema_versions_are_rejected(path):
    AnswerCache(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(ValueError, match="schema 99, not 1"):
        AnswerCache(path)


# What shine_hf 0.1 wrote: the same table of answers, and three more.
OLD_SCHEMA = """
CREATE TABLE answers (key BLOB PRIMARY KEY, qid TEXT NOT NULL, level INTEGER NOT NULL, attempt INTEGER NOT NULL,
    masked_query TEXT NOT NULL, model TEXT NOT NULL, prompt_version TEXT NOT NULL, parameters TEXT NOT NULL, raw TEXT NOT NULL,
    model_version TEXT, finish_reason TEXT, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, cost_usd REAL,
    received_at REAL NOT NULL, batch_id TEXT) WITHOUT ROWID;
CREATE TABLE workers (id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, heartbeat REAL NOT NULL);
CREATE TABLE claims (key BLOB PRIMARY KEY, worker TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE batches (name TEXT PRIMARY KEY, endpoint TEXT NOT NULL, worker TEXT NOT NULL, batch_id TEXT, created_at REAL NOT NULL);
CREATE TABLE batch_items (key BLOB NOT NULL, batch TEXT NOT NULL REFERENCES batches, question TEXT NOT NULL,
    PRIMARY KEY (batch, key)) WITHOUT ROWID;
PRAGMA user_version=1;
"""


def test_caches_of_version_0_1_are_read_and_their_open_batches_reported(path):
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.executescript(OLD_SCHEMA)
        values = (
            make_question()["key"],
            "row_0",
            1,
            0,
            "person <mask>.",
            "m",
            "1",
            "{}",
            RAW,
            "m-1",
            "stop",
            3,
            2,
            0.1,
            5.0,
            None,
        )
        connection.execute(f"INSERT INTO answers VALUES ({', '.join('?' * 16)})", values)
    with AnswerCache(path) as cache:
        assert cache.get(make_question()["key"]) == RAW
        cache.store([make_answer(1)])
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO batches VALUES ('b', 'here', 'w', NULL, 0)")
    with pytest.raises(ValueError, match="batches that are still open; collect them with that version"):
        AnswerCache(path)


def test_concurrent_runs_are_rejected_but_a_killed_run_holds_no_lock(path):
    script = (
        "import sys, time; from shine_hf.negatives.llm.cache import AnswerCache\n"
        "cache = AnswerCache(sys.argv[1]); cache.lock(); print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    with AnswerCache(path) as cache:
        assert len(cache) == 0  # reading is allowed
        with pytest.raises(ValueError, match=r"another run is using the cache .*answers\.sqlite"):
            cache.lock()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        cache.lock()
        cache.lock()


def test_questions_of_a_batch_are_pending_until_it_ends(path):
    with AnswerCache(path) as cache:
        cache.store([make_answer(0)])
        cache.store([{**make_question(n), "batch_id": "here b"} for n in range(3)])
        assert cache.waiting().keys() == {"here b"}
        assert {row["qid"] for row in cache.waiting()["here b"].values()} == {"row_1", "row_2"}
        assert len(cache) == 1 and cache.get(make_question(1)["key"]) is None
        cache.store([{**make_answer(1), "batch_id": "b"}], ended_batch="here b")
        assert cache.waiting() == {}
        assert [row["qid"] for row in cache] == ["row_0", "row_1"]
