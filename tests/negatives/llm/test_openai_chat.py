import socket
import threading
import time

import pytest

from shine_hf.negatives.generators.base import Generator
from shine_hf.negatives.language.masking import extract_fills
from shine_hf.negatives.llm.cache import AnswerCache
from shine_hf.negatives.llm.dialogue import read_content, read_usage
from shine_hf.negatives.llm.endpoint import EndpointError, backoff_seconds, retry_after_seconds
from shine_hf.negatives.llm.openai_chat import OpenAIChatGenerator
from shine_hf.negatives.llm.pricing import Price
from shine_hf.negatives.llm.prompts import UnusableAnswer

from ..requests_made_up import NOUNS, VERBS, make_request, make_requests
from .llm_server import ANSWER_FAULTS, FAULTS, TRANSPORT_FAULTS, LLMServer, answer_ids

UNUSABLE = set(ANSWER_FAULTS) - {"original_word", "two_words"}  # these are for validation to find


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


def make_generator(server, cache, **options) -> OpenAIChatGenerator:
    return OpenAIChatGenerator("test-model", cache=cache, base_url=server.url, timeout_seconds=1.0, **options)


def test_fills_every_request_in_its_template(path):
    with LLMServer() as server:
        generator = make_generator(server, path)
        requests = make_requests(100)
        fills = list(generator.fill(requests))
        assert {id(fill.request) for fill in fills} == {id(request) for request in requests}
        for fill in fills:
            verb, noun = extract_fills(fill.request.masked_query, fill.text)
            assert verb in VERBS and noun in NOUNS and (verb, noun) != fill.request.originals
        assert server.stats()["requests"] == 100
    assert isinstance(generator, Generator) and generator.source == "test-model"
    spending = generator.cost_so_far()
    assert spending.requests == spending.answers == 100 and spending.prompt_tokens > 0
    assert "100 requests" in str(spending) and "price unknown" in str(spending)


def test_finished_requests_are_never_asked_again(path):
    with LLMServer() as server:
        first = {fill.request.qid: fill.text for fill in make_generator(server, path).fill(make_requests(50))}
        generator = make_generator(server, path)
        again = {fill.request.qid: fill.text for fill in generator.fill(make_requests(50))}
        assert again == first
        assert server.stats()["requests"] == 50 and generator.cost_so_far().from_cache == 50


def test_all_that_determines_the_answer_is_in_the_key(path):
    with LLMServer() as server:
        for options in ({}, {"seed": 1}, {"temperature": 0.0}, {"max_tokens": 100}):
            list(make_generator(server, path, **options).fill([make_request()]))
        rejected = make_request().rejected("person opens the door 0.", ["original_word"])
        list(make_generator(server, path).fill([rejected]))
        assert server.stats()["requests"] == 5


def test_equal_questions_are_asked_once(path):
    with LLMServer(latency_seconds=0.05) as server:
        fills = list(make_generator(server, path).fill([make_request(), make_request(), make_request(1)]))
        assert len(fills) == 3 and all(fill.text for fill in fills)
        assert server.stats()["requests"] == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_each(path, fault):
    """Every request meets the fault the first time it is sent; whatever was paid for is kept."""
    with LLMServer(
        fault_rate=1.0, faults=[fault], fault_limit_per_request=1, stall_seconds=3, retry_after="0.2"
    ) as server:
        generator = make_generator(server, path, max_questions=2)
        fills = list(generator.fill(make_requests(4)))
        stats = server.stats()
    delivered = sorted(answer for answers in stats["answers"].values() for answer in answers)
    assert sorted(answer_ids(answer.raw for answer in generator.cache)) == delivered
    if fault in TRANSPORT_FAULTS:
        assert all(fill.text for fill in fills)
        assert stats["counts"] == {fault: 4, "good": 4} and stats["requests"] == 8
    elif fault in UNUSABLE:
        # The next question is a new request to the server, which spoils it as well.
        assert not any(fill.text for fill in fills) and len(delivered) == 8
        assert {answer.attempt for answer in generator.cache} == {0, 1}
    else:
        assert all(fill.text for fill in fills) and len(delivered) == 4


