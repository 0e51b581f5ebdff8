import os
import signal
import subprocess
import sys
import time

import pytest

from shine_hf.negatives.generators.base import Generator
from shine_hf.negatives.llm import batch as batch_module
from shine_hf.negatives.llm.batch import OpenAIBatchGenerator
from shine_hf.negatives.llm.chat import OpenAIChatGenerator
from shine_hf.negatives.llm.client import EndpointError

from ..requests_made_up import all_filled, make_requests
from .llm_server import ANSWER_FAULTS, EMPTY_FAULTS, LLMServer

PRICE = (1.0, 2.0)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


def make_generator(server, cache, **options) -> OpenAIBatchGenerator:
    options = {"poll_seconds": 0.02, **options}
    return OpenAIBatchGenerator("test-model", cache=cache, base_url=server.url, price=PRICE, **options)


def assert_paid_once(stats, cache):
    assert all(len(ids) == 1 for ids in stats["answers"].values())
    assert len(cache) == len(stats["answers"])


def test_every_request_is_filled(path):
    with LLMServer(batch_seconds=0.05) as server:
        generator = make_generator(server, path)
        assert isinstance(generator, Generator)
        assert len([fill for fill in generator.fill(make_requests(50)) if fill.text]) == 50
        assert list(server.stats()["batches"].values()) == ["completed"]
        spending = generator.cost_so_far()
        assert spending.cost_at_most == pytest.approx((spending.prompt_tokens + 2 * spending.completion_tokens) / 1e6)
        assert {row["batch_id"] for row in generator.answers} == set(server.stats()["batches"])
        list(make_generator(server, path).fill(make_requests(50)))
        assert len(server.stats()["batches"]) == 1


def test_large_batches_are_split(path):
    with LLMServer(batch_seconds=0.0) as server:
        list(make_generator(server, path, max_requests_per_batch=20).fill(make_requests(50)))
        assert len(server.stats()["batches"]) == 3


def test_batch_answers_are_reused_by_the_chat_endpoint(path):
    with LLMServer(batch_seconds=0.0) as server:
        list(make_generator(server, path).fill(make_requests(10)))
        chat = OpenAIChatGenerator("test-model", cache=path, base_url=server.url)
        assert all_filled(chat.fill(make_requests(10)), 10) and chat.cost_so_far().requests == 0


@pytest.mark.parametrize("fate", ["expired", "cancelled", "line_errors"])
def test_unanswered_requests_go_into_the_next_batch(path, fate):
    with LLMServer(batch_seconds=0.02, batch_fate=fate) as server:
        generator = make_generator(server, path)
        assert all_filled(generator.fill(make_requests(20)), 20)
        stats = server.stats()
        assert len(stats["batches"]) == 2
        assert_paid_once(stats, generator.answers)


def test_rejected_batch_stops_the_run_and_frees_its_questions(path):
    with LLMServer(batch_seconds=0.0, batch_fate="failed") as server:
        with pytest.raises(EndpointError, match="line 1: The provided model is not supported"):
            list(make_generator(server, path).fill(make_requests(5)))
        assert all_filled(make_generator(server, path).fill(make_requests(5)), 5)


@pytest.mark.parametrize("config", [{"error": "insufficient_quota"}, {"model": "another"}, {"error": "bad_request"}])
def test_permanent_errors_stop_the_run(path, config):
    with LLMServer(batch_seconds=0.0, **config) as server:
        with pytest.raises(EndpointError, match=r"refused (the|all) requests: batch"):
            list(make_generator(server, path).fill(make_requests(5)))
        assert len(server.stats()["batches"]) <= 2


def test_fields_rejected_by_the_endpoint_are_dropped(path):
    with LLMServer(batch_seconds=0.0, unsupported=["json_schema", "seed"]) as server:
        generator = make_generator(server, path, max_requests_per_batch=10)
        assert all_filled(generator.fill(make_requests(30)), 30)


def test_useless_answers_are_asked_again(path):
    with LLMServer(batch_seconds=0.0, fault_rate=0.3, faults=list(ANSWER_FAULTS)) as server:
        generator = make_generator(server, path)
        fills = list(generator.fill(make_requests(60)))
        assert sum(fill.text is not None for fill in fills) > 55
        assert all(fill.text or fill.error for fill in fills)
        assert_paid_once(server.stats(), generator.answers)
        assert 1 < len(server.stats()["batches"]) <= generator.max_questions


def test_lost_reply_does_not_create_the_batch_twice(path):
    with LLMServer(batch_seconds=0.0, drop_batch_reply=True) as server:
        generator = make_generator(server, path)
        assert all_filled(generator.fill(make_requests(10)), 10)
        assert len(server.stats()["batches"]) == 1
        assert_paid_once(server.stats(), generator.answers)


def test_budget_limits_the_requests(path):
    with LLMServer(batch_seconds=0.0) as server:
        fills = list(make_generator(server, path, max_requests=7).fill(make_requests(20)))
        assert sum(fill.text is not None for fill in fills) == 7 and len(fills) == 20
        assert {fill.error for fill in fills if fill.text is None} == {"budget: max_requests 7 reached"}
        assert server.stats()["requests"] == 7


