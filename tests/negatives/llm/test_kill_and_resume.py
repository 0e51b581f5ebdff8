"""SIGKILL in the middle of runs full of faults: nothing may be paid for twice or lost."""

import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from shine_hf.negatives.llm.cache import AnswerCache

from ..requests_made_up import make_requests
from .llm_server import LLMServer, answer_ids

CONCURRENCY = 16
REQUESTS = 300
SCRIPT = f"""
import sys
sys.path.insert(0, sys.argv[3])
from requests_made_up import make_requests
from shine_hf.negatives.llm.chat import OpenAIChatGenerator

generator = OpenAIChatGenerator(
    "test-model", cache=sys.argv[2], base_url=sys.argv[1], concurrency={CONCURRENCY}, timeout_seconds=0.5
)
for fill in generator.fill(make_requests({REQUESTS})):
    print(fill.request.qid, fill.text or "-", sep="\\t", flush=True)
"""


def start(server, path) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, server.url, str(path), str(Path(__file__).resolve().parent.parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen, fills: int) -> dict[str, str]:
    """Kill the process after it has printed this many fills, and return all that it printed."""
    lines = [process.stdout.readline() for _ in range(fills)]
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().splitlines(keepends=True)
    process.wait()
    return read_fills(line for line in lines + rest if line.endswith("\n"))


def read_fills(lines: Iterable[str]) -> dict[str, str]:
    return dict(line.rstrip("\n").split("\t") for line in lines)


def ids_in(path) -> set[str]:
    with AnswerCache(path) as cache:
        return set(answer_ids(row["raw"] for row in cache))


def assert_no_answer_was_paid_twice(stats, path, kills: int) -> None:
    kept = ids_in(path)
    for ids in stats["answers"].values():
        # The cache holds the last answer to every request: no request was repeated after its answer was cached.
        assert ids[-1] in kept and not kept & set(ids[:-1])
    delivered = sum(map(len, stats["answers"].values()))
    assert delivered - len(kept) <= kills * CONCURRENCY, "only answers in flight at a kill may be lost"


def test_run_killed_twice_pays_for_every_received_answer_once(tmp_path):
    path = tmp_path / "answers.sqlite"
    with LLMServer(latency_seconds=0.03, fault_rate=0.2, stall_seconds=1, retry_after="0.2") as server:
        seen: list[dict[str, str]] = []
        received: set[str] = set()
        for fills in (50, 150):  # the second run first prints what the first one paid for
            seen.append(kill_after(start(server, path), fills))
            assert received < ids_in(path), "an answer that was in the cache is gone"
            received = ids_in(path)
        process = start(server, path)
        seen.append(read_fills(process.stdout))
        assert process.wait() == 0
        stats = server.stats()

    final = seen[-1]
    assert set(final) == {request.qid for request in make_requests(REQUESTS)}
    assert all(text != "-" for text in final.values())
    for earlier in seen[:-1]:
        assert earlier.items() <= final.items(), "an answer that was used before the kill was replaced"
    assert_no_answer_was_paid_twice(stats, path, kills=2)
