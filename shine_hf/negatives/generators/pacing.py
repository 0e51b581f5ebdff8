"""Finding the request rate that an endpoint allows, without being told."""

from __future__ import annotations

import asyncio
import time


class Pacer:
    """Spaces requests out once the endpoint turns many of them away.

    Unlimited at first. Every second the share of refusals (429) is looked at. Above `TOLERATED_SHARE` the endpoint is at
    its limit: requests then start at little more than the rate at which it accepted them. Below, a limited rate creeps
    up again, so a limit that was lifted is found out. A few refusals at random change nothing, and where nothing at
    all was accepted everybody waits as long as the endpoint asked.
    """

    WINDOW_SECONDS = 1.0
    TOLERATED_SHARE = 0.25
    HEADROOM = 1.1

    def __init__(self) -> None:
        self.rate: float | None = None  # requests per second
        self._next_start = 0.0
        self._closed_until = 0.0
        self._begin_window(time.monotonic())

    def _begin_window(self, now: float) -> None:
        self._window_start = now
        self._accepted = self._refused = 0
        self._asked_wait = 0.0

    async def turn(self) -> None:
        """Wait until one more request may start."""
        while (wait := self._closed_until - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        if self.rate is None:
            return
        now = time.monotonic()
        start = max(self._next_start, now)
        self._next_start = start + 1 / self.rate
        if start > now:
            await asyncio.sleep(start - now)

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
        if elapsed < self.WINDOW_SECONDS:
            return
        accepted_rate = self._accepted / elapsed
        if not self._accepted:
            self._closed_until = now + self._asked_wait
            self.rate = None
        elif self._refused > self.TOLERATED_SHARE * (self._accepted + self._refused):
            self.rate = accepted_rate * self.HEADROOM
        elif self.rate is not None:
            self.rate *= self.HEADROOM
            if self.rate > 4 * accepted_rate:
                self.rate = None  # something else holds the rate back, not this
        self._begin_window(now)
