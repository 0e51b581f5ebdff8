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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .records import Run, as_recorded, read_record

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
STUDIES, RESULTS = HERE / "studies", HERE / "results"
# Folder of the runs, on the machine that trains them.
OUTPUTS = Path("outputs/studies")
# Files of a run: its recipe, its metrics, and its validation curve.
RECIPE_FILE, RESULTS_FILE, STATE_FILE = "recipe.yaml", "all_results.json", "trainer_state.json"
CURVE = "eval_validation_R1@0.5"
# Every run needs these keys to be resumable and comparable query by query.
RUN_KEYS = {
    "do_train": True,
    "resume_from_checkpoint": "true",
    "save_query_results": True,
    "disable_tqdm": True,
    "use_cpu": False,
}


@dataclass(frozen=True)
class Study:
    """A study file (see the docstring of this module for its keys), the folders of its runs and of their records, and recipe overrides."""

    name: str
    title: str
    features: str
    recipe: Mapping
    variants: Mapping[str, Mapping]
    seeds: Sequence[int]
    splits: Sequence[str]
    folder: Path
    records: Path
    prepare: Sequence[str] = ()
    comparisons: Sequence[Sequence[str]] = ()
    runs_of: Mapping[str, str] = dataclasses.field(default_factory=dict)
    note: str = ""
    overrides: Sequence[str] = ()
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
        folder, name = self._place(self.folder, variant)
        return folder / f"{name}_seed{seed}"

    def owns(self, variant: str) -> bool:
        """Return whether the runs of a variant belong to this study, and not to one that `runs_of` names. With overrides, all do."""
        return bool(self.overrides) or variant not in self.runs_of

    def recipe_of(self, variant: str, seed: int) -> str:
        """Return the content of a run's recipe file, with overrides in a comment."""
        folder = self.run_folder(variant, seed)
        keys = {**self.recipe, **self.variants[variant], **RUN_KEYS, "seed": seed, "output_dir": str(folder)}
        comment = f"# overridden: {shlex.join(self.overrides)}\n" if self.overrides else ""
        return comment + yaml.safe_dump(keys, sort_keys=False)

    def settings(self, variant: str, seed: int) -> dict[str, Any]:
        """Return the settings of a run, which decide whether a finished run can be used."""
        return _settings(self.recipe_of(variant, seed))

    def trained(self, variant: str, seed: int) -> Run | None:
        """Return a run whose folder is here, or None until it is finished: its metrics are rewritten after training and after each split.

        Raises:
            ValueError: if the folder contains a run with other settings.
        """
        folder = self.run_folder(variant, seed)
        recipe = folder / RECIPE_FILE
        if recipe.is_file():
            self._check_settings(_settings(recipe.read_text("utf-8")), variant, seed, folder)
        path = folder / RESULTS_FILE
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not all(f"{split}_mIoU" in results for split in self.splits):
            return None
        log = json.loads((folder / STATE_FILE).read_text())["log_history"]
        curve = [(entry["step"], round(entry[CURVE], 2)) for entry in log if CURVE in entry]
        queries = {split: as_recorded(read_queries(folder, split)) for split in self.splits}
        return Run(variant, seed, results, curve, queries)

    def finished(self, variant: str, seed: int) -> Run | None:
        """Return a run from its folder or, if that is not here, from its record.

        Raises:
            ValueError: if it has other settings.
        """
        if run := self.trained(variant, seed):
            return run
        folder, name = self._place(self.records, variant)
        if not (record := read_record(folder, name, seed)):
            return None
        run, settings = record
        if settings:
            self._check_settings(settings, variant, seed, folder)
        return dataclasses.replace(run, variant=variant)

    def finished_runs(self) -> list[Run]:
        """Return the finished runs."""
        return self._all(self.finished)

    def trained_runs(self) -> list[Run]:
        """Return the finished runs whose models are here."""
        return self._all(self.trained)

    def _place(self, folder: Path, variant: str) -> tuple[Path, str]:
        """Return the folder that corresponds to `folder` in the study that owns a variant, and the variant's name there."""
        if self.owns(variant):
            return folder, variant
        study, name = self.runs_of[variant].split("/")
        return folder.with_name(study), name

    def _all(self, find: Callable[[str, int], Run | None]) -> list[Run]:
        return [run for variant in self.variants for seed in self.seeds if (run := find(variant, seed))]

    def _check_settings(self, settings: Mapping, variant: str, seed: int, folder: Path) -> None:
        if settings != self.settings(variant, seed):
            raise ValueError(
                f"{folder}: {variant}, seed {seed}, was started with other settings than {self.name} has now: remove it to run it again"
            )

    def overridden(self, features: str | None) -> Study:
        """Return the study with tables that list the overrides."""
        overrides = shlex.join(self.overrides)
        return dataclasses.replace(
            self,
            features=features or self.features,
            note=f"The settings of `{self.name}`, overridden by `{overrides}`. Statements about the features and annotations of that study may "
            "not apply here.",
            command=f"benchmarks.study {self.name} --results {self.records} … -- {overrides}",
        )


def _settings(recipe: str) -> dict[str, Any]:
    """Return the keys of a recipe file without its folder, and the overrides."""
    keys = yaml.safe_load(recipe)
    del keys["output_dir"]
    return {**keys, "overridden": [line for line in recipe.splitlines() if line.startswith("#")]}


def read_queries(folder: Path, split: str) -> list[dict]:
    """Return the result of every query of a split from a run's folder."""
    return [json.loads(line) for line in (folder / "queries" / f"{split}.jsonl").read_text().splitlines()]


def read_study(name: str, **settings: Any) -> Study:
    """Read a study file.

    Args:
        name: Name of a file in `studies`, or a path.
        settings: Fields of [`Study`] that override the ones in the file and the usual folders.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: for an unknown or missing key.
    """
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    keys = _read_keys(path)
    try:
        return Study(
            name=path.stem, **{**keys, "folder": OUTPUTS / path.stem, "records": RESULTS / path.stem, **settings}
        )
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
