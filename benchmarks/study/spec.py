"""A study: which variants are trained with which seeds, and which are compared.

The keys of a study file (`benchmarks/study/studies/NAME.yaml`):

    extends            (optional) another file in the folder, whose keys are the defaults: `recipe` is merged key by key, and the commands
                       in `prepare` are appended. Files whose names start with an underscore are only meant to be extended.
    title, features    title and description of the features, shown with every table
    prepare            commands that make the files of the study, each run once; {data_dir} is the folder with the original annotations
    recipe             recipe keys shared by all runs
    seeds              training seeds
    splits             splits to report
    variants           name -> recipe keys that differ
    runs_of            (optional) variant -> STUDY/VARIANT with the same recipe, whose runs are used instead of training them again
    comparisons        [variant, baseline] pairs, compared query by query
    note               (optional) a paragraph for the reader of the tables
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
STUDIES, RESULTS = HERE / "studies", HERE / "results"
# Files of a run: its recipe, its metrics, and its validation curve.
RECIPE_FILE, RESULTS_FILE, STATE_FILE = "recipe.yaml", "all_results.json", "trainer_state.json"
# Every run needs these keys to be resumable and comparable query by query.
RUN_KEYS = {
    "do_train": True,
    "resume_from_checkpoint": "true",
    "save_query_results": True,
    "disable_tqdm": True,
    "use_cpu": False,
}


@dataclass(frozen=True)
class Run:
    """A finished run: its metrics (`{split}_{metric}`), its log history, and split -> the result of every query."""

    variant: str
    seed: int
    results: dict[str, float]
    log_history: list[dict]
    queries: dict[str, list[dict]]


@dataclass(frozen=True)
class Study:
    """A study file (see the docstring of this module for its keys), the folder of its runs, and recipe overrides."""

    name: str
    title: str
    features: str
    recipe: Mapping
    variants: Mapping[str, Mapping]
    seeds: Sequence[int]
    splits: Sequence[str]
    prepare: Sequence[str] = ()
    comparisons: Sequence[Sequence[str]] = ()
    runs_of: Mapping[str, str] = dataclasses.field(default_factory=dict)
    note: str = ""
    overrides: Sequence[str] = ()
    folder: Path = Path()
    # The command that makes the tables, named below them.
    command: str = ""

    def __post_init__(self) -> None:
        unknown = {name for pair in self.comparisons for name in pair}.union(self.runs_of) - set(self.variants)
        if unknown:
            raise ValueError(
                f"study {self.name}: comparisons or runs_of names {', '.join(sorted(unknown))}, which is not a variant"
            )
        if wrong := [source for source in self.runs_of.values() if source.count("/") != 1]:
            raise ValueError(f"study {self.name}: runs_of names {', '.join(wrong)}; write STUDY/VARIANT")
        if not self.command:
            object.__setattr__(self, "command", f"benchmarks.study {self.name}")

    def run_folder(self, variant: str, seed: int) -> Path:
        """Return the folder of a run, which is in the folder of another study if `runs_of` says so."""
        if variant in self.runs_of and not self.overrides:
            study, variant = self.runs_of[variant].split("/")
            return self.folder.with_name(study) / f"{variant}_seed{seed}"
        return self.folder / f"{variant}_seed{seed}"

    def recipe_of(self, variant: str, seed: int) -> str:
        """Return the content of a run's recipe file, with overrides in a comment."""
        folder = self.run_folder(variant, seed)
        keys = {**self.recipe, **self.variants[variant], **RUN_KEYS, "seed": seed, "output_dir": str(folder)}
        comment = f"# overridden: {shlex.join(self.overrides)}\n" if self.overrides else ""
        return comment + yaml.safe_dump(keys, sort_keys=False)

    def results(self, variant: str, seed: int) -> dict[str, float] | None:
        """Return the metrics of a run, or None until it is finished: the file is rewritten after training and after each split.

        Raises:
            ValueError: if the folder contains a run with other settings.
        """
        folder = self.run_folder(variant, seed)
        recipe = folder / RECIPE_FILE
        if recipe.is_file() and _settings(recipe.read_text("utf-8")) != _settings(self.recipe_of(variant, seed)):
            raise ValueError(
                f"{folder} was started with other settings than {self.name} has now (see its {RECIPE_FILE}): remove the folder to run it again"
            )
        path = folder / RESULTS_FILE
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return results if all(f"{split}_mIoU" in results for split in self.splits) else None

    def finished_runs(self) -> list[Run]:
        """Return the finished runs."""
        runs = []
        for variant in self.variants:
            for seed in self.seeds:
                results = self.results(variant, seed)
                if results is None:
                    continue
                folder = self.run_folder(variant, seed)
                state = json.loads((folder / STATE_FILE).read_text())
                queries = {split: read_queries(folder, split) for split in self.splits}
                runs.append(Run(variant, seed, results, state["log_history"], queries))
        return runs

    def overridden(self, features: str | None, results: Path) -> Study:
        """Return the study with tables that list the overrides."""
        overrides = shlex.join(self.overrides)
        return dataclasses.replace(
            self,
            features=features or self.features,
            note=f"The settings of `{self.name}`, overridden by `{overrides}`. Statements about the features and annotations of that study may "
            "not apply here.",
            command=f"benchmarks.study {self.name} --results {results} … -- {overrides}",
        )


def _settings(recipe: str) -> tuple[list[str], dict]:
    """Return the comments (overrides) and the keys of a recipe file, for a comparison that ignores order and layout."""
    return [line for line in recipe.splitlines() if line.startswith("#")], yaml.safe_load(recipe)


def read_queries(folder: Path, split: str) -> list[dict]:
    """Return the result of every query of a split from a run's folder."""
    return [json.loads(line) for line in (folder / "queries" / f"{split}.jsonl").read_text().splitlines()]


def read_study(name: str, **settings: Any) -> Study:
    """Read a study file.

    Args:
        name: Name of a file in `studies`, or a path.
        settings: Fields of [`Study`] that override the ones in the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for an unknown or missing key.
    """
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    keys = _read_keys(path)
    try:
        return Study(name=path.stem, **{**keys, **settings})
    except TypeError as error:
        raise ValueError(f"{path}: {str(error).removeprefix('Study.__init__() ')}") from error


def study_names() -> list[str]:
    """Return the names of the studies of this repository."""
    return sorted(path.stem for path in STUDIES.glob("[!_]*.yaml"))


def _read_keys(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no study {path.stem!r}; there are: {', '.join(study_names())}")
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "extends" not in keys:
        return keys
    base = _read_keys(path.with_name(f"{keys.pop('extends')}.yaml"))
    merged = {
        "recipe": {**base.get("recipe", {}), **keys.get("recipe", {})},
        "prepare": [*base.get("prepare", ()), *keys.get("prepare", ())],
    }
    return {**base, **keys, **merged}
