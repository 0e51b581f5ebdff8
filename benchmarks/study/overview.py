"""Draw what SHINE changes in each world, from the results of the studies that compare it with the base models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shine_hf.plots import SERIES_COLORS

from .spec import RESULTS

# Study -> its world, in the order of the figure.
WORLDS = {
    "charades_real_pooled": "Charades-CG, real features, GloVe and MiniLM",
    "charades_real": "Charades-CG, real features, GloVe",
    "charades_real_minilm": "Charades-CG, real features, MiniLM",
    "charades_main": "Charades-CG, simulated features",
    "charades_scenes": "Charades-CG, simulated scenes",
    "shapes_cg": "Shapes-CG, 3,000 videos",
    "shapes_cg_1000": "Shapes-CG, 1,000 videos",
}
MODELS = {"pooled": "mean over models", "qd_detr": "QD-DETR", "moment_detr": "Moment-DETR"}
SPLITS = {"test_trivial": "trivial", "novel_composition": "novel composition", "novel_word": "novel word"}
METRICS = {"R1@0.5": "R1@0.5", "positive>level1": "query above level 1"}


def read_differences(results: Path) -> dict[tuple[str, str], list[dict]]:
    """Return (world, model) -> the comparisons of SHINE with the base model, for all studies with at least two seeds."""
    found: dict[tuple[str, str], list[dict]] = {}
    for study in WORLDS:
        path = results / study / "summary.json"
        for entry in json.loads(path.read_text(encoding="utf-8")) if path.is_file() else ():
            model = entry["variant"].removesuffix("_shine")
            if model in MODELS and entry["baseline"] == f"{model}_base" and entry["seeds"] > 1:
                found.setdefault((study, model), []).append(entry)
    return found


def overview_figure(differences: Mapping[tuple[str, str], list[dict]]) -> Figure:
    """Draw the differences with their 95 % intervals: a panel per metric, a row per world and model, a color per split."""
    figure = Figure(figsize=(10, 1.2 + 0.55 * len(differences)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items()):
        axes.axvline(0, color="#999999", linewidth=1)
        for place, entries in enumerate(differences.values()):
            for offset, split, color in zip((-0.22, 0, 0.22), SPLITS, SERIES_COLORS):
                for entry in entries:
                    if (entry["split"], entry["metric"]) == (split, metric):
                        axes.plot([entry["low"], entry["high"]], [place + offset] * 2, color=color, linewidth=1.5)
                        axes.plot(entry["mean"], place + offset, "o", color=color, markersize=5)
        axes.set_title(f"{title}: SHINE minus base, in points", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    rows = [
        f"{WORLDS[study]}\n{MODELS[model]}, {entries[0]['seeds']} seeds"
        for (study, model), entries in differences.items()
    ]
    panels[0].set_yticks(range(len(rows)), rows, fontsize=8)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    # Not every world has all splits.
    handles = [
        Line2D([], [], marker="o", color=color, label=label) for label, color in zip(SPLITS.values(), SERIES_COLORS)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def write_overview(results: Path = RESULTS) -> None:
    """Write `overview.png` next to the results of the studies."""
    overview_figure(read_differences(results)).savefig(results / "overview.png", dpi=110)