@pytest.mark.parametrize("fault", sorted(UNUSABLE))
def test_useless_answers_are_kept_and_asked_again_with_the_reason(path, fault):
    with LLMServer(fault_rate=1.0, faults=[fault]) as server:
        generator = make_generator(server, path, max_questions=2)
        (fill,) = generator.fill([make_request()])
        assert fill.text is None and fill.error
        server.configure(fault_rate=0.0)
        # Settled: the same run again pays nothing. One more question is allowed: exactly one is asked.
        assert next(make_generator(server, path, max_questions=2).fill([make_request()])).text is None
        assert server.stats()["requests"] == 2
        assert next(make_generator(server, path, max_questions=3).fill([make_request()])).text is not None
        assert server.stats()["requests"] == 3


@pytest.mark.parametrize("form", ["1", "date"])
def test_retry_after_is_honoured(path, form):
    with LLMServer(fault_rate=1.0, faults=["rate_limit"], fault_limit_per_request=1, retry_after=form) as server:
        start = time.monotonic()
        fills = list(make_generator(server, path).fill(make_requests(3)))
        assert all(fill.text for fill in fills)
        assert time.monotonic() - start >= 1.0
        assert server.stats()["early"] == []


def test_waiting_requests_do_not_hold_up_the_others(path):
    with LLMServer(fault_rate=0.3, faults=["rate_limit"], fault_limit_per_request=1, retry_after="1") as server:
        generator = make_generator(server, path, concurrency=2)
        arrived_before_the_wait_was_over = 0
        start = time.monotonic()
        for fill in generator.fill(make_requests(40)):
            arrived_before_the_wait_was_over += fill.text is not None and time.monotonic() - start < 1.0
    assert arrived_before_the_wait_was_over > 20


@pytest.mark.parametrize(
    "unsupported", [["json_schema"], ["json_schema", "json_object"], ["seed"], ["temperature", "max_tokens"]]
)
def test_fields_that_the_endpoint_refuses_are_left_out(path, unsupported):
    with LLMServer(unsupported=unsupported) as server:
        generator = make_generator(server, path)
        assert all(fill.text for fill in generator.fill(make_requests(70)))
        assert server.stats()["distinct"] <= 70 * (1 + len(unsupported))
        asked = server.stats()["requests"]
        assert all(fill.text for fill in generator.fill(make_requests(80)[70:]))
        assert server.stats()["requests"] == asked + 10  # it remembers


def test_an_answer_in_plain_words_is_taken_if_it_keeps_the_template(path):
    with LLMServer(as_sentence=True) as server:
        assert all(fill.text for fill in make_generator(server, path).fill(make_requests(5)))


def test_an_endpoint_that_does_not_count_tokens_is_booked_by_estimate(path):
    with LLMServer(without_usage=True) as server:
        generator = make_generator(server, path, prices={"test-model": Price(1.0, 1.0)})
        assert all(fill.text for fill in generator.fill(make_requests(30)))
    assert generator.cost_so_far().cost_usd > 0


