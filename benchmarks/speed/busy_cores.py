"""Time `shine-hf train` on a CPU with its default behavior and with fixed numbers of threads, next to 0, 1 and 2 busy processes.

    shine-hf demo --output-dir outputs/shapes_cg
    python -m benchmarks.speed.busy_cores [--data outputs/shapes_cg] [--steps 150] [--busy 0 1 2] [-- OPTION…]

Options after `--` are passed to `shine-hf train`, e.g. `--hidden_size 256 --per_device_train_batch_size 32`. The ratio is the time per step
divided by the time of the best fixed choice at the same load.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

TRAIN = "import sys; from shine_hf.cli import main; sys.exit(main(['train', *sys.argv[1:]]))"
TRAIN_WITH_FIXED_THREADS = f"""
from shine_hf.training.threads import AdaptThreads
AdaptThreads.on_train_begin = lambda *args, **kwargs: None
{TRAIN}
"""
# The number of spins is libgomp's default. `shine-hf` does not change the variable if it is set.
SPINNING = {"GOMP_SPINCOUNT": "300000"}
CHOICES: dict[str, tuple[str, dict[str, str]]] = {
    "one thread": (TRAIN_WITH_FIXED_THREADS, {"OMP_NUM_THREADS": "1"}),
    "all threads, never spinning": (TRAIN_WITH_FIXED_THREADS, {"OMP_WAIT_POLICY": "passive"}),
    "shine-hf train": (TRAIN, {}),
    "all threads": (TRAIN_WITH_FIXED_THREADS, SPINNING),
}
LIMIT = 2
"""A choice is stopped once it takes this many times as long as the slowest previous one: spinning threads can block each other for minutes."""


def milliseconds(
    script: str, variables: dict[str, str], options: Sequence[str], steps: int, limit: float | None = None
) -> float:
    """Train for some steps, and return the milliseconds per step, or infinity after `limit` seconds."""
    with tempfile.TemporaryDirectory() as folder:
        schedule = f"--output_dir {folder} --max_steps {steps} --warmup_steps 1 --eval_strategy no --save_strategy no"
        command = [sys.executable, "-c", script, *options, *schedule.split(), "--eval_splits", "validation"]
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
        try:
            done = subprocess.run(command, env=inherited | variables, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return math.inf
        if done.returncode:
            raise SystemExit(done.stderr)
        return 1000 * json.loads((Path(folder) / "train_results.json").read_text())["train_runtime"] / steps


@contextlib.contextmanager
def other_work(count: int) -> Iterator[None]:
    """Keep `count` processes busy, each in its own session, as in another terminal. They end with this process, even if it is killed."""
    command = [sys.executable, "-c", f"import os\nwhile os.getppid() == {os.getpid()}: pass"]
    busy = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each load and choice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("outputs/shapes_cg"), help="output of `shine-hf demo`")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], metavar="COUNT")
    parser.add_argument("--config", default="shapes_cg_qd_detr_shine")
    parser.add_argument("options", nargs="*")
    args = parser.parse_args(argv)
    data = ",".join(f"{split}={args.data / f'{split}.jsonl'}" for split in ("train", "test_trivial"))
    options = ["--config", args.config, "--dataset", data, "--video_features", f"npz:{args.data / 'features'}"]
    options += ["--per_device_train_batch_size", "12", *args.options]
    for count in args.busy:
        with other_work(count):
            found: dict[str, float] = {}
            for name, choice in CHOICES.items():
                limit = LIMIT * max(found.values()) * args.steps / 1000 if found else None
                found[name] = milliseconds(*choice, options, args.steps, limit)
        best = min(took for name, took in found.items() if name != "shine-hf train")
        for name, took in found.items():
            print(
                f"{count} busy   {name:<28}{took:8,.0f} ms per step   {took / best:5.2f} times the best fixed choice",
                flush=True,
            )


if __name__ == "__main__":
    main()
