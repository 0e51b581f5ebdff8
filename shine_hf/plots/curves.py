"""Plot the loss terms and metrics of a run over its training steps."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from .hierarchy import LINK, rank_of_link
from .style import FONT_SIZE, INK, SERIES_COLORS, new_figure, strip_frame, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTTED_METRICS = ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU", "mAP")
# What the trainer logs: `loss_span` in training, `eval_mIoU` and `eval_{split}_level1>level2` in evaluation.
LOGGED = re.compile(
    r"(?P<eval>eval_(?:(?P<split>.+)_)?)?"
    rf"(?P<name>loss(?:_\w+)?|{LINK.pattern}|chain|{'|'.join(map(re.escape, PLOTTED_METRICS))})"
)


def plot_training_curves(log_history: Iterable[Mapping[str, float]]) -> Figure:
    """Draw one panel per loss term and metric of a run, with a line for training and one for each split.

    The parts of a term (`loss_saliency_…`, the auxiliary layers `loss_span_0`), R5, and single thresholds of mAP are left out.

    Args:
        log_history: `trainer.state.log_history`, or the list of that name in a checkpoint's `trainer_state.json`.

    Raises:
        ValueError: for a history without any loss or metric.
        ImportError: without matplotlib (the extra `plots`).
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in log_history:
        for key, value in row.items():
            logged = LOGGED.fullmatch(key)
            if logged and "step" in row:
                split = "training" if logged["eval"] is None else logged["split"] or "evaluation"
                panels.setdefault(logged["name"], {}).setdefault(split, []).append((row["step"], value))
    losses = [name for name in panels if name.startswith("loss")]
    parts = {name for name in losses for term in losses if term != "loss" and name.startswith(f"{term}_")}
    links = sorted((name for name in panels if ">" in name), key=rank_of_link)
    order = [*losses, *PLOTTED_METRICS, *links, "chain"]
    names = [name for name in order if name in panels and name not in parts]
    if not names:
        raise ValueError(
            "the log history has neither losses nor metrics; give trainer.state.log_history after some steps"
        )

    splits = list(dict.fromkeys(split for name in names for split in panels[name]))
    colors = dict(zip(splits, itertools.cycle(SERIES_COLORS)))
    num_columns = min(4, len(names))
    num_rows = math.ceil(len(names) / num_columns)
    figure = new_figure(max(2.7 * num_columns, 5.0), 2.1 * num_rows + 0.4)
    figure.set_layout_engine("constrained")
    from matplotlib.lines import Line2D  # Imported here, after `new_figure` has checked that matplotlib is installed.

    for index, name in enumerate(names):
        axes = figure.add_subplot(num_rows, num_columns, index + 1)
        strip_frame(axes)
        for split, points in panels[name].items():
            marker = "o" if len(points) < 15 else ""
            axes.plot(*zip(*points), color=colors[split], linewidth=1.4, marker=marker, markersize=3)
        axes.set_title(name if name in losses else f"{name} (%)", loc="left", fontsize=FONT_SIZE, color=INK)
        axes.locator_params(nbins=4)
        if index >= len(names) - num_columns:
            axes.set_xlabel("step", color=INK, fontsize=FONT_SIZE)
    handles = [Line2D([], [], color=colors[split], linewidth=2) for split in splits]
    # Names that are too long for a column of the legend, e.g. file names, are wrapped.
    names_shown = ["\n".join(wrap(split, 1.9, max_lines=3)) for split in splits]
    fitting = max(1, int(figure.get_figwidth() / 2.5))
    legend = figure.legend(
        handles, names_shown, loc="outside upper left", ncols=fitting, frameon=False, fontsize=FONT_SIZE
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
