"""Run everything that needs a GPU in one command: eight minutes, no network.

    python -m benchmarks.gpu --output OUT [--seconds 470] [--study charades_real --data-dir ../shared/data --runs 10]
    python -m benchmarks.gpu --output OUT --device cpu --tiny

The parts, in order:

1. Checks of models, losses and trainer against the CPU.
2. The training step in float32, in bfloat16, as a CUDA graph and compiled, with a profile, against a step in the style of the public code.
3. The paper's schedule of 51,800 steps, extrapolated from 2,000.
4. For the remaining time, a study with many parallel runs (a run is bound by kernel launches, so one GPU can host many).

Each part writes its JSON when it is done. A part that fails or runs out of time does not stop the others. Prepare the files of the study first
(`python -m benchmarks.study NAME --prepare-only`), and copy `outputs/studies` to the GPU machine. `--tiny` tests the script with tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .checks import TINY, run_checks
from .steps import measure_steps
from .training import measure_schedule

# Time that a stopped study needs to save its runs and write its tables.
SECONDS_TO_STOP = 45


def run_study(
    name: str, data_dir: Path, runs: int, output: Path, until: float, overrides: Sequence[str]
) -> dict[str, object]:
    """Run a study until a given time (`time.monotonic`).

    Args:
        name: Name of a study, or a path.
        data_dir: Folder with the original annotations.
        runs: Number of parallel runs.
        output: Folder for its tables and log.
        until: Time by which everything must be written.
        overrides: Recipe options, as after `--`.
    """
    command = [
        sys.executable,
        "-m",
        "benchmarks.study",
        name,
        "--data-dir",
        str(data_dir),
        "--results",
        str(output / "study"),
    ]
    tail = ["--", *overrides] if overrides else []
    begin = time.monotonic()
    with open(output / "study.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen([*command, "--workers", str(runs), *tail], stdout=log, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout=max(1.0, until - SECONDS_TO_STOP - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
        if process.returncode:
            subprocess.run([*command, "--report-only", *tail], stdout=log, stderr=subprocess.STDOUT, check=False)
    finished = len(list((output / "study" / "runs").glob("*.json")))
    return {"study": name, "parallel runs": runs, "finished runs": finished, "seconds": time.monotonic() - begin}


def describe_machine(device: str) -> dict[str, object]:
    """Return a description of the machine."""
    found: dict[str, object] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "gpu": properties.name,
            "memory, GiB": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    return found


def write_part(output: Path, name: str, part: Callable[[], object]) -> bool:
    """Run a part and write its result or its error; return whether it succeeded."""
    begin = time.monotonic()
    print(f"{name} …", flush=True)
    try:
        found, succeeded = part(), True
    except Exception:
        found, succeeded = {"error": traceback.format_exc()}, False
    content = {"seconds": round(time.monotonic() - begin, 1), "found": found}
    (output / f"{name}.json").write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=2, default=str), flush=True)
    return succeeded


def make_parser() -> argparse.ArgumentParser:
    """Return the command-line parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the JSON files and logs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=470, help="all parts together")
    parser.add_argument("--steps", type=int, default=2000, help="measured steps of the schedule")
    parser.add_argument("--workers", type=int, default=4, help="data loader processes")
    parser.add_argument("--study", help="study to run for the remaining time (default: none)")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("../shared/data"), help="folder with the original annotations"
    )
    parser.add_argument("--runs", type=int, default=10, help="number of parallel runs of the study")
    parser.add_argument("--tiny", action="store_true", help="use tiny sizes to test the script")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts. Return 0, or 1 if a part failed or a check found a difference."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own, overrides = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    args = make_parser().parse_args(own)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("there is no GPU: pass --device cpu --tiny to test the script", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.seconds
    sizes = {"batch": 4, "clips": 16, "words": 4} if args.tiny else {}
    schedule = {"rows": 32, "videos": 8, "model": TINY} if args.tiny else {}
    if args.study is None:
        shares = {"steps": 0.6, "schedule": 1.0}
    else:
        shares = {"steps": 0.35, "schedule": 0.6}
    until = {part: end - (1 - share) * args.seconds for part, share in shares.items()}
    with tempfile.TemporaryDirectory() as scratch:
        parts: dict[str, Callable[[], object]] = {
            "machine": lambda: describe_machine(args.device),
            "checks": lambda: run_checks(args.device, Path(scratch) / "checks"),
            "steps": lambda: measure_steps(args.device, sizes, repeats=2 if args.tiny else 10, until=until["steps"]),
            "schedule": lambda: measure_schedule(
                Path(scratch) / "schedule", args.device, until["schedule"], args.steps, args.workers, **schedule
            ),
        }
        if args.study is not None:
            parts["study"] = lambda: run_study(args.study, args.data_dir, args.runs, args.output, end, overrides)
        succeeded = [write_part(args.output, name, part) for name, part in parts.items()]
    checks = json.loads((args.output / "checks.json").read_text())["found"]
    return 0 if all(succeeded) and set(checks.values()) == {"ok"} else 1


if __name__ == "__main__":
    sys.exit(main())
