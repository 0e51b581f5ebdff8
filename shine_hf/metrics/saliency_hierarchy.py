"""Whether the saliency inside the moment falls from the query over its negatives, in the order that SHINE trains."""

from __future__ import annotations

import numpy as np


def saliency_order(levels: np.ndarray) -> dict[str, float]:
    """How often each link of query > level 1 > … > irrelevant holds, and the whole chain, in percent.

    Args:
        levels (`(N, 1 + L)`): Mean saliency inside the moment under the query, level 1, …, and last the irrelevant query; NaN for an
            absent one, which drops out of the chain.
    """
    present = ~np.isnan(levels)
    index = np.where(present, np.arange(levels.shape[1]), 0)
    nearer = np.maximum.accumulate(index, axis=1)[:, :-1]
    higher = np.take_along_axis(levels, nearer, axis=1) > levels[:, 1:]
    linked = present[:, 1:] & present[:, :1]
    names = ["query", *(f"level{level}" for level in range(1, levels.shape[1] - 1)), "irrelevant"]
    metrics = {
        f"{a}>{b}": 100 * float(higher[linked[:, i], i].mean())
        for i, (a, b) in enumerate(zip(names, names[1:]))
        if linked[:, i].any()
    }
    rows = linked.any(axis=1)
    if rows.any():
        metrics["chain"] = 100 * float((higher | ~linked)[rows].all(axis=1).mean())
    return metrics
