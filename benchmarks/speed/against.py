"""Compare the training steps of this checkout and another commit, in one run.

    python -m benchmarks.speed.against COMMIT [--repeats 7] [--threads 2] [--device cpu]

The two steps alternate. CPU time is compared, since other processes affect it less than wall time.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# Older commits have the step in another module.
SERVE_STEP = """
import time, torch
try:
    from benchmarks.speed.step import ShineLoss, our_step
except ImportError:
    from benchmarks.step import ShineLoss, our_step
torch.set_num_threads({threads})
step = our_step(ShineLoss(), "{device}")
while input() == "run":
    begin = time.process_time()
    for _ in range({steps}):
        step()
    print((time.process_time() - begin) / {steps}, flush=True)
"""


def against(commit: str, repeats: int, threads: int, device: str, steps: int = 3) -> tuple[float, float]:
    """Return the median CPU seconds of the SHINE step at the commit and in this checkout."""
    with tempfile.TemporaryDirectory() as there, contextlib.ExitStack() as stack:
        archive = subprocess.run(
            ["git", "archive", commit, "shine_hf", "benchmarks"], cwd=REPOSITORY, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", there], input=archive.stdout, check=True)
        script = SERVE_STEP.format(threads=threads, device=device, steps=steps)
        servers = [stack.enter_context(_serve(script, folder)) for folder in (there, REPOSITORY)]
        seconds: list[list[float]] = [[] for _ in servers]
        for turn in range(repeats + 2):
            for server, found in zip(servers, seconds):
                server.stdin.write("run\n")
                server.stdin.flush()
                elapsed = float(server.stdout.readline())
                if turn >= 2:
                    found.append(elapsed)
        for server in servers:
            server.communicate("stop\n")
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def _serve(script: str, folder: str | Path) -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], cwd=folder, stdin=pipe, stdout=pipe, text=True)


def main() -> None:
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", metavar="COMMIT")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    there, here = against(args.commit, args.repeats, args.threads, args.device)
    print(f"CPU time: here {here * 1000:.0f} ms, at {args.commit} {there * 1000:.0f} ms, ratio {here / there:.3f}")


if __name__ == "__main__":
    main()
