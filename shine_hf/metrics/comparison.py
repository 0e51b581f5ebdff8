"""Compare two models with a paired bootstrap over videos and training runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit

from .intervals import check_confidence, cluster_labels


class Difference(NamedTuple):
    """A mean difference, the bounds of its confidence interval, and the share of resamples in which it is above 0."""

    mean: float
    low: float
    high: float
    share_above_zero: float


def paired_bootstrap(
    values: np.ndarray,
    baseline: np.ndarray,
    *,
    clusters: Sequence | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Return the mean difference between `values` and `baseline`, with a percentile interval.

    Queries of the same video share its features and often succeed or fail together, so entire videos are resampled. Training runs vary too,
    so runs are resampled as well, in pairs. Resampling a few runs underestimates their variance, so their deviations are widened to match
    the interval of Student's t. With a single run, the interval only covers the variation between videos.

    If the two models never differed, resampling would only ever return 0. Therefore two videos of average size are added: in each, one of
    the models wins by the largest observed value (for paired hits: Agresti and Min, Statistics in Medicine 24, 2005).

    Args:
        values (`(runs, N)`): A value per training run and query, e.g. an IoU or a hit; NaN for none.
        baseline (`(runs, N)`): The values of the other model, for the same queries in the same order and for paired runs.
        clusters (N): The video of each query. By default, every query is its own cluster.
        resamples: Number of bootstrap resamples.
        confidence: Confidence level of the interval.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: if the shapes differ, no query has values on both sides, or the confidence is outside (0, 1).
    """
    values, baseline = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    if values.ndim != 2 or values.shape != baseline.shape:
        raise ValueError(f"expected two arrays (runs, N) of the same shape, got {values.shape} and {baseline.shape}")
    check_confidence(confidence)
    labels = cluster_labels(clusters, values.shape[1])
    difference = values - baseline
    counts = ~np.isnan(difference)
    if not counts.any():
        raise ValueError("no query has values on both sides")

    # A resample only needs the sum and the number of queries of each run and cluster.
    sums, sizes = (
        np.stack([np.bincount(labels, weights=row, minlength=labels.max() + 1) for row in table])
        for table in (np.where(counts, difference, 0.0), counts.astype(float))
    )
    mean = float(sums.sum() / sizes.sum())
    average = sizes.sum(axis=1, keepdims=True) / np.count_nonzero(sizes.any(axis=0))
    largest = max(np.nanmax(np.abs(table[counts])) for table in (values, baseline))
    sums = np.concatenate([sums, (mean + largest) * average, (mean - largest) * average], axis=1)
    sizes = np.concatenate([sizes, average, average], axis=1)

    rng = np.random.default_rng(seed)
    runs, groups = sums.shape
    if runs > 1:
        upper = (1 + confidence) / 2
        widening = np.sqrt(runs / (runs - 1)) * stdtrit(runs - 1, upper) / ndtri(upper)
        deviations = sums.sum(axis=1) / np.maximum(sizes.sum(axis=1), 1) - sums.sum() / sizes.sum()
        sums += (widening - 1) * deviations[:, None] * sizes
    run_weights = rng.multinomial(runs, np.full(runs, 1 / runs), size=resamples)
    group_weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    totals, numbers = (
        np.einsum("rs,sg,rg->r", run_weights, table, group_weights, optimize=True) for table in (sums, sizes)
    )
    means = totals[numbers > 0] / numbers[numbers > 0]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(mean, float(low), float(high), float((means > 0).mean()))