def test_wrong_key_stops_at_once_and_is_never_shown(path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    with LLMServer(api_key="another") as server:
        generator = make_generator(server, path)
        with pytest.raises(EndpointError, match="401") as caught:
            list(generator.fill(make_requests(500)))
    generator.cache.close()
    assert "sk-very-secret" not in str(caught.value) and "***" in str(caught.value)
    assert "sk-very-secret" not in repr(vars(generator.endpoint).get("features")) + repr(generator.endpoint)
    for file in path.parent.iterdir():
        assert b"sk-very-secret" not in file.read_bytes()


def test_right_key_is_used_but_not_stored(path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    with LLMServer(api_key="sk-very-secret-0123456789") as server:
        assert all(fill.text for fill in make_generator(server, path).fill(make_requests(5)))
    for file in path.parent.iterdir():
        assert b"sk-very-secret" not in file.read_bytes()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "another"}, "does not exist"),
        ({"error": "insufficient_quota"}, "exceeded your current quota"),
        ({"error": "bad_request"}, "closed for maintenance"),
        ({"fault_rate": 1.0, "faults": ["rate_limit"], "retry_after": "3600"}, "asks to wait 3600 s"),
        ({"fault_rate": 1.0, "faults": ["not_json"]}, "is the base URL right"),
    ],
)
def test_hopeless_errors_stop_the_run(path, config, message):
    with LLMServer(latency_seconds=0.01, **config) as server:
        with pytest.raises(EndpointError, match=message):
            list(make_generator(server, path, concurrency=8).fill(make_requests(2000)))
        assert server.stats()["requests"] < 200


def test_a_run_that_is_stopped_loses_nothing(path):
    with LLMServer(latency_seconds=0.02) as server:
        fills = []
        with pytest.raises(EndpointError, match="run the same command to go on"):
            for fill in make_generator(server, path, concurrency=8).fill(make_requests(300)):
                fills.append(fill)
                if len(fills) == 50:
                    server.configure(error="insufficient_quota")
        server.configure(error="")
        with AnswerCache(path) as cache:
            assert len(cache) == sum(map(len, server.stats()["answers"].values())) < 300
        assert all(fill.text for fill in make_generator(server, path).fill(make_requests(300)))
        assert all(len(ids) == 1 for ids in server.stats()["answers"].values())


def test_a_caller_that_stops_early_keeps_what_is_on_its_way(path):
    with LLMServer(latency_seconds=0.05) as server:
        generator = make_generator(server, path, concurrency=16)
        fills = generator.fill(make_requests(300))
        next(fills)
        fills.close()
        delivered = sum(map(len, server.stats()["answers"].values()))
        assert len(generator.cache) == delivered < 300


