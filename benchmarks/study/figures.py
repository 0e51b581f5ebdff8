"""Figures of a study: results with a dot per seed, and validation curves."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.figure import Figure

from shine_hf.plots import SERIES_COLORS

from .records import Run
from .spec import Study


def values_of(runs: Sequence[Run], variant: str, metric: str) -> list[float]:
    """Return a metric for each run of a variant that has it."""
    return [run.results[metric] for run in runs if run.variant == variant and metric in run.results]


def series_colors(count: int) -> list:
    """Return colors that color-blind readers can distinguish, or a color scale if there are too many."""
    if count <= len(SERIES_COLORS):
        return list(SERIES_COLORS[:count])
    return [colormaps["viridis"](index / (count - 1)) for index in range(count)]


def results_figure(study: Study, runs: Sequence[Run]) -> Figure:
    """Draw R1@0.5, mIoU and the saliency order, with a row per variant, a color per split, a dot per seed and a ring at the mean."""
    shown = [
        name
        for name in ("R1@0.5", "mIoU", "positive>level1")
        if any(f"{split}_{name}" in run.results for run in runs for split in study.splits)
    ]
    variants = [variant for variant in study.variants if any(run.variant == variant for run in runs)]
    figure = Figure(figsize=(3.2 * len(shown) + 2, 1.4 + 0.32 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, metric in zip(panels, shown):
        for split, color in zip(study.splits, series_colors(len(study.splits))):
            for place, variant in enumerate(variants):
                if values := values_of(runs, variant, f"{split}_{metric}"):
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


def validation_figure(study: Study, runs: Sequence[Run]) -> Figure:
    """Draw R1@0.5 on the validation split over the steps, averaged over seeds."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    variants = [variant for variant in study.variants if any(run.variant == variant and run.curve for run in runs)]
    for variant, color in zip(variants, series_colors(len(variants))):
        by_step: dict[int, list[float]] = {}
        for run in runs:
            for step, value in run.curve if run.variant == variant else ():
                by_step.setdefault(step, []).append(value)
        steps = sorted(by_step)
        axes.plot(steps, [statistics.mean(by_step[step]) for step in steps], color=color, label=variant, linewidth=1.5)
    axes.set_xlabel("step")
    axes.set_ylabel("R1@0.5 on validation (%)")
    axes.spines[["top", "right"]].set_visible(False)
    if variants:
        figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure
