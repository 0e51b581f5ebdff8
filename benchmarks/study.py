"""Run a study: every variant with every seed, then tables and figures.

    python -m benchmarks.study NAME [--data-dir ../shared/data] [--workers 2] [--seeds 0 1] [--variants base shine] [--report-only] [--results DIR] [-- --max_steps 51800 --video_features i3d:FEATURES …]

NAME is a file in benchmarks/studies (or a path). Each run is a `train.py` of its own under `outputs/studies/NAME`, in a process of its own with the
cores shared out among the workers. A study that was stopped, or killed, goes on where it was when it is started again: finished runs are kept, others are
resumed from their last checkpoint. Each run leaves a JSON in `benchmarks/results/NAME/runs`; from these and from the results of every query come the tables and
figures. The card of the best model is kept in `model_cards/studies`.

What stands behind `--` overrides the recipe of every run: the same study on real features, say. It needs a `--results` folder of its own, whose name the runs take too, and
`--features` to say what the tables are of.

A study file says:

    title, features    what it is and on which features (stands beside every table)
    prepare            commands that make the files it needs, each run once; {data_dir} stands for the folder of the original annotations
    recipe             keys of a recipe that all runs share
    seeds              of the training
    splits             that are reported
    variants           name -> keys of the recipe that differ
    comparisons        [variant, baseline] pairs, tested query by query
    note               (optional) a paragraph for the reader of the tables
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml
from tqdm import tqdm

from .study_report import SELECTED_ON, Run, write_report

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parent
# Of a run: the figures, and the curve of its validation.
RECIPE_FILE, RESULTS_FILE, STATE_FILE = "recipe.yaml", "all_results.json", "trainer_state.json"
# What every run needs so that it can be resumed and compared query by query.
RUN_KEYS = {
    "do_train": True,
    "resume_from_checkpoint": "true",
    "save_query_results": True,
    "disable_tqdm": True,
    "use_cpu": False,
}


@dataclass(frozen=True)
class Study:
    """A study file; see the docstring of this module for its keys."""

    name: str
    title: str
    features: str
    recipe: Mapping
    variants: Mapping[str, Mapping]
    seeds: Sequence[int]
    splits: Sequence[str]
    prepare: Sequence[str] = ()
    comparisons: Sequence[Sequence[str]] = ()
    note: str = ""
    overrides: Sequence[str] = ()
    folder: Path = Path()
    # What makes the tables; said under them.
    command: str = ""

    def __post_init__(self) -> None:
        unknown = {name for pair in self.comparisons for name in pair} - set(self.variants)
        if unknown:
            raise ValueError(f"study {self.name}: comparisons name {', '.join(sorted(unknown))}, which is no variant")
        if not self.command:
            object.__setattr__(self, "command", f"benchmarks.study {self.name}")

    def run_folder(self, variant: str, seed: int) -> Path:
        return self.folder / f"{variant}_seed{seed}"

    def recipe_of(self, variant: str, seed: int) -> str:
        """The recipe file of a run; what overrides it stands in a comment."""
        folder = self.run_folder(variant, seed)
        keys = {**self.recipe, **self.variants[variant], **RUN_KEYS, "seed": seed, "output_dir": str(folder)}
        comment = f"# overridden: {shlex.join(self.overrides)}\n" if self.overrides else ""
        return comment + yaml.safe_dump(keys, sort_keys=False)

    def results(self, variant: str, seed: int) -> dict[str, float] | None:
        """The figures of a run, None before it is finished: the file is written anew after the training and after each split.

        Raises:
            ValueError: where the folder of the run holds one of other settings.
        """
        folder = self.run_folder(variant, seed)
        begun_with = folder / RECIPE_FILE
        if begun_with.is_file() and begun_with.read_text(encoding="utf-8") != self.recipe_of(variant, seed):
            raise ValueError(
                f"{folder} was begun with other settings than {self.name} says now (its {RECIPE_FILE} tells): remove the folder to run it anew"
            )
        path = folder / RESULTS_FILE
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return results if all(f"{split}_mIoU" in results for split in self.splits) else None


def read_study(name: str, **settings) -> Study:
    """Read `benchmarks/studies/NAME.yaml`, or a path; `settings` replace what stands there.

    Raises:
        FileNotFoundError: where there is none. ValueError: for a key that a study does not have, or lacks.
    """
    path = Path(name) if name.endswith(".yaml") else BENCHMARKS / "studies" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in (BENCHMARKS / "studies").glob("*.yaml")))
        raise FileNotFoundError(f"no study {name!r}; there are: {known}")
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    try:
        return Study(name=path.stem, **{**keys, **settings})
    except TypeError as error:
        raise ValueError(f"{path}: {str(error).removeprefix('Study.__init__() ')}") from error


class Stop(Exception):
    """The study was told to stop; its runs were, too."""


class Runner:
    """Starts the processes of a study, and ends them all where one fails or the study is stopped."""

    def __init__(self, study: Study, workers: int, data_dir: Path):
        self.study, self.workers, self.data_dir = study, workers, data_dir
        self._processes: set[subprocess.Popen] = set()
        self._stopped = threading.Event()

    def prepare(self) -> None:
        """Run the commands that make the files of the study, each of them once."""
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
        """Run what is not finished. Seeds are the outer loop: a study that is cut short has compared all variants on some seeds."""
        study = self.study
        runs = [(variant, seed) for seed in seeds for variant in variants]
        left = [run for run in runs if study.results(*run) is None]
        with (
            tqdm(total=len(runs), initial=len(runs) - len(left), unit="run", desc=study.name) as progress,
            ThreadPoolExecutor(self.workers) as pool,
        ):
            futures = [pool.submit(self._run, variant, seed, progress) for variant, seed in left]
            # A run that fails ends the others: what they say of that must not hide why.
            errors = [error for future in futures if (error := future.exception())]
            if errors:
                raise next((error for error in errors if not isinstance(error, Stop)), errors[0])

    def stop(self, *_) -> None:
        """End the processes; they save a checkpoint first."""
        self._stopped.set()
        for process in list(self._processes):
            process.terminate()

    def _run(self, variant: str, seed: int, progress: tqdm) -> None:
        folder = self.study.run_folder(variant, seed)
        folder.mkdir(parents=True, exist_ok=True)
        recipe = folder / RECIPE_FILE
        recipe.write_text(self.study.recipe_of(variant, seed), encoding="utf-8")
        command = [sys.executable, str(REPOSITORY / "train.py"), "--config", str(recipe), *self.study.overrides]
        self._call(command, folder / "log.txt", threads=max(1, (os.cpu_count() or 1) // self.workers))
        progress.update()

    def _call(self, command: Sequence[str], log: Path, threads: int | None) -> None:
        if self._stopped.is_set():
            raise Stop
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        with open(log, "a", encoding="utf-8") as file:
            # A session of its own: Ctrl-C reaches this process alone, which then has the runs save themselves.
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            self._processes.add(process)
            status = process.wait()
            self._processes.discard(process)
        if self._stopped.is_set():
            raise Stop
        if status:
            self.stop()
            raise RuntimeError(f"{shlex.join(command)} ended with status {status}; the end of {log}:\n{_tail(log)}")


def _python_command(command: str) -> list[str]:
    """The words of a command; `python` is the one that runs this, `shine-hf` the one of its environment."""
    first, *words = shlex.split(command)
    ours = {"python": sys.executable, "shine-hf": str(Path(sys.executable).with_name("shine-hf"))}
    return [ours.get(first, first), *words]


def _tail(path: Path, lines: int = 15) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def collect(study: Study) -> list[Run]:
    """The finished runs."""
    runs = []
    for variant in study.variants:
        for seed in study.seeds:
            results = study.results(variant, seed)
            if results is None:
                continue
            folder = study.run_folder(variant, seed)
            state = json.loads((folder / STATE_FILE).read_text())
            queries = {
                split: [json.loads(line) for line in (folder / "queries" / f"{split}.jsonl").read_text().splitlines()]
                for split in study.splits
            }
            runs.append(Run(variant, seed, results, state["log_history"], queries))
    return runs


def overridden_study(study: Study, features: str | None, results: Path) -> Study:
    """A study whose tables say what of it was overridden."""
    command = f"benchmarks.study {study.name} --results {results} … -- {shlex.join(study.overrides)}"
    note = f"The settings of `{study.name}`, overridden by `{shlex.join(study.overrides)}`: what that study says of its features and annotations may not hold here."
    return dataclasses.replace(study, features=features or study.features, note=note, command=command)


def save_best_card(study: Study, runs: Sequence[Run], folder: Path) -> Path:
    """Keep the card of the model that was best on the validation videos; its weights stay where they are."""
    best = max(runs, key=lambda run: run.results[f"{SELECTED_ON}_mIoU"])
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(study.run_folder(best.variant, best.seed) / "README.md", folder / f"{study.name}.md"))


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    own, overrides = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="of a file in benchmarks/studies, or a path")
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data"), help="of the original annotations")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time (default: one a core)")
    parser.add_argument("--seeds", type=int, nargs="+", help="run these only (the tables hold all that is finished)")
    parser.add_argument(
        "--variants", nargs="+", metavar="VARIANT", help="run these only (the tables hold all that is finished)"
    )
    parser.add_argument("--results", type=Path, help="folder for the tables (default: benchmarks/results/NAME)")
    parser.add_argument("--features", help="what the features are, for the tables, where they are overridden")
    parser.add_argument("--report-only", action="store_true", help="write the tables of what is finished, run nothing")
    args = parser.parse_args(own)
    if overrides and not args.results:
        parser.error("overrides need a --results folder, or their runs would mix with those of the study as it is")
    overridden = any(option.partition("=")[0].replace("-", "_") == "__video_features" for option in overrides)
    if overridden != bool(args.features):
        parser.error("--features says what the tables are of where, and only where, --video_features is overridden")
    folder = Path("outputs/studies") / (args.results.name if overrides else Path(args.name).stem)
    study = read_study(args.name, overrides=overrides, folder=folder)
    if overrides:
        study = overridden_study(study, args.features, args.results)
    seeds, variants = args.seeds or study.seeds, args.variants or list(study.variants)
    for option, chosen, known in (("--seeds", seeds, study.seeds), ("--variants", variants, study.variants)):
        if unknown := [str(one) for one in chosen if one not in known]:
            parser.error(f"{option}: {study.name} has no {', '.join(unknown)}; it has {', '.join(map(str, known))}")
    if not args.report_only:
        runner = Runner(study, args.workers, args.data_dir)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, runner.stop)
        study.folder.mkdir(parents=True, exist_ok=True)
        try:
            runner.prepare()
            runner.run_all(seeds, variants)
        except Stop:
            print(f"{study.name}: stopped; the same command goes on from here", file=sys.stderr)
            return 130
    runs = collect(study)
    if not runs:
        print(f"{study.name}: no run is finished yet", file=sys.stderr)
        return 1
    print(write_report(study, runs, args.results or BENCHMARKS / "results" / study.name))
    save_best_card(study, runs, args.results or REPOSITORY / "model_cards" / "studies")
    return 0


if __name__ == "__main__":
    sys.exit(main())
