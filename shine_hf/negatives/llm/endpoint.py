"""How an OpenAI-compatible endpoint is reached, what it supports, and what its errors mean."""

from __future__ import annotations

import contextlib
import email.utils
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

MAX_BACKOFF_SECONDS = 30.0
# A longer wait is a quota that comes back tomorrow, not a busy moment: better to stop and say so.
MAX_RETRY_AFTER_SECONDS = 600.0


class EndpointError(ConnectionError):
    """The endpoint cannot go on for any request (wrong key, unknown model, no quota, not reachable)."""


@dataclass(frozen=True)
class Failure:
    """What became of a request that brought no answer.

    `kind`: `retry` (try this request again), `busy` (a rate limit: try again, more slowly), `unfit` (the endpoint refuses
    this request), `stop` (it will refuse every request). `maybe_charged`: the request was sent and its reply was lost.
    """

    kind: Literal["retry", "busy", "unfit", "stop"]
    message: str
    wait_seconds: float | None = None
    maybe_charged: bool = False


@dataclass(frozen=True)
class Features:
    """Which optional fields of a chat completion the endpoint takes; learnt from its errors."""

    response_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    seed: bool = True
    temperature: bool = True
    token_limit: str | None = "max_tokens"

    def after(self, message: str) -> Features:
        """The features left after an error 400 or 422; the same object if the message names none of the fields."""
        message = message.lower()
        if self.response_format != "text" and any(w in message for w in ("response_format", "schema", "json_object")):
            return replace(self, response_format="json_object" if self.response_format == "json_schema" else "text")
        if self.seed and "seed" in message:
            return replace(self, seed=False)
        if self.temperature and "temperature" in message:
            return replace(self, temperature=False)
        if self.token_limit is not None and self.token_limit in message:
            return replace(self, token_limit="max_completion_tokens" if self.token_limit == "max_tokens" else None)
        return self


