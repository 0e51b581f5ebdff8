import re
import socket
import time

import pytest

from shine_hf.negatives.generators.base import Generator
from shine_hf.negatives.language.masking import extract_fills
from shine_hf.negatives.llm import chat, client
from shine_hf.negatives.llm.cache import AnswerCache
from shine_hf.negatives.llm.chat import OpenAIChatGenerator
from shine_hf.negatives.llm.client import EndpointError

from ..requests_made_up import NOUNS, VERBS, all_filled, make_request, make_requests
from .llm_server import ANSWER_FAULTS, EMPTY_FAULTS, FAULTS, STYLES, TRANSPORT_FAULTS, LLMServer, answer_ids

UNUSABLE = set(ANSWER_FAULTS) - {"original_word", "two_words"}  # validation finds these


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setattr(chat, "pause_seconds", lambda tries: 0.01)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


def make_generator(server, cache, **options) -> OpenAIChatGenerator:
    return OpenAIChatGenerator("test-model", cache=cache, base_url=server.url, **{"timeout_seconds": 1.0, **options})


def test_every_request_is_filled_in_its_template(path):
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
    assert spending.requests == 100 and spending.prompt_tokens > 0
    assert "100 requests" in str(spending) and "tokens" in str(spending)


def test_finished_requests_are_not_asked_again(path):
    with LLMServer() as server:
        first = {fill.request.qid: fill.text for fill in make_generator(server, path).fill(make_requests(50))}
        generator = make_generator(server, path)
        again = {fill.request.qid: fill.text for fill in generator.fill(make_requests(50))}
        assert again == first
        assert server.stats()["requests"] == 50 and generator.cost_so_far().from_cache == 50


def test_key_covers_everything_that_determines_the_answer(path):
    with LLMServer() as server:
        for options in ({}, {"seed": 1}, {"temperature": 0.0}, {"max_tokens": 100}):
            list(make_generator(server, path, **options).fill([make_request()]))
        rejected = make_request().rejected("person opens the door 0.", ["original_word"])
        list(make_generator(server, path).fill([rejected]))
        assert server.stats()["requests"] == 5


def test_identical_questions_are_asked_once(path):
    with LLMServer(latency_seconds=0.05) as server:
        fills = list(make_generator(server, path).fill([make_request(), make_request(), make_request(1)]))
        assert len(fills) == 3 and all(fill.text for fill in fills)
        assert server.stats()["requests"] == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_every_request_recovers_from_one_fault(path, fault):
    """The first attempt of every request hits the fault; all charged answers are kept."""
    with LLMServer(
        fault_rate=1.0, faults=[fault], fault_limit_per_request=1, stall_seconds=3, retry_after="0.2"
    ) as server:
        generator = make_generator(server, path, max_questions=2, seed=None)
        fills = list(generator.fill(make_requests(4)))
        stats = server.stats()
    delivered = sorted(answer for answers in stats["answers"].values() for answer in answers)
    kept = sorted(answer_ids(row["raw"] for row in generator.answers))
    if fault in TRANSPORT_FAULTS + EMPTY_FAULTS:
        assert all(fill.text for fill in fills)
        assert stats["counts"] == {fault: 4, "good": 4} and stats["requests"] == 8
        assert len(kept) == 4 and kept == delivered
    elif fault in UNUSABLE:
        # The server treats the next question as a new request and corrupts it too.
        assert not any(fill.text for fill in fills) and len(delivered) == 8
        assert kept == delivered
        assert {row["attempt"] for row in generator.answers} == {0, 1}
    else:
        assert all(fill.text for fill in fills) and len(delivered) == 4
        assert kept == delivered


@pytest.mark.parametrize("fault", EMPTY_FAULTS)
def test_errors_with_status_200_are_not_cached_as_answers(path, fault):
    with LLMServer(fault_rate=1.0, faults=[fault]) as server:
        fills = list(make_generator(server, path, max_questions=3).fill(make_requests(3)))
        assert all(fill.text is None and fill.error for fill in fills)
        assert server.stats()["requests"] == 9
        server.configure(fault_rate=0.0)
        generator = make_generator(server, path)
        assert len(generator.answers) == 0
        assert all_filled(generator.fill(make_requests(3)), 3)


