"""Kill a real training run repeatedly at random times, and compare its result with an uninterrupted run.

    python -m benchmarks.faults.kills [--kills 20] [--steps 400] [--seed 0]

Every other kill is a SIGTERM, after which the run must exit with status 143 and a checkpoint; the others are SIGKILL. Each kill comes within two
checkpoint intervals after a new checkpoint first appears, so many kills hit a save.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
import time
from pathlib import Path

from .runs import SAVE_STEPS, Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted, killed = (Run(Path(folder), name, args.steps) for name in ("uninterrupted", "killed"))
        uninterrupted.finish()
        checkpoints = uninterrupted.output.glob("checkpoint-*")
        saved = {int(path.name.split("-")[1]): path.stat().st_mtime for path in checkpoints}
        first, last = min(saved), max(saved)
        interval_seconds = (saved[last] - saved[first]) / (last - first) * SAVE_STEPS
        print(f"uninterrupted: {args.steps} steps, a checkpoint every {SAVE_STEPS}, {interval_seconds:.2f} s apart")

        half_written = 0
        for number in range(1, args.kills + 1):
            kind = signal.SIGTERM if number % 2 else signal.SIGKILL
            before = killed.last_step()
            process = killed.start()
            while killed.last_step() == before and process.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 2 * interval_seconds))
            if process.poll() is not None:
                print(f"kill {number}: the run has finished; use more steps")
                break
            process.send_signal(kind)
            status = process.wait()
            is_half = killed.last_step() != killed.last_complete_step()
            half_written += is_half
            print(
                f"kill {number}: {kind.name}, status {status}, complete up to step {killed.last_complete_step()}{', a half-written one after it' * is_half}",
                flush=True,
            )
            assert status == (128 + signal.SIGTERM if kind is signal.SIGTERM else -signal.SIGKILL), killed.log()[
                -2000:
            ]
            assert not (is_half and kind is signal.SIGTERM)
        killed.finish()
        same = killed.is_same_as(uninterrupted)
        print(
            f"{half_written} half-written checkpoints; losses and weights are {'identical bit for bit' if same else 'DIFFERENT'}"
        )
        raise SystemExit(not same)


if __name__ == "__main__":
    main()
