"""Stress-test the generation of negatives with a language model, in two studies with a faulty local server.

    python benchmarks/negatives_server.py rate
    python benchmarks/negatives_server.py kill --data-dir ../shared/data [--limit N]

`rate` measures the share of the allowed rate that is used at concurrency 64, for servers with latency and for servers with a rate limit
(429 with Retry-After above the limit).

`kill` runs `shine-hf negatives generate` for the training split of Charades-CG against a server that corrupts 20 % of its answers and
limits the rate. The process is killed (SIGKILL) five times and restarted. Prints how many answers were paid for twice or lost, the peak
memory of every process, and the rate.

The server (tests/negatives/llm/llm_server.py) runs in its own process on the same cores, so rates above about 500
requests per second measure the machine rather than the client.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from negatives.llm.llm_server import FAULTS, LLMServer, answer_ids
from negatives.requests_made_up import make_requests

from shine_hf.negatives.llm.cache import AnswerCache
from shine_hf.negatives.llm.chat import OpenAIChatGenerator

CONCURRENCY = 64


def study_rate(args: argparse.Namespace) -> None:
    servers = {
        "latency 0.4 s": ({"latency_seconds": 0.4}, CONCURRENCY / 0.4),
        "latency 0.25 s": ({"latency_seconds": 0.25}, CONCURRENCY / 0.25),
        "limit 100/s, latency 0.1 s": ({"latency_seconds": 0.1, "requests_per_second": 100, "burst": 100}, 100),
        "limit 200/s, latency 0.1 s": ({"latency_seconds": 0.1, "requests_per_second": 200, "burst": 200}, 200),
        "limit 200/s, 5 % random 429": (
            {"latency_seconds": 0.1, "requests_per_second": 200, "burst": 200, "fault_rate": 0.05, "faults": ["rate_limit"]},
            200,
        ),
    }  # fmt: skip
    print(f"{'server':30} allowed/s  used/s  share  refused  CPU ms/request")
    for name, (config, allowed) in servers.items():
        with LLMServer(**config) as server, tempfile.TemporaryDirectory() as folder:
            generator = OpenAIChatGenerator(
                "m", cache=Path(folder) / "answers.sqlite", base_url=server.url, concurrency=CONCURRENCY
            )
            cpu = time.process_time()
            count = int(allowed * args.seconds)
            fills = list(generator.fill(make_requests(count)))
            cpu = time.process_time() - cpu
            assert all(fill.text for fill in fills)
            used = steady_rate(server.stats()["taken_per_second"])
            refused = server.stats()["counts"].get("rate_limit", 0)
            generator.answers.close()
        print(
            f"{name:30} {allowed:9.0f} {used:7.1f} {used / allowed:6.1%} {refused:8} {1000 * cpu / count:8.2f}",
            flush=True,
        )


def steady_rate(per_second: dict[str, int], start: float = 0.0, end: float = float("inf")) -> float:
    """Return the mean rate over the full seconds of a period, except for the first (when the bucket is full) and the last two."""
    counts = {int(second): count for second, count in per_second.items() if start <= int(second) < end}
    if len(counts) < 5:
        return float("nan")
    first, last = min(counts) + 1, max(counts) - 1
    return sum(counts.get(second, 0) for second in range(first, last)) / (last - first)


def study_kill(args: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="negatives_server_"))
    cache, output, log = folder / "answers.sqlite", folder / "negatives.jsonl", folder / "log.txt"
    rows = args.limit or 8281
    config = {
        "latency_seconds": 0.1, "requests_per_second": args.rate, "burst": args.rate, "fault_rate": 0.2,
        "faults": list(FAULTS), "stall_seconds": 4.0,
    }  # fmt: skip
    with LLMServer(**config) as server:
        command = [
            sys.executable, "-c", "import sys; from shine_hf.cli import main; sys.exit(main())",
            "negatives", "generate", "--dataset", "charades_cg", "--data-dir", str(args.data_dir), "--limit", str(rows),
            "--generator", "openai_chat", "--model", "m", "--base-url", server.url, "--cache", str(cache),
            "--concurrency", str(CONCURRENCY), "--timeout-seconds", "2", "--output", str(output),
        ]  # fmt: skip
        received: set[str] = set()
        for run in range(args.kills + 1):
            asked_before, began = server.stats()["requests"], time.monotonic()
            with log.open("ab") as file:
                process = subprocess.Popen(command, stdout=file, stderr=file)
            if run < args.kills:
                target = (run + 1) * 3 * rows // (args.kills + 1)
                while count_answers(cache) < target and process.poll() is None:
                    time.sleep(0.2)
                process.send_signal(signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            ended = time.monotonic()
            time.sleep(0.5)  # Wait for replies in flight to closed sockets.
            stats = server.stats()
            kept = ids_in(cache)
            assert received <= kept, "cached answers were lost"
            received = kept
            rate = steady_rate(stats["taken_per_second"], began, ended if run < args.kills else float("inf"))
            how = f"exit {os.waitstatus_to_exitcode(status)}"
            print(
                f"run {run + 1}: {how}, {ended - began:.0f} s, {stats['requests'] - asked_before} requests, "
                f"{len(kept)} answers in the cache, {rate:.1f}/s of {args.rate} allowed ({rate / args.rate:.1%}), "
                f"peak {usage.ru_maxrss / 1024:.0f} MB",
                flush=True,
            )
    delivered = [answer for answers in stats["answers"].values() for answer in answers]
    asked_again = sum(
        len(answers) - 1 - answers.index(answer) for answers in stats["answers"].values() for answer in answers if answer in kept
    )  # fmt: skip
    print(f"faults: {stats['counts']}")
    empty = sum(map(len, stats["empty"].values()))
    print(f"requests at the server {stats['requests']}: answers delivered {len(delivered)}, in the cache {len(kept)}")
    print(f"replies with status 200 but without an answer (error, refusal, empty), not cached: {empty}")
    print(f"asked again although the answer was cached: {asked_again}")
    # The OS frees the memory of a killed process before closing its connections; replies in between are lost.
    print(f"delivered to a process that was being killed: {len(delivered) - len(kept)} in {args.kills} kills")
    print(f"retried before Retry-After was over: {len(stats['early'])}")
    print(f"output: {sum(1 for _ in output.open())} rows of {rows}")
    print("\n".join(line for line in log.read_text().splitlines() if "negatives/s" not in line))
    shutil.rmtree(folder)
    if asked_again or not set(delivered) >= kept:
        sys.exit("an answer was paid for twice")


def count_answers(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with AnswerCache(path) as cache:
            return len(cache)
    except ValueError:
        return 0  # The cache is still being created.


def ids_in(path: Path) -> set[str]:
    with AnswerCache(path) as cache:
        return set(answer_ids(row["raw"] for row in cache))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    studies = parser.add_subparsers(required=True)
    rate = studies.add_parser("rate")
    rate.add_argument("--seconds", type=float, default=20.0, help="length of each run at the allowed rate")
    rate.set_defaults(run=study_rate)
    kill = studies.add_parser("kill")
    kill.add_argument("--data-dir", type=Path, required=True)
    kill.add_argument("--limit", type=int, help="only the first rows")
    kill.add_argument("--kills", type=int, default=5)
    kill.add_argument("--rate", type=int, default=150, help="requests per second that the server allows")
    kill.set_defaults(run=study_kill)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
