import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from shine_hf.negatives.llm.cache import AnswerCache, Question, request_key
from shine_hf.negatives.llm.dialogue import record_answer


def make_question(number: int = 0) -> Question:
    return Question(
        key=request_key(number=number),
        qid=f"row_{number}",
        level=1,
        attempt=0,
        masked_query="person <mask>.",
        model="m",
        prompt_version="1",
        parameters="{}",
    )


def make_answer(number: int = 0, raw: str = '{"usage": {"prompt_tokens": 3, "completion_tokens": 2}}'):
    return record_answer(make_question(number), raw, cost_usd=0.1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "answers.sqlite"


def test_key_depends_on_every_part_but_not_on_their_order():
    assert request_key(a=1, b=[2]) == request_key(b=[2], a=1)
    assert len({request_key(a=1), request_key(a=2), request_key(b=1), request_key(a="1")}) == 4


def test_answers_outlive_the_process_that_wrote_them(path):
    with AnswerCache(path) as cache:
        cache.store(make_answer())
    with AnswerCache(path) as cache:
        assert cache.get(make_question().key) == next(iter(cache))
        answer = cache.get(make_question().key)
        assert (answer.prompt_tokens, answer.completion_tokens, answer.cost_usd, answer.qid) == (3, 2, 0.1, "row_0")
        assert cache.get(make_question(1).key) is None


def test_first_answer_stays(path):
    with AnswerCache(path) as cache:
        cache.store(make_answer(raw="first"))
        cache.store(make_answer(raw="second"))
        assert cache.get(make_question().key).raw == "first" and len(cache) == 1


def test_a_full_disk_is_an_error_that_names_file_and_row(path):
    with AnswerCache(path) as cache:
        cache.store(make_answer(0))
        pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
        cache._connection.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(OSError, match=r"row_1, level 1, in .*answers\.sqlite"):
            cache.store(make_answer(1, raw="x" * 100_000))
        assert cache.get(make_question(0).key) is not None


def test_uses_write_ahead_log(path):
    with AnswerCache(path):
        assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_other_files_are_left_alone(path):
    path.parent.mkdir()
    path.write_text("not a database, but long enough to be taken for one " * 30)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"answers\.sqlite"):
        AnswerCache(path)
    assert path.read_bytes() == before
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(ValueError, match="not a cache of answers"):
        AnswerCache(path)


def test_other_schema_versions_are_refused(path):
    AnswerCache(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(ValueError, match="schema 99"):
        AnswerCache(path)


def test_claims_are_exclusive_until_given_back(path):
    keys = [request_key(n=n) for n in range(1200)]
    with AnswerCache(path) as other:
        with AnswerCache(path) as cache:
            assert cache.claim(keys[:700]) == set(keys[:700])
            assert cache.claim(keys[:10]) == set(keys[:10])  # one's own
            assert other.claim(keys) == set(keys[700:])
            cache.release(keys[:5])
            assert other.claim(keys[:10]) == set(keys[:5])
        assert other.claim(keys[:10]) == set(keys[:10])  # the other one closed


def test_claims_of_a_killed_process_are_free_at_once(path):
    script = (
        "import sys, time; from shine_hf.negatives.llm.cache import AnswerCache\n"
        "AnswerCache(sys.argv[1]).claim([b'k' * 32]); print('claimed', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"claimed\n"
    with AnswerCache(path) as cache:
        assert cache.claim([b"k" * 32]) == set()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert cache.claim([b"k" * 32]) == {b"k" * 32}


def test_claims_of_a_silent_worker_run_out(path):
    with AnswerCache(path) as silent, AnswerCache(path, lease_seconds=0.0) as cache:
        silent.claim([b"k" * 32])
        assert cache.claim([b"k" * 32]) == {b"k" * 32}
        assert silent.claim([b"k" * 32]) == set()


def test_heartbeat_keeps_claims(path, monkeypatch):
    import shine_hf.negatives.llm.cache as module

    now = [1000.0]
    monkeypatch.setattr(module.time, "time", lambda: now[0])
    with AnswerCache(path) as busy, AnswerCache(path) as cache:
        busy.claim([b"k" * 32])
        now[0] += 50
        busy.heartbeat()
        now[0] += 50
        assert cache.claim([b"k" * 32]) == set()
        now[0] += 50
        assert cache.claim([b"k" * 32]) == {b"k" * 32}


def test_a_question_is_in_one_batch_only(path):
    questions = [make_question(n) for n in range(4)]
    with AnswerCache(path) as cache, AnswerCache(path) as other:
        cache.store(make_answer(0))
        batch, planned = cache.plan_batch("here", questions[:2])
        assert planned == questions[1:2]
        _, planned_by_other = other.plan_batch("here", questions)
        assert planned_by_other == questions[2:]
        assert other.plan_batch("here", questions) is None
        assert other.plan_batch("elsewhere", questions)[1] == questions[1:]
        cache.batch_submitted(batch.name, "batch-1")
        assert other.open_batches("here")[0] == replace(batch, batch_id="batch-1")
        assert other.batch_questions(batch.name) == {questions[1].key: questions[1]}
        other.finish_batch(batch.name, [make_answer(1)])
        assert len(cache.open_batches("here")) == 1 and cache.get(questions[1].key) is not None


def test_finishing_a_batch_frees_what_was_not_answered(path):
    with AnswerCache(path) as cache:
        batch, _ = cache.plan_batch("here", [make_question(0), make_question(1)])
        cache.finish_batch(batch.name, [make_answer(0)])
        assert cache.plan_batch("here", [make_question(0), make_question(1)])[1] == [make_question(1)]
