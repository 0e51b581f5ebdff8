"""Write the tables of a study: means and standard deviations over seeds, and paired intervals."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from shine_hf.metrics import paired_bootstrap

from .figures import results_figure, validation_figure, values_of
from .records import Run, write_record
from .spec import Study

HEADLINE = ("R1@0.5", "R1@0.7", "mIoU")
ORDER = ("positive>level1", "level1>level2", "level2>level3", "chain")
REPORTED = (*HEADLINE, *ORDER)
SELECTED_ON = "validation"
# Metric -> its value in the saved result of a query, or NaN.
QUERY_METRICS: dict[str, Callable[[dict], float]] = {
    "R1@0.5": lambda query: 100.0 * (query["iou"] >= 0.5),
    "R1@0.7": lambda query: 100.0 * (query["iou"] >= 0.7),
    "mIoU": lambda query: 100.0 * query["iou"],
    "positive>level1": lambda query: _order(query["saliency"]),
}


def write_report(study: Study, runs: Sequence[Run]) -> str:
    """Write `README.md`, `summary.json`, the figures and the records of the runs to the study's folder of records. Return the tables."""
    folder = study.records
    folder.mkdir(parents=True, exist_ok=True)
    for run in runs:
        # Runs of another study are recorded there, and old records have nothing to add.
        if study.owns(run.variant) and run.queries:
            reported = dataclasses.replace(run, results=_reported(study, run))
            write_record(folder, reported, study.features, study.settings(run.variant, run.seed))
    comparisons = list(compare(study, runs, _read_comparisons(folder)))
    tables = "\n\n".join(filter(None, [results_table(study, runs), comparison_table(comparisons)]))
    (folder / "summary.json").write_text(json.dumps(comparisons, indent=1) + "\n", encoding="utf-8")
    figures = {"results.png": results_figure(study, runs), "validation.png": validation_figure(study, runs)}
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    lines = [f"# {study.title}", f"**Features: {study.features}.**", study.note.strip(), tables]
    lines += [f"![{study.title}](results.png)", "Validation during training, mean over the seeds; the validation videos are a part of the training split.",
              "![Validation curves](validation.png)", f"Written by `python -m {study.command}`; a JSON per run is in `runs`."]  # fmt: skip
    (folder / "README.md").write_text("\n\n".join(filter(None, lines)) + "\n", encoding="utf-8")
    return tables


def results_table(study: Study, runs: Sequence[Run]) -> str:
    """Return a Markdown table with a row per split and variant: mean ± sample standard deviation over seeds."""
    metrics = [
        name for name in REPORTED if any(f"{split}_{name}" in run.results for run in runs for split in study.splits)
    ]
    lines = [f"| split | variant | seeds | {' | '.join(metrics)} |", "|---|---|---:|" + "---:|" * len(metrics)]
    for split in study.splits:
        for variant in study.variants:
            values = {name: values_of(runs, variant, f"{split}_{name}") for name in metrics}
            if any(values.values()):
                cells = " | ".join(_mean_and_deviation(values[name]) for name in metrics)
                lines.append(f"| {split} | {variant} | {max(map(len, values.values()))} | {cells} |")
    return "\n".join(lines)


def compare(study: Study, runs: Sequence[Run], earlier: Sequence[dict] = ()) -> Iterator[dict]:
    """Yield paired comparisons over the seeds that both variants have, or earlier ones that had more seeds: old records of runs have no queries."""
    for variant, baseline in study.comparisons:
        found = list(_compare_pair(study, runs, variant, baseline))
        before = [entry for entry in earlier if (entry["variant"], entry["baseline"]) == (variant, baseline)]
        yield from found if _seeds(found) >= _seeds(before) else before


def _compare_pair(study: Study, runs: Sequence[Run], variant: str, baseline: str) -> Iterator[dict]:
    if paired_seeds(study, runs, variant, baseline):
        for split in study.splits:
            seeds, sides = paired_queries(study, runs, variant, baseline, split)
            for metric, (values, base) in metric_values(sides).items():
                found = paired_bootstrap(values, base, clusters=[query["vid"] for query in sides[0][0]])
                yield {
                    "variant": variant,
                    "baseline": baseline,
                    "split": split,
                    "metric": metric,
                    "seeds": len(seeds),
                    # The last digits depend on the number of threads.
                    **{name: round(value, 6) for name, value in found._asdict().items()},
                }


