"""Figures: a query's moments over its video with the saliency of its negatives, training curves, the saliency order of models.

Every function returns a `matplotlib.figure.Figure`. pyplot and its global state are not touched, so figures can be drawn from several
threads, as in a web page. Text is wrapped by its measured width, so that none runs out of a figure.
"""

from .curves import plot_training_curves
from .hierarchy import plot_saliency_hierarchy
from .moments import plot_moments
from .style import SERIES_COLORS, save_figure

__all__ = ["SERIES_COLORS", "plot_moments", "plot_saliency_hierarchy", "plot_training_curves", "save_figure"]