@pytest.mark.parametrize("style", sorted(set(STYLES) - {"useless"}))
def test_answers_are_accepted_in_any_style_with_one_question_each(path, style):
    with LLMServer(style=style) as server:
        fills = list(make_generator(server, path).fill(make_requests(30)))
        assert all(fill.text and "no" not in fill.text.split() for fill in fills)
        assert server.stats()["requests"] == 30


def test_run_of_useless_answers_stops_with_an_example(path):
    with LLMServer(style="useless") as server:
        with pytest.raises(EndpointError) as caught:
            list(make_generator(server, path, concurrency=8).fill(make_requests(500)))
        assert server.stats()["requests"] < 70
        assert "none of the first 50 answers" in str(caught.value)
        assert "talk about the weather" in str(caught.value) and "--max-tokens" in str(caught.value)
        server.configure(style="plain")  # answered questions are kept, the others are asked
        assert sum(fill.text is not None for fill in make_generator(server, path).fill(make_requests(500))) > 480


def test_truncated_answer_is_retried_once_with_more_tokens(path):
    with LLMServer(thinking_tokens=1000) as server:
        fills = list(make_generator(server, path, concurrency=2).fill(make_requests(40)))
        assert all(fill.text for fill in fills)
        asked = server.stats()["requests"]
        assert 40 < asked < 50  # after the model is known to think, requests allow more tokens from the start
        server.configure(thinking_tokens=10**6)
        fills = list(make_generator(server, path).fill(make_requests(50)))
        assert {fill.error.split(":")[0] for fill in fills if fill.text is None} == {"truncated"}
        assert server.stats()["requests"] == asked + 20


def test_status_403_fails_only_its_request(path):
    with LLMServer(forbidden=" 7.") as server:
        for _ in range(2):  # a run with nothing else to ask must not stop either
            fills = {fill.request.qid: fill for fill in make_generator(server, path).fill(make_requests(30))}
            assert [qid for qid, fill in fills.items() if fill.text is None] == ["row_7"]
            assert "403: your input was flagged" in fills["row_7"].error
        assert server.stats()["requests"] == 31


def test_small_run_stops_with_the_reason_if_every_request_is_refused(path):
    """The same as for more than ten requests, whose run stops early. Answers from the cache show that the endpoint works."""
    with LLMServer(error="forbidden") as server:
        with pytest.raises(EndpointError, match=r"refused all 3 requests: 403: your input was flagged.*--model"):
            list(make_generator(server, path).fill(make_requests(3)))
        assert server.stats()["requests"] == 3


@pytest.mark.parametrize("fault", sorted(UNUSABLE - {"truncated"}))
def test_useless_answers_are_cached_and_asked_again_with_the_reason(path, fault):
    with LLMServer(fault_rate=1.0, faults=[fault]) as server:
        generator = make_generator(server, path, max_questions=2)
        (fill,) = generator.fill([make_request()])
        assert fill.text is None and fill.error
        server.configure(fault_rate=0.0)
        # A repeated run pays nothing. If one more question is allowed, exactly one is asked.
        assert next(make_generator(server, path, max_questions=2).fill([make_request()])).text is None
        assert server.stats()["requests"] == 2
        assert next(make_generator(server, path, max_questions=3).fill([make_request()])).text is not None
        assert server.stats()["requests"] == 3


@pytest.mark.parametrize("form", ["1", "date"])
def test_retry_after_is_honored(path, form):
    with LLMServer(fault_rate=1.0, faults=["rate_limit"], fault_limit_per_request=1, retry_after=form) as server:
        start = time.monotonic()
        fills = list(make_generator(server, path).fill(make_requests(3)))
        assert all(fill.text for fill in fills)
        assert time.monotonic() - start >= 1.0
        assert server.stats()["early"] == []


@pytest.mark.parametrize(
    "unsupported", [["json_schema"], ["json_schema", "json_object"], ["seed"], ["temperature", "max_tokens"]]
)
def test_fields_rejected_by_the_endpoint_are_dropped(path, unsupported):
    with LLMServer(unsupported=unsupported) as server:
        generator = make_generator(server, path)
        assert all_filled(generator.fill(make_requests(70)), 70)
        assert server.stats()["distinct"] <= 70 * (1 + len(unsupported))
        asked = server.stats()["requests"]
        assert all(fill.text for fill in generator.fill(make_requests(80)[70:]))
        assert server.stats()["requests"] == asked + 10  # the generator remembers