class Endpoint:
    """An OpenAI-compatible endpoint: `https://api.openai.com/v1`, vLLM, Ollama, Gemini's compatible one, …

    Args:
        base_url: up to and including `/v1`; by default `OPENAI_BASE_URL` or OpenAI's own.
        api_key: by default `OPENAI_API_KEY`. Local servers need none. It is never printed or stored.
        timeout_seconds: for one request, from sending it to the end of the answer.

    Raises:
        ImportError: the `negatives` extra is not installed.
        ValueError: OpenAI's own endpoint without a key, or a timeout that is not positive.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, *, timeout_seconds: float = 60.0
    ) -> None:
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise ImportError('language models need the openai client: pip install "shine-hf[negatives]"') from error
        if not timeout_seconds > 0:
            raise ValueError(f"the timeout must be positive, not {timeout_seconds} seconds")
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY")
        if not self._api_key and "api.openai.com" in self.base_url:
            raise ValueError("no API key: set OPENAI_API_KEY, or give the base URL of another endpoint")
        self.timeout_seconds = timeout_seconds
        self.features = Features()

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"

    def client(self) -> openai.OpenAI:
        """A client that waits. It never retries by itself: what a retry does must be known and counted."""
        import openai

        return openai.OpenAI(**self._client_options())

    def async_client(self, connections: int) -> openai.AsyncOpenAI:
        """A client for the running event loop, with so many connections; without retries of its own as well."""
        import httpx2
        import openai

        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        transport = openai.DefaultAsyncHttpxClient(limits=limits, timeout=self.timeout_seconds)
        return openai.AsyncOpenAI(http_client=transport, **self._client_options())

    def _client_options(self) -> dict[str, Any]:
        # The client insists on some key; local servers ignore it.
        key = self._api_key or "none"
        return {"api_key": key, "base_url": self.base_url, "max_retries": 0, "timeout": self.timeout_seconds}

    def learn(self, sent: Features, message: str, *, nothing_accepted_yet: bool) -> bool:
        """Leave out the optional field that the endpoint refused with this message. True if sending again may help.

        `sent` are the features of the refused request: with many on their way, only the first refusal of a field counts.
        A message that names no field is put down to the response format as long as nothing was accepted with it.
        """
        if sent == self.features:
            self.features = sent.after(message)
            if sent == self.features and nothing_accepted_yet:
                self.features = replace(sent, response_format="text")
        return sent != self.features

    def scrub(self, text: str) -> str:
        """The text without the API key, should the endpoint have echoed it."""
        return text.replace(self._api_key, "***") if self._api_key else text

    def explain(self, error: Exception) -> Failure:
        """What an exception of the client means for the request, and for the run."""
        import httpx2
        import openai

        if isinstance(error, (openai.APITimeoutError, TimeoutError)):
            return Failure("retry", f"no answer within {self.timeout_seconds:g} s", maybe_charged=True)
        if isinstance(error, openai.APIStatusError):
            return self._explain_status(error)
        if isinstance(error, (openai.APIConnectionError, httpx2.TransportError)):
            cause = error.__cause__ or error
            sent = not isinstance(cause, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout))
            reason = self.scrub(f"{type(cause).__name__} {cause}".strip())
            return Failure("retry", f"connection failed: {reason}", maybe_charged=sent)
        raise error

    def _explain_status(self, error: openai.APIStatusError) -> Failure:
        body = error.body if isinstance(error.body, dict) else {}
        detail = body.get("message") or error.response.text[:300] or error.response.reason_phrase
        message = self.scrub(f"{error.status_code}: {detail}")
        if body.get("param"):
            message += f" (parameter {body['param']})"
        wait = retry_after_seconds(error.response.headers)
        if wait is not None and wait > MAX_RETRY_AFTER_SECONDS:
            return Failure("stop", f"{message} (asks to wait {wait:.0f} s)")
        if error.status_code == 429:
            no_quota = "insufficient_quota" in (body.get("code"), body.get("type"))
            return Failure("stop" if no_quota else "busy", message, wait)
        if error.status_code in (408, 409) or error.status_code >= 500:
            return Failure("retry", message, wait)
        if error.status_code in (401, 403, 404):
            return Failure("stop", message)
        return Failure("unfit", message)

    def call(self, operation: Callable[[], T], *, max_retries: int = 8) -> T:
        """Do an operation that costs nothing (files, batch status), again after errors that pass.

        Raises:
            EndpointError: it failed for good.
        """
        tries = 0
        while True:
            try:
                return operation()
            except Exception as error:
                failure = self.explain(error)
            tries += 1
            if failure.kind in ("unfit", "stop") or tries > max_retries:
                raise EndpointError(f"{self.base_url} answered {failure.message}")
            time.sleep(backoff_seconds(tries, failure.wait_seconds))


def backoff_seconds(tries: int, retry_after_seconds: float | None = None) -> float:
    """How long to wait after `tries` failures: exponential with jitter, and never less than the endpoint asked for."""
    backoff = min(MAX_BACKOFF_SECONDS, 0.25 * 2**tries) * random.uniform(0.5, 1.0)
    if retry_after_seconds is None:
        return backoff
    # A little over what was asked for, so that those who were sent away together do not come back together.
    return retry_after_seconds * random.uniform(1.0, 1.1) + random.uniform(0.0, 0.05)


def retry_after_seconds(headers: Any) -> float | None:
    """The wait that `Retry-After` (seconds or an HTTP date) or `retry-after-ms` asks for; None if there is none."""
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, float(headers.get("retry-after-ms")) / 1000)
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def api_parameters(features: Features, *, schema: dict, seed: int | None, temperature: float | None, max_tokens: int):
    """The optional fields of a chat completion that the endpoint takes."""
    fields: dict[str, Any] = {}
    if features.response_format == "json_schema":
        fields["response_format"] = schema
    elif features.response_format == "json_object":
        fields["response_format"] = {"type": "json_object"}
    if features.seed and seed is not None:
        fields["seed"] = seed
    if features.temperature and temperature is not None:
        fields["temperature"] = temperature
    if features.token_limit is not None:
        fields[features.token_limit] = max_tokens
    return fields
