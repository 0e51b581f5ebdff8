"""Tables and figures of a study: means and deviations over the seeds, paired intervals, validation curves."""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shine_hf.metrics import paired_bootstrap

if TYPE_CHECKING:
    from .study import Study

HEADLINE = ("R1@0.5", "R1@0.7", "mIoU")
ORDER = ("positive>level1", "level1>level2", "level2>level3", "chain")
REPORTED = (*HEADLINE, *ORDER)
CURVE, SELECTED_ON = "eval_validation_R1@0.5", "validation"
# Metric -> its value for a query, of the result that the trainer saves; NaN where the query has none.
QUERY_METRICS: dict[str, Callable[[dict], float]] = {
    "R1@0.5": lambda query: 100.0 * (query["iou"] >= 0.5),
    "R1@0.7": lambda query: 100.0 * (query["iou"] >= 0.7),
    "mIoU": lambda query: 100.0 * query["iou"],
    "positive>level1": lambda query: _order(query["saliency"]),
}


@dataclass(frozen=True)
class Run:
    """A finished run: its figures (`{split}_{metric}`), what it logged, and split -> the result of every query."""

    variant: str
    seed: int
    results: dict[str, float]
    log_history: list[dict]
    queries: dict[str, list[dict]]


def write_report(study: Study, runs: Sequence[Run], folder: Path) -> str:
    """Write `README.md`, `summary.json`, the figures and a JSON per run into a folder; return the tables."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for run in runs:
        path = folder / "runs" / f"{run.variant}_seed{run.seed}.json"
        content = {
            "variant": run.variant,
            "seed": run.seed,
            "features": study.features,
            "results": _reported(study, run),
            "curve": curve(run),
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    comparisons = list(compare(study, runs))
    tables = "\n\n".join(filter(None, [results_table(study, runs), comparison_table(comparisons)]))
    (folder / "summary.json").write_text(json.dumps(comparisons, indent=1) + "\n", encoding="utf-8")
    figures = {"results.png": results_figure(study, runs), "validation.png": validation_figure(study, runs)}
    for name, figure in figures.items():
        figure.savefig(folder / name, dpi=110)
    lines = [f"# {study.title}", f"**Features: {study.features}.**", study.note.strip(), tables]
    lines += [f"![{study.title}](results.png)", "Validation while training, mean over the seeds; the validation videos are a part of the training split.",
              "![Validation curves](validation.png)", f"Written by `python -m {study.command}`; a JSON per run is in `runs`."]  # fmt: skip
    (folder / "README.md").write_text("\n\n".join(filter(None, lines)) + "\n", encoding="utf-8")
    return tables


# ---- tables ----------------------------------------------------------------------------------------------------------


def results_table(study: Study, runs: Sequence[Run]) -> str:
    """Markdown: a line per split and variant, mean ± sample standard deviation over the seeds."""
    metrics = [
        name for name in REPORTED if any(f"{split}_{name}" in run.results for run in runs for split in study.splits)
    ]
    lines = [f"| split | variant | seeds | {' | '.join(metrics)} |", "|---|---|---:|" + "---:|" * len(metrics)]
    for split in study.splits:
        for variant in study.variants:
            values = {name: _values(runs, variant, f"{split}_{name}") for name in metrics}
            if any(values.values()):
                cells = " | ".join(_mean_and_deviation(values[name]) for name in metrics)
                lines.append(f"| {split} | {variant} | {max(map(len, values.values()))} | {cells} |")
    return "\n".join(lines)


def compare(study: Study, runs: Sequence[Run]) -> Iterator[dict]:
    """Paired comparisons over the seeds that both sides have."""
    by_key = {(run.variant, run.seed): run for run in runs}
    for variant, baseline in study.comparisons:
        seeds = [seed for seed in study.seeds if (variant, seed) in by_key and (baseline, seed) in by_key]
        for split in study.splits if seeds else ():
            sides = [[by_key[name, seed].queries[split] for seed in seeds] for name in (variant, baseline)]
            names = [[query["qid"] for query in queries] for side in sides for queries in side]
            if any(other != names[0] for other in names):
                raise ValueError(
                    f"{split}: {variant} and {baseline} were not evaluated on the same queries: run them again"
                )
            videos = [query["vid"] for query in sides[0][0]]
            for metric, of_query in QUERY_METRICS.items():
                values, base = (
                    np.array([[of_query(query) for query in queries] for queries in side]) for side in sides
                )
                if np.isnan(values - base).all():
                    continue
                found = paired_bootstrap(values, base, clusters=videos)
                yield {
                    "variant": variant,
                    "baseline": baseline,
                    "split": split,
                    "metric": metric,
                    "seeds": len(seeds),
                    **found._asdict(),
                }


def comparison_table(comparisons: Sequence[dict]) -> str:
    """Markdown: a line per pair and split, the difference with its interval; bold where the interval leaves out 0."""
    if not comparisons:
        return ""
    metrics = list(dict.fromkeys(entry["metric"] for entry in comparisons))
    lines = [
        "Differences in points, with 95 % intervals of a paired bootstrap over videos and seeds, as wide as Student's t wants them for few seeds "
        "(bold: without 0). Of a single seed the interval is over the videos alone: another training may well come out elsewhere.",
        "",
        f"| split | variant − baseline | seeds | {' | '.join(metrics)} |",
        "|---|---|---:|" + "---:|" * len(metrics),
    ]
    cells = {(e["split"], e["variant"], e["baseline"], e["metric"]): e for e in comparisons}
    for split, variant, baseline in dict.fromkeys(key[:3] for key in cells):
        found = [cells.get((split, variant, baseline, metric)) for metric in metrics]
        texts = " | ".join(_difference(entry) if entry else "" for entry in found)
        seeds = next(entry["seeds"] for entry in found if entry)
        lines.append(f"| {split} | {variant} − {baseline} | {seeds} | {texts} |")
    return "\n".join(lines)


def _difference(entry: dict) -> str:
    text = f"{entry['mean']:+.1f} ({entry['low']:+.1f} to {entry['high']:+.1f})"
    return f"**{text}**" if entry["seeds"] > 1 and (entry["low"] > 0 or entry["high"] < 0) else text


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _values(runs: Sequence[Run], variant: str, metric: str) -> list[float]:
    return [run.results[metric] for run in runs if run.variant == variant and metric in run.results]


def _reported(study: Study, run: Run) -> dict[str, float]:
    """The figures of the splits of a study, and what the model was selected by."""
    kept = {
        f"{split}_{name}"
        for split in (*study.splits, SELECTED_ON)
        for name in (*REPORTED, "R1@0.3", "mAP", "level3>irrelevant")
    }
    return {name: round(value, 4) for name, value in run.results.items() if name in kept}


def _order(saliency: Sequence[float | None]) -> float:
    positive, first = saliency[0], saliency[1] if len(saliency) > 2 else None
    return math.nan if positive is None or first is None else 100.0 * (positive > first)


# ---- figures ---------------------------------------------------------------------------------------------------------


def curve(run: Run) -> list[tuple[int, float]]:
    """Step and R1@0.5 on the validation split, while training."""
    return [(entry["step"], round(entry[CURVE], 2)) for entry in run.log_history if CURVE in entry]


def results_figure(study: Study, runs: Sequence[Run]):
    """R1@0.5, mIoU and the order of the saliency: a line per variant, a colour per split, a dot per seed and a ring at their mean."""
    from matplotlib.figure import Figure

    shown = [
        name
        for name in ("R1@0.5", "mIoU", "positive>level1")
        if any(f"{split}_{name}" in run.results for run in runs for split in study.splits)
    ]
    variants = [variant for variant in study.variants if any(run.variant == variant for run in runs)]
    figure = Figure(figsize=(3.2 * len(shown) + 2, 1.4 + 0.32 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, metric in zip(panels, shown):
        for split, color in zip(study.splits, _colors(len(study.splits))):
            for place, variant in enumerate(variants):
                if values := _values(runs, variant, f"{split}_{metric}"):
                    axes.plot(values, [place] * len(values), ".", color=color, markersize=4, alpha=0.6)
                    label = split if place == 0 else None
                    axes.plot(
                        statistics.mean(values),
                        place,
                        "o",
                        color=color,
                        markersize=8,
                        markerfacecolor="none",
                        label=label,
                    )
        axes.set_title(f"{metric.replace('>', ' > ')} (%)", fontsize=10)
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(variants)), variants, fontsize=8)
    panels[0].set_ylim(len(variants) - 0.5, -0.5)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(study.splits),
        fontsize=8,
        frameon=False,
    )
    figure.suptitle("\n".join([study.title, *textwrap.wrap(study.features, 90)]), fontsize=10)
    return figure


def validation_figure(study: Study, runs: Sequence[Run]):
    """R1@0.5 on the validation split over the steps, the mean over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    variants = [variant for variant in study.variants if any(run.variant == variant and curve(run) for run in runs)]
    for variant, color in zip(variants, _colors(len(variants))):
        by_step: dict[int, list[float]] = {}
        for run in runs:
            for step, value in curve(run) if run.variant == variant else ():
                by_step.setdefault(step, []).append(value)
        steps = sorted(by_step)
        axes.plot(steps, [statistics.mean(by_step[step]) for step in steps], color=color, label=variant, linewidth=1.5)
    axes.set_xlabel("step")
    axes.set_ylabel("R1@0.5 on validation (%)")
    axes.spines[["top", "right"]].set_visible(False)
    if variants:
        figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def _colors(count: int) -> list:
    """Colours that stay apart for colour-blind readers; a scale where there are too many for that."""
    from matplotlib import colormaps

    from shine_hf.plots import SERIES_COLORS

    if count <= len(SERIES_COLORS):
        return list(SERIES_COLORS[:count])
    return [colormaps["viridis"](index / (count - 1)) for index in range(count)]