def test_plain_text_answer_is_accepted_if_it_keeps_the_template(path):
    with LLMServer(style="sentence") as server:
        assert all_filled(make_generator(server, path).fill(make_requests(5)), 5)


def test_tokens_are_estimated_if_the_endpoint_does_not_count_them(path):
    with LLMServer(without_usage=True) as server:
        generator = make_generator(server, path, price=(1.0, 1.0))
        assert all_filled(generator.fill(make_requests(30)), 30)
    assert generator.cost_so_far().cost_at_most > 0


def test_wrong_key_stops_at_once_and_is_not_printed(path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    with LLMServer(api_key="another") as server:
        generator = make_generator(server, path)
        with pytest.raises(EndpointError, match="401") as caught:
            list(generator.fill(make_requests(500)))
    generator.answers.close()
    assert "sk-very-secret" not in str(caught.value) and "***" in str(caught.value)
    assert "sk-very-secret" not in repr(generator.endpoint)
    for file in path.parent.iterdir():
        assert b"sk-very-secret" not in file.read_bytes()


def test_right_key_is_used_but_not_stored(path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-0123456789")
    with LLMServer(api_key="sk-very-secret-0123456789") as server:
        assert all_filled(make_generator(server, path).fill(make_requests(5)), 5)
    for file in path.parent.iterdir():
        assert b"sk-very-secret" not in file.read_bytes()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "another"}, "does not exist"),
        ({"error": "insufficient_quota"}, "exceeded your current quota"),
        ({"error": "bad_request"}, "closed for maintenance"),
        ({"fault_rate": 1.0, "faults": ["rate_limit"], "retry_after": "3600"}, "asks to wait 3600 s"),
        ({"fault_rate": 1.0, "faults": ["not_json"]}, "usually ends in /v1"),
        ({"error": "forbidden"}, "refused the last 100 requests: 403: your input was flagged"),
    ],
)
def test_permanent_errors_stop_the_run(path, config, message):
    with LLMServer(latency_seconds=0.01, **config) as server:
        with pytest.raises(EndpointError, match=message):
            list(make_generator(server, path, concurrency=8).fill(make_requests(2000)))
        assert server.stats()["requests"] < 200


def test_stopped_run_loses_no_answers(path):
    with LLMServer(latency_seconds=0.02) as server:
        fills = []
        with pytest.raises(EndpointError, match="exceeded your current quota"):
            for fill in make_generator(server, path, concurrency=8).fill(make_requests(300)):
                fills.append(fill)
                if len(fills) == 50:
                    server.configure(error="insufficient_quota")
        server.configure(error="")
        with AnswerCache(path) as cache:
            assert len(cache) == sum(map(len, server.stats()["answers"].values())) < 300
        assert all_filled(make_generator(server, path).fill(make_requests(300)), 300)
        assert all(len(ids) == 1 for ids in server.stats()["answers"].values())


def test_answers_in_flight_are_kept_if_the_caller_stops_early(path):
    with LLMServer(latency_seconds=0.05) as server:
        generator = make_generator(server, path, concurrency=16)
        fills = generator.fill(make_requests(300))
        next(fills)
        fills.close()
        delivered = sum(map(len, server.stats()["answers"].values()))
        assert len(generator.answers) == delivered < 300


