"""Figures: the moments of a query with the saliency of its negatives, training curves, and the saliency order of several models.

Every function returns a `matplotlib.figure.Figure` and does not use pyplot with its global state, so figures can be drawn in several threads,
e.g. in a web app. Text is wrapped by its measured width, so that it always fits into the figure.
"""

from .curves import plot_training_curves
from .hierarchy import plot_saliency_hierarchy
from .moments import plot_moments
from .style import SERIES_COLORS, save_figure

__all__ = ["SERIES_COLORS", "plot_moments", "plot_saliency_hierarchy", "plot_training_curves", "save_figure"]
