"""Turn the time stamps of a file into times that only move forward.

Recorders give single frames time stamps that are hours off, joined recordings set the clock back, and AVI files have time stamps in decoding
order. A jump of the clock is only accepted if it persists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# A jump is accepted if at least this many frames on both sides of it are consistent.
SEVERAL = 5
# Gaps shorter than the first are always accepted, e.g. before the last frame of a slide show. Gaps longer than the second never are, since no
# video shows the same frame for an hour.
SHORT_GAP_SECONDS = 10.0
LONGEST_GAP_SECONDS = 3600.0


@dataclass
class Frame:
    """A frame: its time stamp and duration in seconds, if known, and the picture."""

    stamp: float | None
    length: float | None
    picture: Any = None


@dataclass
class Clock:
    """The times of a video's frames, counted from the first.

    Args:
        interval: Usual seconds from frame to frame.
    """

    interval: float
    ignored_jumps: list[tuple[float, float]] = field(default_factory=list)
    """Time and size in seconds of the jumps that were not accepted."""
    _begin: float | None = None
    _stamp: float | None = None
    _agreeing: int = 0

    @property
    def jump(self) -> float:
        """Steps of the clock longer than this (seconds) are suspicious."""
        return max(1.0, 8 * self.interval)

    def run(self, frames: Iterable[Frame], opening: float = 0.0) -> Iterator[tuple[float, float, Any]]:
        """Yield `(begin, end, picture)` of each frame, in seconds. `end` is an estimate from the frame's own duration.

        Args:
            frames: Frames in presentation order. A few are read ahead to see whether a jump persists.
            opening: Seconds before the first frame, if the beginning of the file is damaged.
        """
        ahead: deque[Frame] = deque()
        frames = iter(frames)
        while True:
            while len(ahead) < SEVERAL and (frame := next(frames, None)) is not None:
                ahead.append(frame)
            if not ahead:
                return
            frame = ahead.popleft()
            begin = self._time(frame.stamp, [later.stamp for later in ahead if later.stamp is not None], opening)
            if begin is not None:
                # Before a jump, the duration of the frame may be wrong too.
                length = min(frame.length or self.interval, max(SHORT_GAP_SECONDS, self.interval))
                self._begin = begin
                yield begin, begin + length, frame.picture

    def _time(self, stamp: float | None, following: Sequence[float], opening: float) -> float | None:
        """Return the time of the next frame; None for a late frame, which players do not show either."""
        if self._begin is None:
            self._stamp, self._agreeing = stamp, 1
            return opening
        expected = self._begin + self.interval
        if stamp is None or self._stamp is None:
            self._stamp = stamp if self._stamp is None else self._stamp + self.interval
            return expected
        step = stamp - self._stamp
        if step < 0:
            return self._time_after_set_back(stamp, following, expected)
        if overtaken := [later for later in following if self._stamp <= later < stamp]:
            # The clock returns, so the time stamp of this frame is wrong.
            self._ignore(step, expected)
            self._stamp = min(self._stamp + self.interval, *overtaken)
            return expected
        if step <= self.jump:
            self._stamp, self._agreeing = stamp, self._agreeing + 1
            return self._begin + step
        persists = len(following) == SEVERAL - 1 and self._agreeing >= SEVERAL
        counts = step <= max(LONGEST_GAP_SECONDS, self.jump) if persists else step <= SHORT_GAP_SECONDS
        if not counts:
            self._ignore(step, expected)
        begin = self._begin + step if counts else expected
        self._stamp, self._agreeing = stamp, 1
        return begin

    def _time_after_set_back(self, stamp: float, following: Sequence[float], expected: float) -> float | None:
        step = stamp - self._stamp
        is_small = step >= -self.jump
        reach = self.jump + SEVERAL * self.interval
        if any(0 <= later - self._stamp <= reach for later in following):
            if is_small:
                return None
            self._ignore(step, expected)
            self._stamp += self.interval
            return expected
        if is_small and len(following) < SEVERAL - 1:
            return None
        # Joined recordings: the clock was set back, but the video continues.
        self._stamp, self._agreeing = stamp, 1
        return expected

    def _ignore(self, step: float, time: float) -> None:
        if abs(step) > self.jump:
            self.ignored_jumps.append((time, step))


class BestEffort:
    """Choose between the presentation and the decoding time stamp of each frame, as `guess_correct_pts` of FFmpeg's libavcodec does.

    The kind that has gone backward less often so far is trusted. AVI files have no presentation time stamps, so theirs are wrong.
    """

    def __init__(self):
        self.last_pts = self.last_dts = float("-inf")
        self.faulty_pts = self.faulty_dts = 0

    def __call__(self, pts: int | None, dts: int | None) -> int | None:
        """Return the time stamp of the next frame in presentation order."""
        if dts is not None:
            self.faulty_dts += dts <= self.last_dts
            self.last_dts = dts
        elif pts is not None:
            self.last_dts = pts
        if pts is not None:
            self.faulty_pts += pts <= self.last_pts
            self.last_pts = pts
        elif dts is not None:
            self.last_pts = dts
        return pts if pts is not None and (dts is None or self.faulty_pts <= self.faulty_dts) else dts


def usual_interval(stamps: Sequence[float], otherwise: float) -> float:
    """Return the 90th percentile of the seconds between frames.

    Args:
        stamps: Time stamps of the frames, in any order.
        otherwise: The result for fewer than two different time stamps.
    """
    steps = np.diff(np.unique(np.asarray(stamps, dtype=float)))
    return float(np.percentile(steps, 90, method="lower")) if len(steps) else otherwise