def test_unreadable_batch_error_names_its_origin_and_how_to_discard_it(path):
    with LLMServer(batch_seconds=0.0) as server:
        generator = make_generator(server, path)
        questions = [generator.dialogue(request).question() for request in make_requests(3)]
        generator.answers.store(
            [{**question, "batch_id": f"{server.url} batch-of-somebody"} for question in questions]
        )
        with pytest.raises(EndpointError, match=r"batch-of-somebody.*answers\.sqlite") as caught:
            list(generator.fill(make_requests(3)))
        subprocess.run(
            [sys.executable, "-c", "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.argv[2])"]
            + [str(path), str(caught.value).split('"')[1]],
            check=True,
        )
        assert all_filled(generator.fill(make_requests(3)), 3)


def test_questions_pending_at_another_endpoint_are_not_asked_again(path):
    with LLMServer(batch_seconds=0.0) as server:
        generator = make_generator(server, path)
        question = generator.dialogue(make_requests(1)[0]).question()
        generator.answers.store([{**question, "batch_id": "https://elsewhere/v1 batch-1"}])
        with pytest.raises(EndpointError, match=r"is in the open batch https://elsewhere/v1 batch-1"):
            list(generator.fill(make_requests(1)))


def test_status_403_fails_only_its_request(path):
    with LLMServer(batch_seconds=0.0, forbidden=" 7.") as server:
        for batches in (1, 2):  # A run with nothing else to ask must not stop either.
            fills = {fill.request.qid: fill for fill in make_generator(server, path).fill(make_requests(20))}
            assert [qid for qid, fill in fills.items() if fill.text is None] == ["row_7"]
            assert "your input was flagged" in fills["row_7"].error
            assert len(server.stats()["batches"]) == batches


@pytest.mark.parametrize("fault", EMPTY_FAULTS)
def test_errors_with_status_200_are_not_cached_as_answers(path, fault):
    with LLMServer(batch_seconds=0.0, fault_rate=1.0, faults=[fault], fault_limit_per_request=1) as server:
        generator = make_generator(server, path, seed=None)
        assert all_filled(generator.fill(make_requests(10)), 10)
        assert len(server.stats()["batches"]) == (1 if fault == "not_json" else 2)
        assert len(generator.answers) == 10


@pytest.mark.parametrize("style", ["think", "magistral", "half_a_surrogate_pair"])
def test_answers_are_accepted_in_any_style(path, style):
    with LLMServer(batch_seconds=0.0, style=style) as server:
        assert all_filled(make_generator(server, path).fill(make_requests(10)), 10)
        assert len(server.stats()["batches"]) == 1


def test_run_of_useless_answers_stops_with_an_example(path):
    with LLMServer(batch_seconds=0.0, style="useless") as server:
        with pytest.raises(EndpointError, match=r"none of the first 50 answers .*talk about the weather"):
            list(make_generator(server, path).fill(make_requests(100)))
        assert len(server.stats()["batches"]) == 1


def test_truncated_answers_are_retried_with_more_tokens(path):
    with LLMServer(batch_seconds=0.0, thinking_tokens=1000) as server:
        assert all_filled(make_generator(server, path).fill(make_requests(60)), 60)
        assert len(server.stats()["batches"]) == 2


def test_broken_result_line_is_asked_again(path, monkeypatch):
    with LLMServer(batch_seconds=0.0) as server:
        generator = make_generator(server, path)
        results, seen = generator._results, []

        def broken(remote):
            for name, status, raw in results(remote):
                seen.append(name)
                yield ("None", None, "null") if len(seen) == 1 else (name, status, raw)

        monkeypatch.setattr(generator, "_results", broken)
        assert all_filled(generator.fill(make_requests(5)), 5)
        assert len(server.stats()["batches"]) == 2


# Kills at every step: the script runs `fill` and sends itself SIGKILL just before the step.
SCRIPT = """
import os, signal, sys
sys.path.insert(0, sys.argv[4])
from requests_made_up import make_requests
from shine_hf.negatives.llm.cache import AnswerCache
from shine_hf.negatives.llm.batch import OpenAIBatchGenerator

step, url, path = sys.argv[1:4]
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
if step.startswith("store"):
    store, calls = AnswerCache.store, []
    def counted(*args, **kwargs):
        calls.append(1)
        return die() if len(calls) == int(step[-1]) else store(*args, **kwargs)
    AnswerCache.store = counted
else:
    setattr(OpenAIBatchGenerator, step, die)
generator = OpenAIBatchGenerator("test-model", cache=path, base_url=url, poll_seconds=0.02)
list(generator.fill(make_requests(20)))
"""


@pytest.mark.parametrize(
    "step", ["_submit", "_submit_batch", "store_1", "_find", "_create", "store_2", "_collect", "_keep", "store_3"]
)
def test_kill_at_any_step_submits_nothing_twice(path, step):
    tests = os.path.dirname(os.path.dirname(__file__))
    with LLMServer(batch_seconds=0.05) as server:
        command = [sys.executable, "-c", SCRIPT, step, server.url, str(path), tests]
        assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
        generator = make_generator(server, path)
        assert all_filled(generator.fill(make_requests(20)), 20)
        stats = server.stats()
        assert len(stats["batches"]) == 1
        assert_paid_once(stats, generator.answers)
        assert generator.answers.waiting() == {}


def test_waiting_for_a_batch_can_be_interrupted(path, monkeypatch):
    with LLMServer(batch_seconds=0.3) as server:

        def interrupt(_seconds):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(batch_module.time, "sleep", interrupt)
            with pytest.raises(KeyboardInterrupt):
                list(make_generator(server, path).fill(make_requests(5)))
        start = time.monotonic()
        assert all_filled(make_generator(server, path).fill(make_requests(5)), 5)
        assert time.monotonic() - start < 10 and len(server.stats()["batches"]) == 1
