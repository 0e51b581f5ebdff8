"""Elements shared by all figures: colors, fonts, frames, labels, and text wrapped by its measured width."""

from __future__ import annotations

import os
from bisect import bisect_left
from typing import TYPE_CHECKING

from ..io import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The Okabe-Ito colors, which color-blind readers can distinguish.
BLUE, GREEN, INK, FAINT = "#0072B2", "#009E73", "#333333", "#999999"
SERIES_COLORS = (BLUE, "#D55E00", GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FONT_SIZE, DPI = 9.0, 150
LINE_HEIGHT_INCHES = (FONT_SIZE + 2.5) / 72
_ELLIPSIS = "…"


def require_matplotlib() -> None:
    """Raise an ImportError that names the extra to install if matplotlib is missing."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "shine-hf[plots]"') from error


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """Return an empty figure that is not registered with pyplot.

    Raises:
        ImportError: without matplotlib. Names the extra to install.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Save a figure atomically.

    Args:
        path: File whose extension determines the format; PNG if there is none.

    Raises:
        ValueError: for an unknown format.
    """
    with atomic_file(path, "wb") as file:
        figure.savefig(file, format=os.path.splitext(path)[1][1:] or "png")


def label_bar(
    axes: Axes,
    text: str,
    ends: tuple[float, float],
    row: float,
    *,
    is_right: bool,
    color: str,
    font_size: float = FONT_SIZE - 0.5,
) -> None:
    """Write text to the right or left of a horizontal bar from `ends[0]` to `ends[1]`."""
    axes.annotate(
        text,
        (ends[is_right], row),
        xytext=(5 if is_right else -5, 0),
        textcoords="offset points",
        ha="left" if is_right else "right",
        va="center",
        color=color,
        fontsize=font_size,
    )


def strip_frame(axes: Axes) -> None:
    """Hide the top and right edges of a panel."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=FONT_SIZE - 0.5, color=FAINT)


def wrap(
    text: str, width_inches: float, size: float = FONT_SIZE, max_lines: int = 5, weight: str = "normal"
) -> list[str]:
    """Break text into lines that are no wider than `width_inches`.

    Lines break at spaces, or inside a word that is too long for a line, e.g. a video id. Text that does not fit into `max_lines` is cut off with
    an ellipsis.

    Args:
        size: Font size in points.
        weight: Font weight.
    """
    fits = _measure(width_inches, size, weight)
    lines, line = [], ""
    for word in text.split():
        if line and fits(f"{line} {word}"):
            line = f"{line} {word}"
            continue
        if line:
            lines.append(line)
        while not fits(word) and len(word) > 1:
            end = max(1, bisect_left(range(len(word)), True, key=lambda last: not fits(word[: last + 1])))
            lines.append(word[:end])
            word = word[end:]
        line = word
    lines.append(line)
    if len(lines) > max_lines:
        lines = lines[:max_lines]
        while lines[-1] and not fits(lines[-1] + _ELLIPSIS):
            lines[-1] = lines[-1][:-1]
        lines[-1] = lines[-1].rstrip() + _ELLIPSIS
    return lines


def _measure(width_inches: float, size: float, weight: str):
    """Return a function that returns whether text fits into `width_inches`."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    renderer, font = RendererAgg(1, 1, DPI), FontProperties(size=size, weight=weight)
    return lambda text: renderer.get_text_width_height_descent(text, font, ismath=False)[0] <= DPI * width_inches
