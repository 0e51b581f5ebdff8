"""Draw what SHINE and the direct comparison of its negatives change in each world, from the results of the studies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from shine_hf.plots import SERIES_COLORS

from .spec import RESULTS


class Row(NamedTuple):
    """A comparison of a study, a row of the figure."""

    world: str
    label: str
    study: str
    variant: str
    baseline: str


REAL, GLOVE, MINILM = (f"Charades-CG, real features{text}" for text in ("", ", GloVe", ", MiniLM"))
SIMULATED, SCENES = "Charades-CG, simulated features", "Charades-CG, simulated scenes"
SHAPES, SHAPES_1000 = "Shapes-CG, 3,000 videos", "Shapes-CG, 1,000 videos"
_QD, _MOMENT = ("qd_detr_shine", "qd_detr_base"), ("moment_detr_shine", "moment_detr_base")
ROWS = (
    Row(REAL, "SHINE, mean of three (not QD-DETR, MiniLM)", "charades_real_pooled", "pooled_shine", "pooled_base"),
    Row(GLOVE, "QD-DETR, SHINE", "charades_real", *_QD),
    Row(GLOVE, "Moment-DETR, SHINE", "charades_real", *_MOMENT),
    Row(MINILM, "QD-DETR, SHINE", "charades_real_minilm", *_QD),
    Row(MINILM, "Moment-DETR, SHINE", "charades_real_minilm", *_MOMENT),
    Row(MINILM, "QD-DETR, direct", "charades_real_minilm", "qd_detr_balanced_to_query", "qd_detr_base"),
    Row(MINILM, "Moment-DETR, direct", "charades_real_minilm_variants", "balanced_to_query", "base"),
    Row(SHAPES, "QD-DETR, SHINE", "shapes_cg", *_QD),
    Row(SHAPES_1000, "QD-DETR, SHINE", "shapes_cg_1000", *_QD),
    Row(SHAPES_1000, "QD-DETR, SHINE, same CPU time", "shapes_cg_1000", "qd_detr_shine", "qd_detr_longer"),
    Row(SHAPES_1000, "QD-DETR, direct", "shapes_cg_1000_direct", "qd_detr_to_query", "qd_detr_base"),
    Row(SHAPES_1000, "QD-DETR, direct, same CPU time", "shapes_cg_1000_direct", "qd_detr_to_query", "qd_detr_longer"),
    Row(SIMULATED, "QD-DETR, SHINE", "charades_main", *_QD),
    Row(SIMULATED, "Moment-DETR, SHINE", "charades_main", *_MOMENT),
    Row(SCENES, "QD-DETR, SHINE", "charades_scenes", *_QD),
    Row(SCENES, "Moment-DETR, SHINE", "charades_scenes", *_MOMENT),
)
SPLITS = {"test_trivial": "trivial", "novel_composition": "novel composition", "novel_word": "novel word"}
METRICS = {"R1@0.5": "R1@0.5", "positive>level1": "query above level 1"}


def read_differences(results: Path) -> dict[Row, list[dict]]:
    """Return the comparisons of each row that has at least two seeds."""
    found: dict[Row, list[dict]] = {}
    for row in ROWS:
        path = results / row.study / "summary.json"
        for entry in json.loads(path.read_text(encoding="utf-8")) if path.is_file() else ():
            if (entry["variant"], entry["baseline"]) == (row.variant, row.baseline) and entry["seeds"] > 1:
                found.setdefault(row, []).append(entry)
    return found


def overview_figure(differences: Mapping[Row, list[dict]]) -> Figure:
    """Draw the differences with their 95 % intervals: a panel per metric, a row per comparison, a color per split."""
    figure = Figure(figsize=(10, 1.2 + 0.5 * len(differences)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items()):
        axes.axvline(0, color="#999999", linewidth=1)
        for place, entries in enumerate(differences.values()):
            for offset, split, color in zip((-0.22, 0, 0.22), SPLITS, SERIES_COLORS):
                for entry in entries:
                    if (entry["split"], entry["metric"]) == (split, metric):
                        axes.plot([entry["low"], entry["high"]], [place + offset] * 2, color=color, linewidth=1.5)
                        axes.plot(entry["mean"], place + offset, "o", color=color, markersize=5)
        axes.set_title(f"{title}: points above the base model", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    labels = [f"{row.world}\n{row.label}, {entries[0]['seeds']} seeds" for row, entries in differences.items()]
    panels[0].set_yticks(range(len(labels)), labels, fontsize=8)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    # Not every world has all splits.
    handles = [
        Line2D([], [], marker="o", color=color, label=label) for label, color in zip(SPLITS.values(), SERIES_COLORS)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def write_overview(results: Path = RESULTS) -> None:
    """Write `overview.png` next to the results of the studies."""
    overview_figure(read_differences(results)).savefig(results / "overview.png", dpi=110)
