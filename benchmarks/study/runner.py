"""Start the processes of a study, and stop all of them if one fails or the study is stopped."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from .spec import RECIPE_FILE, REPOSITORY, Study


class Stop(Exception):
    """The study and its runs were asked to stop."""


class Runner:
    """Run the unfinished runs of a study.

    Args:
        study: Study to run.
        workers: Number of parallel runs; they share the cores.
        data_dir: Folder with the original annotations.
    """

    def __init__(self, study: Study, workers: int, data_dir: Path):
        self.study, self.workers, self.data_dir = study, workers, data_dir
        self._processes: set[subprocess.Popen] = set()
        self._stopped = threading.Event()

    def prepare(self) -> None:
        """Run the commands that make the files of the study, each only once."""
        done = self.study.folder / "prepared.json"
        finished = json.loads(done.read_text()) if done.is_file() else []
        for command in self.study.prepare:
            if command not in finished:
                print(f"preparing: {command}", file=sys.stderr)
                words = _python_command(command.replace("{data_dir}", str(self.data_dir)))
                self._call(words, self.study.folder / "prepare.log", threads=os.cpu_count())
                finished.append(command)
                done.write_text(json.dumps(finished, indent=2) + "\n")

    def run_all(self, seeds: Sequence[int], variants: Sequence[str]) -> None:
        """Run all unfinished runs. Seeds are the outer loop, so a study that is stopped early has all variants for some seeds."""
        study = self.study
        runs = [(variant, seed) for seed in seeds for variant in variants]
        # A record without the results of the queries cannot be compared: train the run again.
        left = [names for names in runs if not ((run := study.finished(*names)) and run.queries)]
        with (
            tqdm(total=len(runs), initial=len(runs) - len(left), unit="run", desc=study.name) as progress,
            ThreadPoolExecutor(self.workers) as pool,
        ):
            futures = [pool.submit(self._run, variant, seed, progress) for variant, seed in left]
            # A failed run stops the others, whose errors must not hide the cause.
            errors = [error for future in futures if (error := future.exception())]
            if errors:
                raise next((error for error in errors if not isinstance(error, Stop)), errors[0])

    def stop(self, *_: object) -> None:
        """Stop the processes; they save a checkpoint first."""
        self._stopped.set()
        for process in list(self._processes):
            process.terminate()

    def _run(self, variant: str, seed: int, progress: tqdm) -> None:
        self._check_stopped()  # A run that never started leaves no folder, so its settings can still be changed.
        folder = self.study.run_folder(variant, seed)
        folder.mkdir(parents=True, exist_ok=True)
        recipe = folder / RECIPE_FILE
        recipe.write_text(self.study.recipe_of(variant, seed), encoding="utf-8")
        command = [sys.executable, str(REPOSITORY / "train.py"), "--config", str(recipe), *self.study.overrides]
        self._call(command, folder / "log.txt", threads=max(1, (os.cpu_count() or 1) // self.workers))
        progress.update()

    def _call(self, command: Sequence[str], log: Path, threads: int | None) -> None:
        self._check_stopped()
        log.parent.mkdir(parents=True, exist_ok=True)
        # A number of threads in the environment is respected: other work may need the remaining cores.
        environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {"TOKENIZERS_PARALLELISM": "false"}
        with open(log, "a", encoding="utf-8") as file:
            # In separate sessions, so that Ctrl-C only reaches this process, which then asks the runs to save a checkpoint.
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            self._processes.add(process)
            status = process.wait()
            self._processes.discard(process)
        self._check_stopped()
        if status:
            self.stop()
            raise RuntimeError(f"{shlex.join(command)} ended with status {status}; the end of {log}:\n{_tail(log)}")

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stop


def _python_command(command: str) -> list[str]:
    """Return the words of a command, with `python` and `shine-hf` from the current environment."""
    first, *words = shlex.split(command)
    ours = {"python": sys.executable, "shine-hf": str(Path(sys.executable).with_name("shine-hf"))}
    return [ours.get(first, first), *words]


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
