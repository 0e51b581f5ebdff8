"""The time grid of a video's clips, and checks that stores, models and annotations agree on it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .base import FeatureStore

logger = logging.getLogger(__name__)

EXTRACTOR_SLACK_CLIPS = 2
"""Number of clips by which extractors may disagree at the end of a video."""

DURATION_SLACK = 0.1
"""Fraction of a video's duration by which its clips may be too long or too short: durations in annotations and containers differ."""

TOLERATED_SHARE = 0.05
"""Share of a split that may disagree with its features: a larger share is an error, a smaller one a warning."""


@dataclass(frozen=True)
class TimeGrid:
    """Clips of equal length, one after the other from the start of the video.

    Args:
        clip_length: Seconds per clip.
        num_clips: Number of clips, i.e. rows of the features.

    Raises:
        ValueError: for a clip length that is not positive, or a negative number of clips.
    """

    clip_length: float
    num_clips: int

    def __post_init__(self):
        if not self.clip_length > 0 or self.num_clips < 0:
            raise ValueError(f"a time grid cannot have {self.num_clips} clips of {self.clip_length} s")

    @classmethod
    def of_video(cls, duration: float, clip_length: float) -> TimeGrid:
        """Return the grid that covers a video of `duration` seconds; its last clip may end after the video."""
        return cls(clip_length, max(1, ceil(duration / clip_length - 1e-6)))

    @property
    def duration(self) -> float:
        """Seconds that the clips cover."""
        return self.num_clips * self.clip_length

    def fits(self, duration: float) -> bool:
        """Return whether the clips cover a video of `duration` seconds, within the tolerance for extractors and containers."""
        return abs(self.duration - duration) <= max(
            EXTRACTOR_SLACK_CLIPS * self.clip_length, DURATION_SLACK * duration
        )

    def misses(self, window: Sequence[float]) -> bool:
        """Return whether no clip overlaps the window `[start, end]` (seconds)."""
        return window[0] >= self.duration - 1e-6 * self.clip_length

    def resample(self, values: Sequence[float] | np.ndarray, target: TimeGrid) -> np.ndarray:
        """Resample one number per clip to another grid.

        Args:
            values: `(num_clips,)`, constant over each clip.
            target: The other grid.

        Returns:
            `(target.num_clips,)` float64: the mean over the part of each target clip that this grid covers; 0 if it covers none of it.

        Raises:
            ValueError: if the number of values is not the number of clips.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.shape != (self.num_clips,):
            raise ValueError(
                f"expected one value for each of the {self.num_clips} clips, got an array of shape {values.shape}"
            )
        if target.clip_length == self.clip_length:  # Nothing to average: keep the values bit by bit.
            kept = values[: target.num_clips]
            return np.concatenate([kept, np.zeros(target.num_clips - len(kept))])
        edges = np.arange(self.num_clips + 1) * self.clip_length
        new_edges = (np.arange(target.num_clips + 1) * target.clip_length).clip(max=self.duration)
        integral = np.interp(new_edges, edges, np.concatenate([[0.0], np.cumsum(values * self.clip_length)]))
        covered = np.diff(new_edges)
        is_covered = covered > 1e-6 * target.clip_length
        return np.where(is_covered, np.diff(integral) / np.where(is_covered, covered, 1.0), 0.0)


@dataclass
class GridReport:
    """How well the features of a store fit the annotations.

    Args:
        clip_length: Seconds per clip that the comparison assumes.
        videos, windows: Numbers of videos, and of windows that are not outside their video.
        missing: Videos without features.
        differing: Videos whose clips do not cover their duration: `(vid, number of clips, duration in seconds)`.
        lost: Windows that no clip overlaps: `(qid, window)`.
    """

    clip_length: float
    videos: int = 0
    windows: int = 0
    missing: list[str] = field(default_factory=list)
    differing: list[tuple[str, int, float]] = field(default_factory=list)
    lost: list[tuple[str, list[float]]] = field(default_factory=list)

    def problems(self) -> list[tuple[float, str]]:
        """Return the mismatches: the share of the annotations that is affected, and a sentence that describes it."""
        found = []
        if self.missing:
            names = _first(self.missing)
            found.append((1.0, f"{len(self.missing):,} of {self.videos:,} videos have no features ({names})"))
        if self.differing:
            examples = _first(
                f"{vid}: {clips} clips x {self.clip_length:g} s = {clips * self.clip_length:g} s, but the video is {duration:g} s long"
                for vid, clips, duration in self.differing
            )
            share = len(self.differing) / self.videos
            seconds = float(np.median([duration / clips for _, clips, duration in self.differing]))
            hint = f". Their clips seem to be {seconds:.3g} s long" if share > TOLERATED_SHARE else ""
            found.append(
                (
                    share,
                    f"the clips of {len(self.differing):,} of {self.videos:,} videos do not cover their durations ({examples}){hint}",
                )
            )
        if self.lost:
            examples = _first(f"qid {qid}: {start:g}-{end:g} s" for qid, (start, end) in self.lost)
            found.append(
                (
                    len(self.lost) / self.windows,
                    f"no clip covers {len(self.lost):,} of {self.windows:,} windows ({examples})",
                )
            )
        return found


def compare_with_annotations(
    store: FeatureStore, rows: Iterable[Mapping], clip_length: float, max_clips: int | None = None
) -> GridReport:
    """Compare the number of clips of each video with its duration and its windows.

    Args:
        store: The features. Only their lengths are read, if the format allows that.
        rows: Annotations with `qid`, `vid`, `duration` and `relevant_windows` (seconds).
        clip_length: Seconds per clip.
        max_clips: Number of clips after which the model truncates a video.

    Raises:
        ValueError: for features that cannot be read.
    """
    report, grids = GridReport(clip_length), {}
    for row in rows:
        vid, duration = row["vid"], row["duration"]
        if vid not in grids:
            report.videos += 1
            grids[vid] = TimeGrid(clip_length, store.num_rows(vid)) if vid in store else None
            if grids[vid] is None:
                report.missing.append(vid)
            elif duration is not None and not grids[vid].fits(duration):
                report.differing.append((vid, grids[vid].num_clips, duration))
        grid = grids[vid]
        if grid is None or duration is None:
            continue
        seen = TimeGrid(clip_length, min(grid.num_clips, max_clips or grid.num_clips))
        for start, end in row["relevant_windows"]:
            if end > start and end > 0 and start < duration:
                report.windows += 1
                if seen.misses((start, end)):
                    report.lost.append((row["qid"], [start, end]))
    return report


def require_matching_grids(
    store: FeatureStore, splits: Mapping[str, Iterable[Mapping]], clip_length: float, max_clips: int | None = None
) -> None:
    """Raise an error if features do not fit the annotations of a split; only log a warning for up to 5 % of its videos or windows.

    Args:
        store, clip_length, max_clips: See [`compare_with_annotations`].
        splits: Split name -> its rows.

    Raises:
        ValueError: if a video has no features, or more than 5 % of the videos or windows of a split do not fit.
    """
    for name, rows in splits.items():
        if hasattr(rows, "select_columns"):  # Iterating over a dataset would decode all columns.
            rows = rows.select_columns(["qid", "vid", "duration", "relevant_windows"])
        for share, problem in compare_with_annotations(store, rows, clip_length, max_clips).problems():
            message = f"{name}, {store.spec}: {problem}"
            if share > TOLERATED_SHARE:
                raise ValueError(
                    f"{message}. Check --clip_length and --video_features with `shine-hf features check --dataset …`"
                )
            logger.warning(message)


def _first(examples: Iterable[str], shown: int = 3) -> str:
    examples = list(examples)
    return "; ".join(examples[:shown]) + (f"; and {len(examples) - shown:,} more" if len(examples) > shown else "")
