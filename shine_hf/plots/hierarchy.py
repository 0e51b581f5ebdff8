"""Plot how often the saliency is in the order that SHINE trains, for several models or splits."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .style import FAINT, FONT_SIZE, INK, LINE_HEIGHT_INCHES, SERIES_COLORS, label_bar, new_figure, strip_frame, wrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINK = re.compile(r"[a-z0-9]+>[a-z0-9]+")
WIDTH_INCHES, LEFT_MARGIN_INCHES, RIGHT_MARGIN_INCHES = 7.2, 1.75, 0.55


def plot_saliency_hierarchy(results: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw how often each link of positive > level 1 > … > irrelevant, and the entire chain, holds, with confidence intervals.

    Args:
        results: Name of a model or split -> the metrics from `saliency_hierarchy`, or from `saliency_order`, possibly without intervals.

    Raises:
        ValueError: without results.
        ImportError: without matplotlib (the extra `plots`).
    """
    names = {name for result in results.values() for name in result}
    links = sorted((name for name in names if LINK.fullmatch(name)), key=rank_of_link)
    if not links:
        raise ValueError("no results to draw: none has a link such as positive>level1")
    num_links = len(links)
    links += ["chain"] if "chain" in names else []  # Last, below its links.
    step = 0.24
    row_height = step * len(results) + 0.22
    name_width = WIDTH_INCHES - LEFT_MARGIN_INCHES - 0.4
    legend = [wrap(name, name_width, max_lines=2, weight="bold") for name in results]
    legend_height = 0.25 + sum(LINE_HEIGHT_INCHES * len(lines) + 0.05 for lines in legend)
    height = row_height * len(links) + 0.75 + legend_height
    figure = new_figure(WIDTH_INCHES, height)
    left, width = LEFT_MARGIN_INCHES / WIDTH_INCHES, 1 - (LEFT_MARGIN_INCHES + RIGHT_MARGIN_INCHES) / WIDTH_INCHES
    axes = figure.add_axes((left, 0.6 / height, width, (height - 0.6 - legend_height) / height))
    strip_frame(axes)
    top = 0.08
    for place, (name, color, lines) in enumerate(zip(results, itertools.cycle(SERIES_COLORS), legend)):
        figure.text(
            left, 1 - top / height, "● " + "\n    ".join(lines), color=color, va="top", fontsize=FONT_SIZE, linespacing=1.0,
            fontweight="bold", parse_math=False,
        )  # fmt: skip
        top += LINE_HEIGHT_INCHES * len(lines) + 0.05
        for index, link in enumerate(links):
            if link not in results[name]:
                continue
            value = results[name][link]
            middle = index * row_height + step * (place - (len(results) - 1) / 2)
            low, high = results[name].get(f"{link}_low", value), results[name].get(f"{link}_high", value)
            axes.plot([low, high], [middle, middle], color=color, linewidth=2, alpha=0.5, solid_capstyle="round")
            axes.plot([value], [middle], "o", color=color, markersize=6, clip_on=False)
            label_bar(axes, f"{value:.0f}", (low, high), middle, is_right=high < 88, color=color)
    edge = row_height / 2
    axes.plot(
        [50, 50], [-edge, num_links * row_height - edge], color=FAINT, linewidth=1, linestyle=(0, (4, 3)), zorder=0
    )
    axes.annotate(
        "chance", (50, -edge), xytext=(3, 1), textcoords="offset points", color=FAINT, fontsize=FONT_SIZE - 1, va="top"
    )
    axes.set_yticks([index * row_height for index in range(len(links))], [_describe_link(link) for link in links])
    axes.set_ylim(len(links) * row_height - edge, -edge)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("queries whose mean saliency inside the moment is in this order (%)", color=INK)
    return figure


def rank_of_link(name: str) -> tuple[bool, str]:
    """Return a sort key that orders the links from the positive query down."""
    return not name.startswith("positive"), name


def _describe_link(name: str) -> str:
    return "entire chain" if name == "chain" else name.replace(">", " > ").replace("level", "level ")
