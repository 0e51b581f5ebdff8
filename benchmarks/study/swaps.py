"""Evaluate the trained models of a study with swapped inputs, without retraining: what a model gains from the right ones is what it reads in them."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from shine_hf.io import atomic_file
from shine_hf.metrics import paired_bootstrap

from .records import Run
from .report import QUERY_METRICS, format_difference
from .spec import RESULTS, Study, read_study
from .trained_run import TrainedRun

# The evaluation with the right inputs.
RIGHT = "right"
# (variant, split, inputs) -> seed -> the result of every row.
Results = Mapping[tuple[str, str, str], Mapping[int, list[dict]]]


@dataclass(frozen=True)
class Swap:
    """A kind of evaluation with other inputs than the right ones.

    Args:
        name: Name of the script, of the folder in that of a run, and, after that of the study, of the results.
        title: End of the title of the page.
        explanation: Paragraph below the title.
        metrics: Keys of `QUERY_METRICS`.
        inputs: Names of the other inputs.
        evaluate: Yields for a run, a split and a seed the name of the inputs and the results of the rows.
        figure: Draws the results, if there is something to draw.
    """

    name: str
    title: str
    explanation: str
    metrics: Sequence[str]
    inputs: Sequence[str]
    evaluate: Callable[[TrainedRun, str, int], Iterator[tuple[str, list[dict]]]]
    figure: Callable[[Study, Results], Figure] | None = None


def others_of(vids: Sequence[str], seed: int) -> list[int]:
    """Return for every row the index of a random row of another video; nothing if all rows are of one video."""
    rng, vids = np.random.default_rng(seed), np.array(vids)
    return [int(rng.choice(np.flatnonzero(vids != vid))) for vid in vids] if len(set(vids)) > 1 else []


def evaluate_all(swap: Swap, study: Study, runs: Sequence[Run]) -> Results:
    """Return the results with the right inputs, which the study has saved, and with others, which are kept in the folder of each run."""
    found: dict[tuple[str, str, str], dict[int, list[dict]]] = {}
    for run in tqdm(runs, desc=study.name, unit="run"):
        folder = study.run_folder(run.variant, run.seed)
        kept = {split: folder / swap.name / f"{split}.json" for split in study.splits}
        if missing := [split for split, path in kept.items() if not path.is_file()]:
            with tempfile.TemporaryDirectory() as scratch:
                trained = TrainedRun(folder, Path(scratch))
                for split in missing:
                    others = dict(swap.evaluate(trained, split, run.seed))
                    with atomic_file(kept[split]) as file:
                        json.dump(others, file)
        for split, path in kept.items():
            for name, queries in {RIGHT: run.queries[split], **json.loads(path.read_text(encoding="utf-8"))}.items():
                found.setdefault((run.variant, split, name), {})[run.seed] = queries
    return found


def gain(results: Results, variant: str, split: str, name: str, metric: str, seeds: Sequence[int]) -> np.ndarray:
    """Return how much the right inputs gain over others, `(seeds, rows)` in points; NaN for rows that lack the others."""
    right, other = results[variant, split, RIGHT], results[variant, split, name]
    of_query, gains = QUERY_METRICS[metric], []
    for seed in seeds:
        others = {row["qid"]: of_query(row) for row in other[seed]}
        gains.append([of_query(row) - others.get(row["qid"], np.nan) for row in right[seed]])
    return np.array(gains)


def compare(swap: Swap, study: Study, results: Results) -> list[dict]:
    """Return the gains of each variant, and their differences between the variants that the study compares."""
    entries, pairs = [], [*((variant, None) for variant in study.variants), *study.comparisons]
    for split, (variant, baseline), name in product(study.splits, pairs, swap.inputs):
        seeds = sorted(
            set.intersection(*(set(results.get((one, split, name), ())) for one in (variant, baseline or variant)))
        )
        if not seeds:
            continue
        vids = [row["vid"] for row in results[variant, split, RIGHT][seeds[0]]]
        for metric in swap.metrics:
            values = gain(results, variant, split, name, metric, seeds)
            base = gain(results, baseline, split, name, metric, seeds) if baseline else np.zeros_like(values)
            if np.isnan(values - base).all():
                continue
            found = paired_bootstrap(values, base, clusters=vids)
            entry = {"variant": variant, "baseline": baseline, "split": split, "inputs": name, "metric": metric}
            entries.append({**entry, "seeds": len(seeds), **found._asdict()})
    return entries


def mean_over_rows(by_seed: Mapping[int, list[dict]], metric: str) -> float:
    """Return the mean of a metric over the rows that have it, of all seeds; NaN if none has it."""
    values = [QUERY_METRICS[metric](row) for rows in by_seed.values() for row in rows]
    return statistics.mean([value for value in values if not math.isnan(value)] or [math.nan])


def results_table(swap: Swap, study: Study, results: Results) -> str:
    """Return a Markdown table with the metrics for each split, variant and kind of inputs."""
    lines = _header("split", "variant", "inputs", metrics=swap.metrics)
    for split in study.splits:
        for (variant, of, name), by_seed in results.items():
            if of == split:
                means = [mean_over_rows(by_seed, metric) for metric in swap.metrics]
                cells = " | ".join("" if math.isnan(mean) else f"{mean:.1f}" for mean in means)
                lines.append(f"| {split} | {variant} | {name} | {len(by_seed)} | {cells} |")
    return "\n".join(lines)


def gains_table(swap: Swap, entries: Sequence[dict]) -> str:
    """Return a Markdown table with the gains from the right inputs, and their differences between variants."""
    lines = _header("split", "variant", "over", metrics=swap.metrics)
    cells = {(e["split"], e["variant"], e["baseline"], e["inputs"], e["metric"]): e for e in entries}
    for split, variant, baseline, name in dict.fromkeys(key[:4] for key in cells):
        found = [cells[split, variant, baseline, name, metric] for metric in swap.metrics]
        label = f"{variant} − {baseline}" if baseline else variant
        lines.append(
            f"| {split} | {label} | {name} | {found[0]['seeds']} | {' | '.join(map(format_difference, found))} |"
        )
    return "\n".join(lines)


def write_results(swap: Swap, study: Study, results: Results, folder: Path) -> str:
    """Write `README.md`, `summary.json` and the figure to a folder. Return the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = compare(swap, study, results)
    (folder / "summary.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    tables = "\n\n".join([
        "What the right inputs gain over others, in points, with 95 % intervals of a bootstrap over videos and seeds (bold: 0 is outside).",
        gains_table(swap, entries),
        "Means over the seeds:",
        results_table(swap, study, results),
    ])  # fmt: skip
    lines = [f"# {study.title}: {swap.title}", f"**Features: {study.features}.**", swap.explanation]
    if swap.figure:
        swap.figure(study, results).savefig(folder / f"{swap.name}.png", dpi=110)
        lines.append(f"![{study.title}: {swap.title}]({swap.name}.png)")
    lines += [tables, f"Written by `python -m {study.command}`."]
    (folder / "README.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return tables


def run_swap(swap: Swap, description: str, argv: Sequence[str] | None) -> int:
    """Run the command of a swap, `python -m benchmarks.study.SWAP NAME`; its runs are evaluated once, also after a stop."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="study with finished runs")
    parser.add_argument("--variants", nargs="+", help="evaluate only these")
    suffix = f"_{swap.name}"
    parser.add_argument(
        "--results", type=Path, help=f"folder for the tables (default: benchmarks/study/results/NAME{suffix})"
    )
    args = parser.parse_args(argv)
    chosen = f" --variants {' '.join(args.variants)}" if args.variants else ""
    command = f"benchmarks.study.{swap.name} {args.name}{chosen}"
    study = read_study(args.name, command=command)
    runs = [run for run in study.trained_runs() if not args.variants or run.variant in args.variants]
    if not runs:
        of = f" of {', '.join(args.variants)}" if args.variants else ""
        parser.error(f"{study.name} has no finished runs{of}: start python -m benchmarks.study {args.name}")
    found = evaluate_all(swap, study, runs)
    print(write_results(swap, study, found, args.results or RESULTS / (study.name + suffix)))
    return 0


def _header(*names: str, metrics: Sequence[str]) -> list[str]:
    return [
        f"| {' | '.join(names)} | seeds | {' | '.join(metrics)} |",
        "|" + "---|" * len(names) + "---:|" * (1 + len(metrics)),
    ]
