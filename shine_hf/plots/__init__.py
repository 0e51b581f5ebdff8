"""Figures: a query's moments over its video with the saliency of its negatives, training curves, the saliency order of models.

Every function returns a `matplotlib.figure.Figure` (save it with `figure.savefig("out.png")`); pyplot and its global state are not
touched, so figures can be drawn from several threads, as in a web page. The colours are those of Okabe and Ito, which stay apart for
colour-blind readers.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..io import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREEN, INK, FAINT = "#0072B2", "#009E73", "#333333", "#999999"
SERIES_COLORS = (BLUE, "#D55E00", GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# From the nearest negative to the irrelevant query: away from the blue of the positive, and fading.
NEGATIVE_COLORS = ("#D55E00", "#E69F00", "#CC79A7", "#000000", "#56B4E9", "#8C6D31", "#999999")
LABEL_WIDTH_CHARACTERS = 34
QUERY_LABEL = "the query"
FONT_SIZE = 9.0
HEADLINE_METRICS = ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU", "mAP")
LINK = re.compile(r"[a-z0-9]+>[a-z0-9]+")
# What the trainer logs: `loss_span` in training, `eval_mIoU` and `eval_{split}_level1>level2` in evaluation.
LOGGED = re.compile(
    r"(?P<eval>eval_(?:(?P<split>.+)_)?)?"
    rf"(?P<name>loss(?:_\w+)?|{LINK.pattern}|chain|{'|'.join(map(re.escape, HEADLINE_METRICS))})"
)
LINE_HEIGHT_INCHES, LABEL_GAP_LINES, MOST_LABEL_LINES = (FONT_SIZE + 2.5) / 72, 0.4, 5
LEFT_MARGIN_INCHES, RIGHT_MARGIN_INCHES = 0.95, 2.5


def plot_moments(
    query: str,
    moments: Sequence[Mapping[str, float] | Sequence[float]],
    *,
    duration_seconds: float,
    windows: Sequence[Sequence[float]] = (),
    frames: Sequence[tuple[float, np.ndarray]] = (),
    saliency: Sequence[float] | None = None,
    negative_saliency: Mapping[str, Sequence[float]] | None = None,
    clip_length_seconds: float | None = None,
    max_moments: int = 3,
) -> Figure:
    """Draw the moments of a query over a time axis, with a film strip above and the saliency of the query and its negatives below.

    The lower half is what SHINE is about (arXiv 2407.05118): inside the moment the query should lie above its negatives, and the nearer
    negatives above the farther ones.

    Args:
        query: The sentence, as the title.
        moments: Predicted moments, best first: `{"start", "end", "score"}` as the pipeline returns them, or `[start, end, score]`.
        duration_seconds: Length of the video.
        windows: Annotated `[start, end]` in seconds, if there are any.
        frames: Times in seconds and images `(H, W, 3)` uint8, in any number; those nearest to the places of the strip are shown.
        saliency (`(T,)`): Clip-wise saliency under the query.
        negative_saliency: Label of a negative (its sentence, say) -> saliency `(T,)`, from the nearest to the irrelevant one.
        clip_length_seconds: Length of a clip; the duration divided by the number of clips if left out.
        max_moments: How many of the moments are drawn.

    Raises:
        ValueError: for a duration that is not positive, or curves of different lengths.
        ImportError: without matplotlib (the extra `plots`).
    """
    if not duration_seconds > 0:
        raise ValueError(f"the duration must be a positive number of seconds, got {duration_seconds}")
    ranked = [_as_moment(moment) for moment in moments[:max_moments]]
    curves = {} if saliency is None else {QUERY_LABEL: np.asarray(saliency, dtype=float)}
    curves |= {label: np.asarray(curve, dtype=float) for label, curve in (negative_saliency or {}).items()}
    if len({curve.shape for curve in curves.values()}) > 1:
        shapes = ", ".join(f"{label!r} {curve.shape}" for label, curve in curves.items())
        raise ValueError(f"the saliency curves must have as many clips each, got {shapes}")
    if any(curve.ndim != 1 or not curve.size for curve in curves.values()):
        raise ValueError(f"a saliency curve needs a score for each clip, got {next(iter(curves.values())).shape}")

    width = 10.0
    plot_width = width - LEFT_MARGIN_INCHES - RIGHT_MARGIN_INCHES
    tiles, strip_height = _choose_tiles(frames, duration_seconds, plot_width)
    title = textwrap.fill(query, 95)
    track_height = 0.26 * (len(ranked) + bool(len(windows))) or 0.26
    heights = [strip_height, track_height, max(2.2, _labels_height(list(curves))) if curves else 0.0]
    title_height, axis_height, gap = 0.25 + 0.2 * (title.count("\n") + 1), 0.5, 0.12
    shown = [height for height in heights if height]
    height = title_height + sum(shown) + gap * (len(shown) - 1) + axis_height
    figure = _new_figure(width, height)
    figure.text(
        LEFT_MARGIN_INCHES / width,
        1 - 0.14 / height,
        title,
        va="top",
        fontsize=FONT_SIZE + 2,
        color=INK,
        parse_math=False,
    )

    all_axes, top = [], height - title_height
    for index, panel_height in enumerate(heights):
        if not panel_height:
            continue
        box = (LEFT_MARGIN_INCHES / width, (top - panel_height) / height, plot_width / width, panel_height / height)
        axes = figure.add_axes(box)
        axes.set_xlim(0, duration_seconds)
        all_axes.append(axes)
        if index == 0:
            _draw_film_strip(axes, tiles, duration_seconds)
        elif index == 1:
            _draw_tracks(axes, ranked, windows, duration_seconds, plot_width)
        else:
            _draw_saliency(
                axes, curves, windows, clip_length_seconds or duration_seconds / len(next(iter(curves.values())))
            )
        top -= panel_height + gap
    for axes in all_axes[:-1]:
        axes.tick_params(axis="x", bottom=False, labelbottom=False)
    if _is_long(duration_seconds):
        from matplotlib.ticker import MultipleLocator

        # Round on a clock, and about ten of them.
        step = next((step for step in (60, 120, 300, 600, 900, 1800) if step * 10 >= duration_seconds), 3600)
        all_axes[-1].xaxis.set_major_locator(MultipleLocator(step))
        all_axes[-1].xaxis.set_major_formatter(lambda seconds, _: _clock(seconds))
    all_axes[-1].set_xlabel(f"time in the video{'' if _is_long(duration_seconds) else ' (s)'}", color=INK)
    return figure


def plot_training_curves(log_history: Iterable[Mapping[str, float]]) -> Figure:
    """Draw the loss terms of a run and its metrics over the training steps: a panel each, a line for training and for each split.

    The parts of a term (`loss_saliency_…`, the auxiliary layers `loss_span_0`), R5, and single thresholds of mAP are left out.

    Args:
        log_history: `trainer.state.log_history`, or the list of that name in a checkpoint's `trainer_state.json`.

    Raises:
        ValueError: for a history without any loss and any metric.
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
    links = sorted((name for name in panels if ">" in name), key=_rank_of_link)
    order = [*losses, *HEADLINE_METRICS, *links, "chain"]
    names = [name for name in order if name in panels and name not in parts]
    if not names:
        raise ValueError(
            "the log history has neither losses nor metrics; give trainer.state.log_history after some steps"
        )

    splits = list(dict.fromkeys(split for name in names for split in panels[name]))
    colors = dict(zip(splits, itertools.cycle(SERIES_COLORS)))
    num_columns = min(4, len(names))
    num_rows = math.ceil(len(names) / num_columns)
    figure = _new_figure(max(2.7 * num_columns, 5.0), 2.1 * num_rows + 0.4)
    figure.set_layout_engine("constrained")
    from matplotlib.lines import Line2D  # Only now: without matplotlib the figure has said which extra is missing.

    for index, name in enumerate(names):
        axes = figure.add_subplot(num_rows, num_columns, index + 1)
        _strip_frame(axes)
        for split, points in panels[name].items():
            marker = "o" if len(points) < 15 else ""
            axes.plot(*zip(*points), color=colors[split], linewidth=1.4, marker=marker, markersize=3)
        axes.set_title(name if name in losses else f"{name} (%)", loc="left", fontsize=FONT_SIZE, color=INK)
        axes.locator_params(nbins=4)
        if index >= len(names) - num_columns:
            axes.set_xlabel("step", color=INK, fontsize=FONT_SIZE)
    handles = [Line2D([], [], color=colors[split], linewidth=2) for split in splits]
    for text in figure.legend(handles, splits, loc="outside upper left", ncols=5, frameon=False).get_texts():
        text.set_parse_math(False)
    return figure


