"""Retry requests to the Hub that failed, and explain those that keep failing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from ..io import retry

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)
T = TypeVar("T")
ATTEMPTS = 6
# A conflict (409) or a failed precondition (412) means that somebody else was faster. The others are temporary, as are errors of a server or
# a proxy (500 and above).
_TRANSIENT_STATUSES = frozenset({408, 409, 412, 429})


class Attempts:
    """Retry actions that the Hub failed to perform."""

    def __init__(self, api: HfApi, repo_id: str):
        self.api, self.repo_id = api, repo_id

    def until_done(self, action: Callable[[], T]) -> T:
        """Run an action until it succeeds, and return its result.

        Raises:
            PermissionError: if the Hub rejects the token. ConnectionError: if the action keeps failing.
        """
        try:
            return retry(
                action,
                _is_transient,
                attempts=ATTEMPTS,
                headers_of=lambda error: getattr(_cause(error)[1], "headers", None),
                on_pause=self._log,
                sleep=lambda seconds: time.sleep(seconds),
            )
        except Exception as error:
            status, _, _ = _cause(error)
            if status in (401, 403):
                raise PermissionError(
                    f"{self.api.endpoint} refused to write to {self.repo_id} (status {status}): the token is wrong, expired, or has no "
                    "write access there. Run `hf auth login`, or set HF_TOKEN to another token"
                ) from error
            if not _is_transient(error):
                raise
            raise ConnectionError(
                f"publishing to {self.repo_id} at {self.api.endpoint} failed {ATTEMPTS} times, most recently with {_reason(error)}; "
                "the previous revision is unchanged"
            ) from error

    def _log(self, error: Exception, seconds: float) -> None:
        logger.warning("%s: %s; trying again in %.0f s", self.repo_id, _reason(error), seconds)


def _is_transient(error: Exception) -> bool:
    status, _, is_network = _cause(error)
    return is_network or status in _TRANSIENT_STATUSES or (status or 0) >= 500


def _reason(error: Exception) -> str:
    status = _cause(error)[0]
    return f"status {status}" if status else "a broken connection"


def _cause(error: BaseException | None) -> tuple[int | None, object, bool]:
    """Return the status and response of the HTTP error behind an error, and whether the network failed. Upload errors are wrapped."""
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    for cause in _chain(error):
        response = getattr(cause, "response", None)
        if response is not None:
            return response.status_code, response, False
        # Uploads through Xet raise Python's own errors. Deliberate offline mode does not count as a failure of the network.
        if isinstance(cause, (httpx2.TransportError, ConnectionError, TimeoutError)):
            return None, None, not isinstance(cause, OfflineModeIsEnabled)
    return None, None, False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
