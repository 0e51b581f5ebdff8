"""Is one model better than another? A paired bootstrap over the videos and the training runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtrit


class Difference(NamedTuple):
    """Mean difference, the bounds of its confidence interval, and the share of the resamples in which it is above 0."""

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
    """How far `values` lie above `baseline`, with a percentile interval.

    Queries of a video share its features and often their fate, so whole videos are resampled; and since another training run would have
    come out otherwise, so are the runs, in pairs. Few runs, resampled, vary less than new ones would: their deviations are widened to the
    interval of Student's t. A single run tells nothing of others, so then the interval is over the videos alone.

    Args:
        values (`(runs, N)`): A figure per training run and query, an IoU or a hit say; NaN where a query has none.
        baseline (`(runs, N)`): The same of the other model, the same queries in the same order, and runs that pair with those of `values`.
        clusters (N): The video of each query; every query for itself if left out.
        resamples, confidence, seed: Of the bootstrap.

    Raises:
        ValueError: for shapes that differ, no query with figures on both sides, or a confidence outside 0..1.
    """
    values, baseline = np.asarray(values, dtype=float), np.asarray(baseline, dtype=float)
    if values.ndim != 2 or values.shape != baseline.shape:
        raise ValueError(f"expected two arrays (runs, N) of one shape, got {values.shape} and {baseline.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"the confidence must lie between 0 and 1, got {confidence}")
    if clusters is not None and len(clusters) != values.shape[1]:
        raise ValueError(f"{len(clusters)} clusters for {values.shape[1]} queries")
    difference = values - baseline
    counts = ~np.isnan(difference)
    if not counts.any():
        raise ValueError("no query has a figure on both sides")

    labels = (
        np.arange(values.shape[1]) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    )
    # Sum and number of the queries of each run and cluster: all that a resample needs.
    sums, sizes = (
        np.stack([np.bincount(labels, weights=row, minlength=labels.max() + 1) for row in table])
        for table in (np.where(counts, difference, 0.0), counts.astype(float))
    )
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
    return Difference(float(sums.sum() / sizes.sum()), float(low), float(high), float((means > 0).mean()))
