"""Plot the moments of a query over its video, with the saliency of the query and its negatives."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..metrics import temporal_iou
from .style import BLUE, FAINT, FONT_SIZE, GREEN, INK, LINE_HEIGHT_INCHES, label_bar, new_figure, strip_frame, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# From the nearest negative to the irrelevant query, in colors that differ more and more from the blue of the query.
NEGATIVE_COLORS = ("#D55E00", "#E69F00", "#CC79A7", "#000000", "#56B4E9", "#8C6D31", "#999999")
QUERY_LABEL = "the query"
WIDTH_INCHES, LEFT_MARGIN_INCHES, RIGHT_MARGIN_INCHES, LABEL_MARGIN_INCHES = 10.0, 1.05, 2.5, 0.13
PLOT_WIDTH_INCHES = WIDTH_INCHES - LEFT_MARGIN_INCHES - RIGHT_MARGIN_INCHES
LABEL_GAP_LINES, MOST_LABEL_LINES = 0.4, 5


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

    The saliency shows what SHINE trains (arXiv 2407.05118): inside the moment, the query should lie above its negatives, and nearer negatives
    above farther ones. Scores have no unit and differ from model to model, so the curves show the rank of each score among the scores of all
    clips and queries in the figure, from lowest to highest.

    Args:
        query: The sentence, shown as the title.
        moments: Predicted moments, best first: `{"start", "end", "score"}` as the pipeline returns them, or `[start, end, score]`.
        duration_seconds: Length of the video.
        windows: Annotated `[start, end]` in seconds, if any.
        frames: Any number of pairs of a time in seconds and an image `(H, W, 3)` uint8. The ones nearest to each tile are shown.
        saliency (`(T,)`): Clip-wise saliency under the query.
        negative_saliency: Label of a negative, e.g. its sentence -> saliency `(T,)`, from the nearest negative to the irrelevant query.
        clip_length_seconds: Length of a clip; by default, the duration divided by the number of clips.
        max_moments: Maximum number of moments to draw.

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
        raise ValueError(f"all saliency curves must have the same number of clips, got {shapes}")
    if any(curve.ndim != 1 or not curve.size for curve in curves.values()):
        raise ValueError(f"a saliency curve needs a score for each clip, got {next(iter(curves.values())).shape}")

    tiles, strip_height = _choose_tiles(frames, duration_seconds)
    title = wrap(query, WIDTH_INCHES - LEFT_MARGIN_INCHES - 0.2, FONT_SIZE + 2, max_lines=4)
    track_height = 0.26 * (len(ranked) + bool(len(windows))) or 0.26
    labels = [_wrap_label(label) for label in curves]
    heights = [strip_height, track_height, max(2.2, _labels_height(labels)) if curves else 0.0]
    title_height, axis_height, gap = 0.25 + 0.2 * len(title), 0.5, 0.12
    shown = [height for height in heights if height]
    height = title_height + sum(shown) + gap * (len(shown) - 1) + axis_height
    figure = new_figure(WIDTH_INCHES, height)
    figure.text(
        LEFT_MARGIN_INCHES / WIDTH_INCHES,
        1 - 0.14 / height,
        "\n".join(title),
        va="top",
        fontsize=FONT_SIZE + 2,
        color=INK,
        parse_math=False,
    )

    all_axes, top = [], height - title_height
    for index, panel_height in enumerate(heights):
        if not panel_height:
            continue
        left, width = LEFT_MARGIN_INCHES / WIDTH_INCHES, PLOT_WIDTH_INCHES / WIDTH_INCHES
        axes = figure.add_axes((left, (top - panel_height) / height, width, panel_height / height))
        axes.set_xlim(0, duration_seconds)
        all_axes.append(axes)
        if index == 0:
            _draw_film_strip(axes, tiles, duration_seconds)
        elif index == 1:
            _draw_tracks(axes, ranked, windows, duration_seconds)
        else:
            clip_length = clip_length_seconds or duration_seconds / len(next(iter(curves.values())))
            _draw_saliency(axes, curves, labels, windows, clip_length)
        top -= panel_height + gap
    for axes in all_axes[:-1]:
        axes.tick_params(axis="x", bottom=False, labelbottom=False)
    _label_time_axis(all_axes[-1], duration_seconds)
    return figure


def _label_time_axis(axes: Axes, duration_seconds: float) -> None:
    if _is_long(duration_seconds):
        from matplotlib.ticker import MultipleLocator

        # About ten ticks, at round times.
        step = next((step for step in (60, 120, 300, 600, 900, 1800) if step * 10 >= duration_seconds), 3600)
        axes.xaxis.set_major_locator(MultipleLocator(step))
        axes.xaxis.set_major_formatter(lambda seconds, _: _clock(seconds))
    axes.set_xlabel(f"time in the video{'' if _is_long(duration_seconds) else ' (s)'}", color=INK)


def _choose_tiles(
    frames: Sequence[tuple[float, np.ndarray]], duration_seconds: float
) -> tuple[list[np.ndarray], float]:
    """Return images that fill the strip from left to right, and the height of the strip in inches. Without frames, there is no strip."""
    if not len(frames):
        return [], 0.0
    times = np.array([time for time, _ in frames], dtype=float)
    rows, columns = np.asarray(frames[0][1]).shape[:2]
    aspect = columns / rows
    # Tall frames get more tiles, so that the strip is about 0.8 inches high whatever their shape.
    count = int(np.clip(round(PLOT_WIDTH_INCHES / (0.8 * aspect)), 3, 24))
    centers = (np.arange(count) + 0.5) * duration_seconds / count
    nearest = np.abs(times[None] - centers[:, None]).argmin(axis=1)
    return [np.asarray(frames[index][1]) for index in nearest], PLOT_WIDTH_INCHES / count / aspect


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
) -> None:
    """Draw one row for the annotated windows and one per prediction, with times on the bars and scores in the right margin."""
    strip_frame(axes)
    rows = ([("annotated", GREEN, [(start, end) for start, end in windows], "")] if len(windows) else []) + [
        (f"predicted {rank}", BLUE, [(start, end)], f"score {_short(score)}{_describe_fit(start, end, windows)}")
        for rank, (start, end, score) in enumerate(moments, start=1)
    ]
    for row, (_, color, bars, remark) in enumerate(rows):
        for start, end in bars:
            # The edge keeps a moment visible if it is shorter than a pixel.
            axes.barh(row, end - start, left=start, height=0.62, color=color, edgecolor=color, linewidth=0.8)
            digits = 1 if duration_seconds >= 10 else 2
            text = f"{start:.{digits}f}–{end:.{digits}f} s"
            if _is_long(duration_seconds):
                text = f"{_clock(start)}–{_clock(end)}"
            # Per character, 0.062 inches is slightly more than DejaVu Sans needs at this size.
            needed_seconds = 0.062 * len(text) / PLOT_WIDTH_INCHES * duration_seconds
            if end - start > needed_seconds:
                axes.text(
                    (start + end) / 2, row, text, ha="center", va="center", color="white", fontsize=FONT_SIZE - 1.5
                )
            elif len(bars) == 1:
                is_right = end + needed_seconds < duration_seconds
                label_bar(axes, text, (start, end), row, is_right=is_right, color=color, font_size=FONT_SIZE - 1.5)
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
    axes: Axes,
    curves: Mapping[str, np.ndarray],
    labels: Sequence[Sequence[str]],
    windows: Sequence[Sequence[float]],
    clip_length_seconds: float,
) -> None:
    """Draw each curve as steps, since scores belong to clips. The labels are listed in the order that the curves should have."""
    strip_frame(axes)
    for start, end in windows:
        axes.axvspan(start, end, color=GREEN, alpha=0.12, linewidth=0)
    colors = [BLUE if label == QUERY_LABEL else None for label in curves]
    negatives = iter(_negative_colors(colors.count(None)))
    colors = [color or next(negatives) for color in colors]
    # Draw the query last, on top of the others.
    for (label, ranks), color in reversed(list(zip(saliency_ranks(curves).items(), colors))):
        edges = np.arange(len(ranks) + 1) * clip_length_seconds
        width = (2.4 if label == QUERY_LABEL else 1.4) * (1 if len(ranks) < 300 else 0.4)
        axes.stairs(ranks, edges, baseline=None, color=color, linewidth=width)
    _list_labels(axes, labels, colors, [label == QUERY_LABEL for label in curves])
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1], ["lowest", "median", "highest"])
    axes.set_ylabel("rank of the saliency\namong all clips shown", color=INK, fontsize=FONT_SIZE)


def saliency_ranks(curves: Mapping[str, Sequence[float] | np.ndarray]) -> dict[str, np.ndarray]:
    """Return for each score in each curve the share of all other scores that are lower, in [0, 1]; equal scores have equal ranks."""
    from scipy.stats import rankdata

    scores = [np.asarray(curve, dtype=float) for curve in curves.values()]
    ranks = rankdata(np.concatenate(scores), method="average") - 1
    ranks = ranks / (len(ranks) - 1) if len(ranks) > 1 else np.full(len(ranks), 0.5)
    return dict(zip(curves, np.split(ranks, np.cumsum([len(curve) for curve in scores])[:-1])))


def _negative_colors(count: int) -> list[str]:
    """Return a color per negative; the irrelevant query, the last, is always gray."""
    nearer = itertools.islice(itertools.cycle(NEGATIVE_COLORS[:-1]), max(count - 1, 0))
    return [*nearer, NEGATIVE_COLORS[-1]]


def _as_moment(moment: Mapping[str, float] | Sequence[float]) -> tuple[float, float, float]:
    if isinstance(moment, Mapping):
        return moment["start"], moment["end"], moment["score"]
    start, end, score = moment
    return start, end, score


def _short(score: float) -> str:
    """Format a score with two decimals, or up to the first nonzero one, since most scores in a long video are small."""
    return f"{score:.2f}" if score >= 0.01 or not score else f"{score:.1g}"


def _is_long(duration_seconds: float) -> bool:
    """Return whether times are shown as minutes and seconds instead of seconds."""
    return duration_seconds >= 300


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _describe_fit(start: float, end: float, windows: Sequence[Sequence[float]]) -> str:
    if not len(windows):
        return ""
    return f" · IoU {temporal_iou(np.array([start, end], dtype=float), np.asarray(windows, dtype=float)).max():.2f}"


def _list_labels(axes: Axes, labels: Sequence[Sequence[str]], colors: Sequence[str], is_bold: Sequence[bool]) -> None:
    """Write the labels below each other in the right margin, in the colors of their lines."""
    line = LINE_HEIGHT_INCHES / (axes.get_position().height * axes.get_figure(root=True).get_figheight())
    top = 1.0
    for lines, color, bold in zip(labels, colors, is_bold):
        axes.text(
            1 + LABEL_MARGIN_INCHES / PLOT_WIDTH_INCHES, top, "\n".join(lines), transform=axes.transAxes, va="top", color=color,
            fontsize=FONT_SIZE - 0.5, linespacing=1.0, parse_math=False, fontweight="bold" if bold else None,
        )  # fmt: skip
        top -= line * (len(lines) + LABEL_GAP_LINES)


def _labels_height(labels: Sequence[Sequence[str]]) -> float:
    """Return the height of the labels in inches."""
    return LINE_HEIGHT_INCHES * sum(len(lines) + LABEL_GAP_LINES for lines in labels)


def _wrap_label(label: str) -> list[str]:
    weight = "bold" if label == QUERY_LABEL else "normal"
    return wrap(label, RIGHT_MARGIN_INCHES - LABEL_MARGIN_INCHES - 0.1, FONT_SIZE - 0.5, MOST_LABEL_LINES, weight)
