"""Kill -9 in the middle of a run full of faults, twice, and look whether anything was paid twice or got lost."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shine_hf.negatives.cache import AnswerCache

from .llm_server import ANSWER_FAULTS, FAULTS, LLMServer, answer_ids
from .requests_made_up import make_requests

CONCURRENCY = 16
SCRIPT = f"""
import sys
sys.path.insert(0, sys.argv[3])
from negatives.requests_made_up import make_requests
from shine_hf.negatives.generators.openai_chat import OpenAIChatGenerator

generator = OpenAIChatGenerator(
    "test-model", cache=sys.argv[2], base_url=sys.argv[1], concurrency={CONCURRENCY}, timeout_seconds=0.5
)
for fill in generator.fill(make_requests(400)):
    print(fill.request.qid, fill.text or "-", sep="\\t", flush=True)
"""


def start(server, path) -> subprocess.Popen:
    command = [sys.executable, "-c", SCRIPT, server.url, str(path), str(Path(__file__).resolve().parent.parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_after(process: subprocess.Popen, fills: int) -> dict[str, str]:
    """Kill the process once it has put out so many fills; returns all that it had put out."""
    lines = [process.stdout.readline() for _ in range(fills)]
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.wait()
    return dict(line.rstrip("\n").split("\t") for line in lines if line.count("\t") == 1)


def ids_in(path) -> set[str]:
    with AnswerCache(path) as cache:
        return set(answer_ids(answer.raw for answer in cache))


@pytest.mark.parametrize("faults", [list(FAULTS), list(ANSWER_FAULTS)])
def test_killed_twice_pays_for_every_received_answer_once(tmp_path, faults):
    path = tmp_path / "answers.sqlite"
    with LLMServer(latency_seconds=0.03, fault_rate=0.2, faults=faults, stall_seconds=1, retry_after="0.2") as server:
        seen: list[dict[str, str]] = []
        received: set[str] = set()
        for fills in (60, 200):  # the second run first puts out what the first one had paid for
            seen.append(kill_after(start(server, path), fills))
            time.sleep(0.1)  # what was on its way reaches the closed socket
            assert received < ids_in(path), "an answer that was in the cache is gone"
            received = ids_in(path)
        process = start(server, path)
        seen.append(dict(line.rstrip("\n").split("\t") for line in process.stdout))
        assert process.wait() == 0
        stats = server.stats()

    final = seen[-1]
    assert set(final) == {request.qid for request in make_requests(400)}
    assert sum(text != "-" for text in final.values()) > 390
    for earlier in seen[:-1]:
        assert earlier.items() <= final.items(), "an answer that was used before the kill was replaced"

    kept = ids_in(path)
    for ids in stats["answers"].values():
        # The cache holds the last answer to every request: none was asked again once its answer was there.
        assert ids[-1] in kept and not kept & set(ids[:-1])
    lost = sum(map(len, stats["answers"].values())) - len(kept)
    assert lost <= 2 * CONCURRENCY, "only what was on its way at a kill may be lost"
