"""Select rows of a split: those to train on, and those to hold out for validation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from ..schema import trainable

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


def has_answers(rows: Dataset) -> bool:
    """Return whether any row has a window. Without windows, a split can be predicted but not scored."""
    return "relevant_windows" in rows.column_names and any(map(len, rows["relevant_windows"]))


def training_rows(rows: Dataset) -> Dataset:
    """Return the rows that can be trained on, and log how many are left out; see [`~shine_hf.schema.annotation_flags`].

    Raises:
        ValueError: if no row is left.
    """
    columns = rows.select_columns(["duration", "relevant_windows"])
    kept = rows.select([index for index, row in enumerate(columns) if trainable(row)])
    if len(kept) < len(rows):
        logger.warning(
            "%d of %d training rows are left out: their window is missing, empty, reversed or outside the video",
            len(rows) - len(kept),
            len(rows),
        )
    if not len(kept):
        raise ValueError(
            f"none of the {len(rows)} rows of the split train has a window inside its video (relevant_windows, in seconds)"
        )
    return kept


def split_validation(rows: Dataset, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split off a share of the videos for validation. The choice depends only on the set of videos and the seed.

    Videos are split, not queries, since the queries of a video share its features.

    Args:
        rows: The training rows.
        fraction: Share of the videos.
        seed: Seed of the choice.

    Returns:
        Training rows, validation rows.

    Raises:
        ValueError: for a fraction that is not between 0 and 1, or too few videos.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation_fraction must be between 0 and 1, got {fraction}")
    videos = sorted(set(rows["vid"]))
    count = max(1, round(fraction * len(videos)))
    if count >= len(videos):
        raise ValueError(
            f"cannot hold out {fraction:.0%} of {len(videos)} videos for validation and keep one to train on"
        )
    chosen = set(np.random.default_rng(seed).permutation(videos)[:count].tolist())
    held_out = np.fromiter((vid in chosen for vid in rows["vid"]), dtype=bool, count=len(rows))
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))