def plot_saliency_hierarchy(results: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw how often each link of positive > level 1 > … > irrelevant holds, and the chain, with their confidence intervals.

    Args:
        results: Name of a model or split -> what `saliency_hierarchy` returns (or `saliency_order`, then without intervals).

    Raises:
        ValueError: without results. ImportError: without matplotlib (the extra `plots`).
    """
    names = {name for result in results.values() for name in result}
    links = sorted((name for name in names if LINK.fullmatch(name)), key=_rank_of_link)
    if not links:
        raise ValueError("no results to draw: none has a link such as positive>level1")
    num_links = len(links)
    links += ["chain"] if "chain" in names else []  # Last, apart from its links.
    step = 0.24
    row_height = step * len(results) + 0.22
    height = row_height * len(links) + 1.0 + 0.2 * len(results)
    figure = _new_figure(7.2, height)
    legend_height = 0.25 + 0.2 * len(results)
    axes = figure.add_axes((1.75 / 7.2, 0.6 / height, 4.9 / 7.2, (height - 0.6 - legend_height) / height))
    _strip_frame(axes)
    for place, (name, color) in enumerate(zip(results, itertools.cycle(SERIES_COLORS))):
        y = 1 - (0.16 + 0.2 * place) / height
        figure.text(
            1.75 / 7.2,
            y,
            f"● {name}",
            color=color,
            va="center",
            fontsize=FONT_SIZE,
            fontweight="bold",
            parse_math=False,
        )
        for index, link in enumerate(links):
            if link not in results[name]:
                continue
            value = results[name][link]
            middle = index * row_height + step * (place - (len(results) - 1) / 2)
            low, high = results[name].get(f"{link}_low", value), results[name].get(f"{link}_high", value)
            axes.plot([low, high], [middle, middle], color=color, linewidth=2, alpha=0.5, solid_capstyle="round")
            axes.plot([value], [middle], "o", color=color, markersize=6)
            is_right = high < 88
            axes.annotate(
                f"{value:.0f}",
                (high if is_right else low, middle),
                xytext=(6 if is_right else -6, 0),
                textcoords="offset points",
                ha="left" if is_right else "right",
                va="center",
                color=color,
                fontsize=FONT_SIZE - 0.5,
            )
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


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Save a figure. A file of that name survives a failure.

    Args:
        path: Its extension is the format; without one, PNG.

    Raises:
        ValueError: for an unknown format.
    """
    with atomic_file(path, "wb") as file:
        figure.savefig(file, format=os.path.splitext(path)[1][1:] or "png")


# ---- panels of a query --------------------------------------------------------------------------------------------------


def _choose_tiles(
    frames: Sequence[tuple[float, np.ndarray]], duration_seconds: float, width_inches: float
) -> tuple[list[np.ndarray], float]:
    """Images that fill the strip from left to right, and the height of the strip in inches; none for no frames."""
    if not len(frames):
        return [], 0.0
    times = np.array([time for time, _ in frames], dtype=float)
    rows, columns = np.asarray(frames[0][1]).shape[:2]
    aspect = columns / rows
    # Tall frames get more tiles, so that the strip is about 0.8 inches high whatever their form.
    count = int(np.clip(round(width_inches / (0.8 * aspect)), 3, 24))
    centers = (np.arange(count) + 0.5) * duration_seconds / count
    nearest = np.abs(times[None] - centers[:, None]).argmin(axis=1)
    return [np.asarray(frames[index][1]) for index in nearest], width_inches / count / aspect


def _draw_film_strip(axes: Axes, tiles: list[np.ndarray], duration_seconds: float) -> None:
    width = duration_seconds / len(tiles)
    for index, tile in enumerate(tiles):
        smooth = "nearest" if max(tile.shape[:2]) < 100 else "antialiased"
        extent = (index * width, (index + 1) * width, 0, 1)
        axes.imshow(tile, extent=extent, aspect="auto", interpolation=smooth)
        axes.axvline(index * width, color="white", linewidth=1)
    axes.set_xlim(0, duration_seconds)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_tracks(
    axes: Axes,
    moments: list[tuple[float, float, float]],
    windows: Sequence[Sequence[float]],
    duration_seconds: float,
    width_inches: float,
) -> None:
    """One row for the annotated windows and one for each prediction, with times on the bars and scores in the right margin."""
    _strip_frame(axes)
    rows = ([("annotated", GREEN, [(start, end) for start, end in windows], "")] if len(windows) else []) + [
        (f"predicted {rank}", BLUE, [(start, end)], f"score {_short(score)}{_describe_fit(start, end, windows)}")
        for rank, (start, end, score) in enumerate(moments, start=1)
    ]
    for row, (_, color, bars, remark) in enumerate(rows):
        for start, end in bars:
            axes.barh(row, end - start, left=start, height=0.62, color=color, edgecolor=color, linewidth=0.8)
            # The edge keeps a moment visible that is shorter than a pixel. 0.062 inches a character is a little more than DejaVu Sans needs at this size.
            digits = 1 if duration_seconds >= 10 else 2
            text = f"{start:.{digits}f}–{end:.{digits}f} s"
            if _is_long(duration_seconds):
                text = f"{_clock(start)}–{_clock(end)}"
            needed_seconds = 0.062 * len(text) / width_inches * duration_seconds
            if end - start > needed_seconds:
                axes.text(
                    (start + end) / 2, row, text, ha="center", va="center", color="white", fontsize=FONT_SIZE - 1.5
                )
            elif len(bars) == 1:
                is_right = end + needed_seconds < duration_seconds
                axes.annotate(
                    text,
                    (end if is_right else start, row),
                    xytext=(4 if is_right else -4, 0),
                    textcoords="offset points",
                    ha="left" if is_right else "right",
                    va="center",
                    color=color,
                    fontsize=FONT_SIZE - 1.5,
                )
        axes.annotate(
            remark, (1, row), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points", va="center",
            color=color, fontsize=FONT_SIZE - 0.5,
        )  # fmt: skip
    if not rows:
        axes.text(duration_seconds / 2, 0, "no moment found", ha="center", va="center", color=FAINT)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _draw_saliency(
    axes: Axes, curves: Mapping[str, np.ndarray], windows: Sequence[Sequence[float]], clip_length_seconds: float
) -> None:
    """A stair for each curve, for scores belong to clips; the labels stand in the order that the curves should have."""
    _strip_frame(axes)
    for start, end in windows:
        axes.axvspan(start, end, color=GREEN, alpha=0.12, linewidth=0)
    colors = [BLUE if label == QUERY_LABEL else None for label in curves]
    negatives = iter(_negative_colors(colors.count(None)))
    colors = [color or next(negatives) for color in colors]
    # The query is drawn last, so that it lies on top.
    for (label, curve), color in reversed(list(zip(curves.items(), colors))):
        edges = np.arange(len(curve) + 1) * clip_length_seconds
        width = (2.4 if label == QUERY_LABEL else 1.4) * (1 if len(curve) < 300 else 0.4)
        axes.stairs(curve, edges, baseline=None, color=color, linewidth=width)
    _list_labels(axes, list(curves), colors)
    axes.set_ylabel("saliency", color=INK)


def _negative_colors(count: int) -> list[str]:
    """The irrelevant query, the last, is always grey."""
    nearer = itertools.islice(itertools.cycle(NEGATIVE_COLORS[:-1]), max(count - 1, 0))
    return [*nearer, NEGATIVE_COLORS[-1]]


def _as_moment(moment: Mapping[str, float] | Sequence[float]) -> tuple[float, float, float]:
    if isinstance(moment, Mapping):
        return moment["start"], moment["end"], moment["score"]
    start, end, score = moment
    return start, end, score


def _short(score: float) -> str:
    """Two digits, or the first that is not 0: in a long video most scores are small."""
    return f"{score:.2f}" if score >= 0.01 or not score else f"{score:.1g}"


def _is_long(duration_seconds: float) -> bool:
    """Whether times are easier to read on a clock than in seconds."""
    return duration_seconds >= 300


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _describe_fit(start: float, end: float, windows: Sequence[Sequence[float]]) -> str:
    from ..metrics import temporal_iou

    if not len(windows):
        return ""
    return f" · IoU {temporal_iou(np.array([start, end], dtype=float), np.asarray(windows, dtype=float)).max():.2f}"


# ---- what the figures share -----------------------------------------------------------------------------------------------


def _new_figure(width_inches: float, height_inches: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "shine-hf[plots]"') from error
    figure = Figure(figsize=(width_inches, height_inches), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _strip_frame(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=FONT_SIZE - 0.5, color=FAINT)


def _list_labels(axes: Axes, labels: Sequence[str], colors: Sequence[str]) -> None:
    """Write the labels below each other in the right margin, in the colours of their lines."""
    line = LINE_HEIGHT_INCHES / (axes.get_position().height * axes.get_figure().get_figheight())
    top = 1.0
    for label, color in zip(labels, colors):
        lines = _wrap_label(label)
        axes.text(
            1.02, top, "\n".join(lines), transform=axes.transAxes, va="top", color=color, fontsize=FONT_SIZE - 0.5,
            linespacing=1.0, parse_math=False, fontweight="bold" if label == QUERY_LABEL else None,
        )  # fmt: skip
        top -= line * (len(lines) + LABEL_GAP_LINES)


def _labels_height(labels: Sequence[str]) -> float:
    """Inches that the labels take, written below each other."""
    return LINE_HEIGHT_INCHES * sum(len(_wrap_label(label)) + LABEL_GAP_LINES for label in labels)


def _wrap_label(label: str) -> list[str]:
    return textwrap.wrap(label, LABEL_WIDTH_CHARACTERS, max_lines=MOST_LABEL_LINES, placeholder=" …") or [""]


def _rank_of_link(name: str) -> tuple[bool, str]:
    """From the positive down, whatever the order in which they were stored."""
    return not name.startswith("positive"), name


def _describe_link(name: str) -> str:
    return "whole chain" if name == "chain" else name.replace(">", " > ").replace("level", "level ")
