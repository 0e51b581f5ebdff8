"""Finding the request rate that an endpoint allows, without being told."""

from __future__ import annotations

import time
from collections import deque


class Pacer:
    """Spaces requests out once the endpoint turns many of them away.

    Unlimited at first. A few times a second the share of refusals (429) is looked at. Above `TOLERATED_SHARE` the
    endpoint is at its limit: requests then start at little more than the best rate at which it lately accepted them (the
    best, for a moment in which this process was busy says nothing of the endpoint). Below, a limited rate goes up again,
    fast only while nothing is refused, so a limit that was lifted is found out. A few refusals at random change nothing,
    and where nothing at all was accepted everybody waits as long as the endpoint asked.
    """

    # A look needs some responses to tell a limit from chance, but a slow endpoint must not wait long for it.
    WINDOW_SECONDS = 0.3
    WINDOW_RESPONSES = 20
    LONGEST_WINDOW_SECONDS = 3.0
    TOLERATED_SHARE = 0.25
    HEADROOM = 1.1
    RECOVERY = 1.5
    CREEP = 1.02

    def __init__(self) -> None:
        self.rate: float | None = None  # requests per second
        self._next_turn = 0.0
        self._closed_until = 0.0
        self._recent_rates: deque[float] = deque(maxlen=8)
        self._begin_window(time.monotonic())

    def _begin_window(self, now: float) -> None:
        self._window_start = now
        self._accepted = self._refused = 0
        self._asked_wait = 0.0

    def reserve_turn(self) -> float:
        """Take the next turn; returns in how many seconds it comes."""
        now = time.monotonic()
        if now < self._closed_until:
            return self._closed_until - now
        if self.rate is None:
            return 0.0
        turn = max(self._next_turn, now)
        self._next_turn = turn + 1 / self.rate
        return turn - now

    def accepted(self) -> None:
        self._accepted += 1
        self._look()

    def refused(self, retry_after_seconds: float | None) -> None:
        self._refused += 1
        self._asked_wait = max(self._asked_wait, retry_after_seconds or 0.0)
        self._look()

    def _look(self) -> None:
        now = time.monotonic()
        elapsed = now - self._window_start
        few = self._accepted + self._refused < self.WINDOW_RESPONSES
        if elapsed < (self.LONGEST_WINDOW_SECONDS if few else self.WINDOW_SECONDS):
            return
        self._recent_rates.append(self._accepted / elapsed)
        accepted_rate = max(self._recent_rates)
        if not self._accepted:
            self._closed_until = now + self._asked_wait
            self.rate = None
        elif self._refused > self.TOLERATED_SHARE * (self._accepted + self._refused):
            self.rate = accepted_rate * self.HEADROOM
        elif self.rate is not None:
            self.rate *= self.CREEP if self._refused else self.RECOVERY
            if self.rate > 4 * accepted_rate:
                self.rate = None  # something else holds the rate back, not this
        self._begin_window(now)