def paired_seeds(study: Study, runs: Sequence[Run], variant: str, baseline: str) -> list[int]:
    """Return the seeds for which both variants have the results of the queries."""
    found = {(run.variant, run.seed) for run in runs if run.queries}
    return [seed for seed in study.seeds if {(variant, seed), (baseline, seed)} <= found]


def paired_queries(
    study: Study, runs: Sequence[Run], variant: str, baseline: str, split: str
) -> tuple[list[int], tuple[list[list[dict]], list[list[dict]]]]:
    """Return the seeds that both variants have, and the results of all queries for each of them.

    Raises:
        ValueError: if the runs were evaluated on different queries.
    """
    by_key = {(run.variant, run.seed): run for run in runs}
    seeds = paired_seeds(study, runs, variant, baseline)
    sides = tuple([by_key[name, seed].queries[split] for seed in seeds] for name in (variant, baseline))
    names = [[query["qid"] for query in queries] for side in sides for queries in side]
    if any(other != names[0] for other in names):
        raise ValueError(f"{split}: {variant} and {baseline} were not evaluated on the same queries: run them again")
    return seeds, sides


def metric_values(sides: Sequence[Sequence[Sequence[dict]]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return metric -> the values of both sides, each `(seeds, queries)`, without metrics that no query has on both sides."""
    found = {}
    for metric, of_query in QUERY_METRICS.items():
        values, base = (np.array([[of_query(query) for query in queries] for queries in side]) for side in sides)
        if not np.isnan(values - base).all():
            found[metric] = values, base
    return found


def comparison_table(comparisons: Sequence[dict]) -> str:
    """Return a Markdown table with a row per pair and split: the difference with its interval, in bold if the interval excludes 0."""
    if not comparisons:
        return ""
    metrics = list(dict.fromkeys(entry["metric"] for entry in comparisons))
    lines = [
        "Differences in points, with 95 % intervals of a paired bootstrap over videos and seeds, widened by Student's t for few seeds "
        "(bold: 0 is outside). With a single seed, the interval covers only the videos: another training run may give another result.",
        "",
        f"| split | variant − baseline | seeds | {' | '.join(metrics)} |",
        "|---|---|---:|" + "---:|" * len(metrics),
    ]
    cells = {(e["split"], e["variant"], e["baseline"], e["metric"]): e for e in comparisons}
    for split, variant, baseline in dict.fromkeys(key[:3] for key in cells):
        found = [cells.get((split, variant, baseline, metric)) for metric in metrics]
        texts = " | ".join(format_difference(entry) if entry else "" for entry in found)
        seeds = next(entry["seeds"] for entry in found if entry)
        lines.append(f"| {split} | {variant} − {baseline} | {seeds} | {texts} |")
    return "\n".join(lines)


def format_difference(entry: dict) -> str:
    text = f"{entry['mean']:+.1f} ({entry['low']:+.1f} to {entry['high']:+.1f})"
    return f"**{text}**" if entry["seeds"] > 1 and (entry["low"] > 0 or entry["high"] < 0) else text


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _seeds(comparisons: Sequence[dict]) -> int:
    return max((entry["seeds"] for entry in comparisons), default=0)


def _read_comparisons(folder: Path) -> list[dict]:
    path = folder / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def _reported(study: Study, run: Run) -> dict[str, float]:
    """Return the metrics on the splits of a study, and the metric that selected the model."""
    kept = {
        f"{split}_{name}"
        for split in (*study.splits, SELECTED_ON)
        for name in (*REPORTED, "R1@0.3", "mAP", "level3>irrelevant")
    }
    return {name: round(value, 4) for name, value in run.results.items() if name in kept}


def _order(saliency: Sequence[float | None]) -> float:
    positive, first = saliency[0], saliency[1] if len(saliency) > 2 else None
    return math.nan if positive is None or first is None else 100.0 * (positive > first)