def test_no_endpoint_at_all(path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    generator = OpenAIChatGenerator("m", cache=path, base_url=url, max_retries=1)
    with pytest.raises(EndpointError, match="connection failed"):
        list(generator.fill(make_requests(3)))
    assert generator.cost_so_far().lost == 0  # nothing was sent, so nothing can be charged


def test_a_full_disk_ends_the_run(path):
    with LLMServer() as server:
        generator = make_generator(server, path)
        pages = generator.cache._connection.execute("PRAGMA page_count").fetchone()[0]
        generator.cache._connection.execute(f"PRAGMA max_page_count={pages + 40}")
        # Whichever comes first, an answer or a claim.
        with pytest.raises(OSError, match=r"cannot (keep the answer|be written).*full"):
            list(generator.fill(make_requests(2000)))
        assert server.stats()["requests"] < 1000


def test_budget_of_requests_holds_while_many_are_on_their_way(path):
    with LLMServer(latency_seconds=0.02) as server:
        fills = list(make_generator(server, path, max_requests=30).fill(make_requests(100)))
        assert len(fills) == 100 and sum(fill.text is not None for fill in fills) == 30
        assert {fill.error.split(":")[0] for fill in fills if fill.text is None} == {"budget"}
        assert server.stats()["requests"] == 30


def test_budget_in_dollars_is_never_passed(path):
    prices = {"test-model": Price(10.0, 30.0)}
    with LLMServer(latency_seconds=0.02, fault_rate=0.2) as server:
        generator = make_generator(server, path, max_cost_usd=0.5, prices=prices, max_tokens=20)
        fills = list(generator.fill(make_requests(1000)))
    spending = generator.cost_so_far()
    assert 0.4 < spending.cost_usd + spending.possibly_charged_usd <= 0.5
    assert any(fill.text for fill in fills) and any("budget" in (fill.error or "") for fill in fills)
    booked = sum(answer.cost_usd or 0.0 for answer in generator.cache)
    assert booked == pytest.approx(spending.cost_usd)


def test_dry_run_counts_and_sends_nothing(path):
    with LLMServer() as server:
        generator = make_generator(server, path, prices={"test-model": Price(1.0, 1.0)})
        list(generator.fill(make_requests(10)))
        asked = server.stats()["requests"]
        estimate = generator.estimate(make_requests(30))
        assert (estimate.requests, estimate.from_cache) == (20, 10) and server.stats()["requests"] == asked
        per_request = generator.cost_so_far().prompt_tokens / 10
        assert estimate.prompt_tokens == pytest.approx(20 * per_request, rel=0.2)
        assert estimate.cost_usd > 0 and "20 requests" in str(estimate)


def test_two_processes_worth_of_workers_share_the_work(path):
    with LLMServer(latency_seconds=0.02, fault_rate=0.1, faults=sorted(UNUSABLE)) as server:
        generators = [make_generator(server, path, concurrency=8) for _ in range(2)]
        results = [[], []]
        threads = [
            threading.Thread(target=lambda i=i: results[i].extend(generators[i].fill(make_requests(300))))
            for i in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(len(ids) == 1 for ids in server.stats()["answers"].values())
    texts = [{fill.request.qid: fill.text for fill in result} for result in results]
    assert len(texts[0]) == 300 and texts[0] == texts[1]
    assert all(generator.cost_so_far().requests > 30 for generator in generators)


def test_rate_limit_is_found_and_kept_to(path):
    with LLMServer(latency_seconds=0.02, requests_per_second=100, burst=20) as server:
        fills = list(make_generator(server, path).fill(make_requests(400)))
        counts = server.stats()["counts"]
    assert all(fill.text for fill in fills)
    assert counts["rate_limit"] < counts["good"]  # without pacing half as many again


def test_arguments_are_checked_before_anything_is_made(path):
    for options in (
        {"concurrency": 0},
        {"max_questions": 0},
        {"max_retries": -1},
        {"max_tokens": 0},
        {"max_cost_usd": 1},
    ):
        with pytest.raises(ValueError):
            OpenAIChatGenerator("unpriced", cache=path, base_url="http://127.0.0.1:1/v1", **options)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        OpenAIChatGenerator("gpt-4o", cache=path)
    assert not path.exists()


def test_retry_after_header():
    assert retry_after_seconds({}) is None
    assert retry_after_seconds({"retry-after": "7"}) == 7.0
    assert retry_after_seconds({"retry-after": "7", "retry-after-ms": "1500"}) == 1.5
    assert retry_after_seconds({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after_seconds({"retry-after": "soon"}) is None


def test_backoff_grows_and_never_undercuts_the_endpoint():
    assert all(backoff_seconds(8) > backoff_seconds(1) for _ in range(50))
    assert max(backoff_seconds(100) for _ in range(50)) <= 30.0
    assert min(backoff_seconds(1, 5.0) for _ in range(50)) >= 5.0


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ("<html>", "not_json"),
        ("[]", "not_json"),
        ('{"error": "x"}', "malformed_response"),
        ('{"choices": []}', "malformed_response"),
        ('{"choices": [{"message": null}]}', "malformed_response"),
        ('{"choices": [{"message": {"content": null}}]}', "empty_answer"),
        ('{"choices": [{"message": {"content": [1]}}]}', "empty_answer"),
        ('{"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]}', "refusal"),
        ('{"choices": [{"message": {"content": "x"}, "finish_reason": "length"}]}', "truncated"),
    ],
)
def test_completions_without_content(raw, kind):
    with pytest.raises(UnusableAnswer) as caught:
        read_content(raw)
    assert caught.value.kind == kind


def test_usage_is_believed_only_if_it_is_a_count():
    assert read_usage('{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}') == (3, 4)
    assert read_usage('{"usage": {"prompt_tokens": 3}}') == (3, 0)
    for usage in ("null", '{"prompt_tokens": -1}', '{"prompt_tokens": "3"}', "7"):
        assert read_usage(f'{{"usage": {usage}}}') is None