def test_unreachable_endpoint_is_reported(path, monkeypatch):
    monkeypatch.setattr(client, "MAX_RETRIES", 1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    generator = OpenAIChatGenerator("m", cache=path, base_url=url)
    with pytest.raises(EndpointError, match="Connection error"):
        list(generator.fill(make_requests(3)))


def test_full_disk_stops_the_run(path):
    with LLMServer() as server:
        generator = make_generator(server, path)
        pages = generator.answers._connection.execute("PRAGMA page_count").fetchone()[0]
        generator.answers._connection.execute(f"PRAGMA max_page_count={pages + 40}")
        with pytest.raises(OSError, match=r"cannot be written.*full"):
            list(generator.fill(make_requests(2000)))
        assert server.stats()["requests"] < 1000


def test_request_budget_holds_with_concurrent_requests(path):
    with LLMServer(latency_seconds=0.02) as server:
        fills = list(make_generator(server, path, max_requests=30, timeout_seconds=20.0).fill(make_requests(100)))
        assert len(fills) == 100 and sum(fill.text is not None for fill in fills) == 30
        assert {fill.error.split(":")[0] for fill in fills if fill.text is None} == {"budget"}
        assert server.stats()["requests"] == 30


def test_retries_count_toward_the_budget(path):
    with LLMServer(fault_rate=1.0, faults=["server_error"], fault_limit_per_request=1) as server:
        fills = list(make_generator(server, path, max_requests=5).fill(make_requests(4)))
        assert server.stats()["requests"] == 5
        assert sum(fill.text is not None for fill in fills) == 1


def test_dollar_budget_is_never_exceeded(path):
    with LLMServer(latency_seconds=0.02, fault_rate=0.2, faults=sorted(set(FAULTS) - {"stall"})) as server:
        limits = {"max_cost_usd": 0.5, "price": (10.0, 30.0), "max_tokens": 20}
        generator = make_generator(server, path, timeout_seconds=20.0, **limits)
        fills = list(generator.fill(make_requests(1000)))
        stats = server.stats()
    spending = generator.cost_so_far()
    assert 0.4 < spending.cost_at_most <= 0.5
    assert any(fill.text for fill in fills) and any("budget" in (fill.error or "") for fill in fills)
    # What the server would charge, lost replies included: prompt tokens as we estimate them, and 10 tokens per answer.
    charged = sum(len(ids) for kind in ("answers", "lost", "empty") for ids in stats[kind].values())
    assert spending.usd(200 * charged, 10 * charged) < 0.5 * 1.1
    kept = sum(row["cost_usd"] for row in generator.answers)
    assert kept <= spending.usd(spending.prompt_tokens, spending.completion_tokens) <= spending.cost_at_most


def test_invalid_limits_are_rejected():
    for limits in ({"max_requests": -1}, {"max_cost_usd": -1.0, "price": (1.0, 1.0)}, {"price": (1.0, float("nan"))}):
        with pytest.raises(ValueError, match="must be 0 or more"):
            client.Budget(**limits)
    with pytest.raises(ValueError, match="--input-price and --output-price"):
        client.Budget(max_cost_usd=1.0)


def test_dry_run_estimates_cost_and_sends_nothing(path):
    with LLMServer() as server:
        generator = make_generator(server, path, price=(100.0, 100.0))
        list(generator.fill(make_requests(10)))
        asked = server.stats()["requests"]
        estimate = generator.estimate(make_requests(30))
        assert server.stats()["requests"] == asked
        requests, prompt, cost = re.search(
            r"^(\d+) requests, about ([\d,]+) prompt .* about \$([\d.]+)", estimate
        ).groups()
        assert requests == "20" and float(cost) > 0
        per_request = generator.cost_so_far().prompt_tokens / 10
        assert int(prompt.replace(",", "")) == pytest.approx(20 * per_request, rel=0.2)
        assert "price unknown" in OpenAIChatGenerator("m", cache=path, base_url=server.url).estimate(make_requests(3))


def test_provenance_records_the_model_its_version_and_the_date(path):
    with LLMServer() as server:
        generator = make_generator(server, path, price=(0.5, 1.5))
        list(generator.fill(make_requests(3)))
    provenance = generator.provenance()
    assert provenance["model"] == "test-model"
    assert provenance["model_versions"] == ["test-model-0001"]
    assert (
        all(re.fullmatch(r"20\d\d-\d\d-\d\d", day) for day in provenance["answered_on"]) and provenance["answered_on"]
    )
    assert provenance["usd_per_million_tokens"] == (0.5, 1.5)


def test_rate_limit_is_waited_out(path):
    with LLMServer(latency_seconds=0.02, requests_per_second=100, burst=20) as server:
        assert all_filled(make_generator(server, path).fill(make_requests(300)), 300)


def test_arguments_are_checked_before_any_file_is_created(path):
    for options in (
        {"concurrency": 0},
        {"max_questions": 0},
        {"max_tokens": 0},
        {"max_cost_usd": 1},
    ):
        with pytest.raises(ValueError):
            OpenAIChatGenerator("unpriced", cache=path, base_url="http://127.0.0.1:1/v1", **options)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        OpenAIChatGenerator("gpt-4o", cache=path)
    assert not path.exists()
