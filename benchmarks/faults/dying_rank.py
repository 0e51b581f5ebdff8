"""Train with two processes and kill one: the other must not wait forever, and the run must be resumable.

    python -m benchmarks.faults.dying_rank [--steps 100]

Prints how long the launcher takes to exit with an error, and whether the resumed run has the losses and weights of an uninterrupted one.
A frozen process (SIGSTOP) is a different case: with gloo, the other one waited longer than `--ddp_timeout`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .runs import Run

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def ranks(launcher: int) -> list[int]:
    """Return the training processes, rank 0 first."""
    children = subprocess.run(["pgrep", "-P", str(launcher)], capture_output=True, text=True).stdout.split()
    return sorted(int(child) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        more = ("--ddp_backend", "gloo")

        def make(name: str) -> Run:
            return Run(Path(folder), name, args.steps, LAUNCHER, more)

        uninterrupted = make("uninterrupted")
        uninterrupted.finish()
        all_same = True
        for name, victim in (("rank_1_dies", 1), ("rank_0_dies", 0)):
            run = make(name)
            process = run.start()
            while run.last_complete_step() == 0 and process.poll() is None:
                time.sleep(0.01)
            os.kill(ranks(process.pid)[victim], signal.SIGKILL)
            start = time.monotonic()
            status = process.wait()
            seconds = time.monotonic() - start
            assert status != 0, "the launcher exited without an error"
            step = run.last_complete_step()
            run.finish()
            same = run.is_same_as(uninterrupted)
            all_same &= same
            print(
                f"{name}: status {status} after {seconds:.0f} s, complete up to step {step}; resumed: {'identical bit for bit' if same else 'DIFFERENT'}",
                flush=True,
            )
        raise SystemExit(not all_same)


if __name__ == "__main__":
    main()
