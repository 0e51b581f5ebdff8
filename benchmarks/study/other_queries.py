"""Measure how much the moments of trained models depend on the query, without retraining.

    python -m benchmarks.study.other_queries NAME [--variants …] [--results DIR]

Each finished run is evaluated with other queries than the right one: the hard negatives of the test queries, and the query of another video of the split. The windows stay those of
the right query. A model that only knows where moments tend to be, or finds any event, gets the same result with every query. So the result with the right query minus the result
with another one is what the model gains from the difference between these queries. The results are kept in the folder of each run: after a stop, the same command continues.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure
from tqdm import tqdm

from shine_hf.features.text import StoredText
from shine_hf.io import atomic_file
from shine_hf.metrics import paired_bootstrap

from .figures import series_colors
from .report import QUERY_METRICS, format_difference
from .spec import RESULTS, Run, Study, read_study
from .trained_run import TrainedRun

SUFFIX = "_other_queries"
METRICS = ("R1@0.5", "mIoU")
# Folder in that of a run, with a file per split, so that the evaluation can be stopped and resumed.
KEPT_FOLDER = "other_queries"
# The queries of a row: the right one, its hard negatives, and that of another video.
LEVELS = 3
RIGHT, OTHER_VIDEO = "right", "other video"
OTHERS = (*(f"level {level}" for level in range(1, LEVELS + 1)), OTHER_VIDEO)
# (variant, split, query) -> seed -> the result of every row.
Results = Mapping[tuple[str, str, str], Mapping[int, list[dict]]]


def with_level(rows: Dataset, level: int) -> Dataset:
    """Return the rows that have a hard negative of a level, with this negative as their query."""
    negatives = [dict(enumerate(row["negative_queries"], start=1)).get(level) for row in rows]
    return _with_queries(rows, negatives)


def with_other_video(rows: Dataset, seed: int) -> Dataset:
    """Return the rows, each with the query of a random row of another video. There are none if all rows are of one video."""
    rng, queries, vids = np.random.default_rng(seed), rows["query"], np.array(rows["vid"])
    if len(set(vids)) < 2:
        return rows.select([])
    return _with_queries(rows, [queries[int(rng.choice(np.flatnonzero(vids != vid)))] for vid in vids])


def _with_queries(rows: Dataset, queries: Sequence[str | None]) -> Dataset:
    """Return the rows that get a query, without negatives: their saliency is not needed here."""
    changed = [{**row, "query": query, "negative_queries": []} for row, query in zip(rows, queries) if query]
    # An empty list has no columns.
    return Dataset.from_list(changed, features=rows.features) if changed else rows.select([])


def evaluate_others(run: TrainedRun, split: str, seed: int) -> Iterator[tuple[str, list[dict]]]:
    """Yield for each kind of other query its name and the results of the rows.

    Raises:
        ValueError: if the text features come from a file, which has no features of other queries.
    """
    texts, rows = run.trainer.data_collator.text_features, run.splits[split]
    if isinstance(texts, StoredText):
        raise ValueError(f"{texts.public_spec} has features of the right queries only; use a text encoder")
    changed = [with_level(rows, level) for level in range(1, LEVELS + 1)]
    for name, others in zip(OTHERS, [*changed, with_other_video(rows, seed)]):
        if len(others):
            texts.prepare(others.select_columns(["qid", "vid", "query"]), progress=False)
            run.evaluate(split, rows=others)
            yield name, run.queries(split)


def evaluate_all(study: Study, runs: Sequence[Run]) -> Results:
    """Return the results with the right query, which the study has saved, and with other queries, which are kept in the folder of each run."""
    found: dict[tuple[str, str, str], dict[int, list[dict]]] = {}
    for run in tqdm(runs, desc=study.name, unit="run"):
        folder = study.run_folder(run.variant, run.seed)
        kept = {split: folder / KEPT_FOLDER / f"{split}.json" for split in study.splits}
        if missing := [split for split, path in kept.items() if not path.is_file()]:
            with tempfile.TemporaryDirectory() as scratch:
                trained = TrainedRun(folder, Path(scratch))
                for split in missing:
                    others = dict(evaluate_others(trained, split, run.seed))
                    with atomic_file(kept[split]) as file:
                        json.dump(others, file)
        for split, path in kept.items():
            for name, queries in {RIGHT: run.queries[split], **json.loads(path.read_text(encoding="utf-8"))}.items():
                found.setdefault((run.variant, split, name), {})[run.seed] = queries
    return found


def gain(results: Results, variant: str, split: str, name: str, metric: str, seeds: Sequence[int]) -> np.ndarray:
    """Return how much the right query gains over another one, `(seeds, rows)` in points; NaN for rows that lack the other one."""
    right, other = results[variant, split, RIGHT], results[variant, split, name]
    of_query, gains = QUERY_METRICS[metric], []
    for seed in seeds:
        others = {row["qid"]: of_query(row) for row in other[seed]}
        gains.append([of_query(row) - others.get(row["qid"], np.nan) for row in right[seed]])
    return np.array(gains)


def compare(study: Study, results: Results) -> list[dict]:
    """Return the gains of each variant, and their differences between the variants that the study compares."""
    entries, pairs = [], [*((variant, None) for variant in study.variants), *study.comparisons]
    for split, (variant, baseline), name in product(study.splits, pairs, OTHERS):
        seeds = sorted(
            set.intersection(*(set(results.get((one, split, name), ())) for one in (variant, baseline or variant)))
        )
        if not seeds:
            continue
        vids = [row["vid"] for row in results[variant, split, RIGHT][seeds[0]]]
        for metric in METRICS:
            values = gain(results, variant, split, name, metric, seeds)
            base = gain(results, baseline, split, name, metric, seeds) if baseline else np.zeros_like(values)
            found = paired_bootstrap(values, base, clusters=vids)
            entry = {"variant": variant, "baseline": baseline, "split": split, "query": name, "metric": metric}
            entries.append({**entry, "seeds": len(seeds), **found._asdict()})
    return entries


def results_table(study: Study, results: Results) -> str:
    """Return a Markdown table with the metrics for each split, variant and query."""
    lines = [
        f"| split | variant | query | seeds | {' | '.join(METRICS)} |",
        "|---|---|---|---:|" + "---:|" * len(METRICS),
    ]
    for split in study.splits:
        for (variant, of, name), by_seed in results.items():
            if of == split:
                cells = " | ".join(f"{_mean(by_seed, metric):.1f}" for metric in METRICS)
                lines.append(f"| {split} | {variant} | {name} | {len(by_seed)} | {cells} |")
    return "\n".join(lines)


def gains_table(entries: Sequence[dict]) -> str:
    """Return a Markdown table with the gains from the right query, and their differences between variants."""
    lines = [
        f"| split | variant | over | seeds | {' | '.join(METRICS)} |",
        "|---|---|---|---:|" + "---:|" * len(METRICS),
    ]
    cells = {(e["split"], e["variant"], e["baseline"], e["query"], e["metric"]): e for e in entries}
    for split, variant, baseline, name in dict.fromkeys(key[:4] for key in cells):
        found = [cells[split, variant, baseline, name, metric] for metric in METRICS]
        label = f"{variant} − {baseline}" if baseline else variant
        lines.append(
            f"| {split} | {label} | {name} | {found[0]['seeds']} | {' | '.join(map(format_difference, found))} |"
        )
    return "\n".join(lines)


def other_queries_figure(study: Study, results: Results) -> Figure:
    """Draw the mIoU over the queries, from the right one to that of another video: a panel per split, a line per variant."""
    figure = Figure(figsize=(3.4 * len(study.splits), 3.4), layout="constrained")
    panels = figure.subplots(1, len(study.splits), sharey=True, squeeze=False)[0]
    variants = list(dict.fromkeys(variant for variant, _, _ in results))
    for axes, split in zip(panels, study.splits):
        for variant, color in zip(variants, series_colors(len(variants))):
            points = [
                (name, _mean(results[key], "mIoU"))
                for name in (RIGHT, *OTHERS)
                if (key := (variant, split, name)) in results
            ]
            axes.plot(*zip(*points), "o-", color=color, label=variant, linewidth=1.5, markersize=4)
        axes.set_title(split, fontsize=10)
        axes.tick_params(axis="x", labelrotation=30)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("mIoU (%)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False
    )
    return figure


def write_results(study: Study, results: Results, folder: Path) -> str:
    """Write `README.md`, `summary.json` and `other_queries.png` to a folder. Return the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = compare(study, results)
    (folder / "summary.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    other_queries_figure(study, results).savefig(folder / "other_queries.png", dpi=110)
    tables = "\n\n".join([
        "What the right query gains over another one, in points, with 95 % intervals of a bootstrap over videos and seeds (bold: 0 is outside).",
        gains_table(entries),
        "Means over the seeds, with the right query and with other queries:",
        results_table(study, results),
    ])  # fmt: skip
    lines = [f"# {study.title}: with other queries", f"**Features: {study.features}.**",
             "The trained models of the study, evaluated with hard negatives of the test queries (levels 1 to 3) and with the query of another video. The windows stay those of the right query. "
             "A model that does not read the query would gain 0.",
             "![mIoU with other queries](other_queries.png)", tables, f"Written by `python -m {study.command}`."]  # fmt: skip
    (folder / "README.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return tables


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="study with finished runs")
    parser.add_argument("--variants", nargs="+", help="evaluate only these")
    parser.add_argument(
        "--results", type=Path, help=f"folder for the tables (default: benchmarks/study/results/NAME{SUFFIX})"
    )
    args = parser.parse_args(argv)
    command = f"benchmarks.study.other_queries {args.name}" + (
        f" --variants {' '.join(args.variants)}" if args.variants else ""
    )
    study = read_study(args.name, folder=Path("outputs/studies") / Path(args.name).stem, command=command)
    runs = [run for run in study.finished_runs() if not args.variants or run.variant in args.variants]
    if not runs:
        of = f" of {', '.join(args.variants)}" if args.variants else ""
        parser.error(f"{study.name} has no finished runs{of}: start python -m benchmarks.study {args.name}")
    print(write_results(study, evaluate_all(study, runs), args.results or RESULTS / (study.name + SUFFIX)))
    return 0


def _mean(by_seed: Mapping[int, list[dict]], metric: str) -> float:
    return statistics.mean(QUERY_METRICS[metric](row) for rows in by_seed.values() for row in rows)


if __name__ == "__main__":
    raise SystemExit(main())
