"""Connect to an OpenAI-compatible endpoint, interpret its errors, and limit the cost of a run."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

from shine_hf.io import LONGEST_PAUSE_SECONDS, retry_after_seconds

from .answers import json_object, read_facts

try:
    import openai
except ImportError as error:
    raise ImportError('language models need the openai client: pip install "shine-hf[negatives]"') from error

# Retries by the client itself, after pauses of up to 8 s, or as long as `Retry-After` requests, up to LONGEST_PAUSE_SECONDS.
MAX_RETRIES = 8
# End a run after this many answers if none is usable, or after this many refusals (or this share of all requests) in a row.
MAX_USELESS_ANSWERS = 50
MAX_REFUSALS, MAX_REFUSED_SHARE = 10, 0.05
HOPELESS = (401, 402, 404)  # Every request would get this status.
REFUSED = (400, 403, 413, 422, 451)  # Only this request gets the status, e.g. because of its content.


class EndpointError(ConnectionError):
    """No request to the endpoint can succeed, e.g. because of a wrong key, an unknown model, or no quota."""


class BudgetReached(openai.OpenAIError):
    """A request was not sent because it would exceed a limit of the run.

    It is an `OpenAIError`, since the client raises those without a retry.
    """


@dataclass
class Budget:
    """The limits and the cost of a run. Every request that is sent counts, including retries.

    Args:
        price: US dollars per million input and output tokens.
        max_requests, max_cost_usd: Limits. Requests without a response, pending or lost, count with their maximum cost.

    Raises:
        ValueError: if a number is negative, or `max_cost_usd` is given without a price.
    """

    price: tuple[float, float] | None = None
    max_requests: int | None = None
    max_cost_usd: float | None = None
    requests: int = 0
    from_cache: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reserved_usd: float = 0.0

    def __post_init__(self) -> None:
        if any(not number >= 0 for number in (self.max_requests or 0, self.max_cost_usd or 0, *(self.price or ()))):
            raise ValueError("limits and prices must be 0 or more")
        if self.max_cost_usd is not None and self.price is None:
            raise ValueError(
                "a limit on the cost needs --input-price and --output-price (US dollars per million tokens)"
            )

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the cost of tokens; 0 if the price is unknown."""
        input_price, output_price = self.price or (0.0, 0.0)
        return (prompt_tokens * input_price + completion_tokens * output_price) / 1e6

    def admit(self, body: dict[str, Any]) -> None:
        """Reserve one request.

        Raises:
            BudgetReached: if it would exceed a limit.
        """
        usd = self.usd(*tokens_at_most(body))
        if self.max_requests is not None and self.requests >= self.max_requests:
            raise BudgetReached(f"budget: max_requests {self.max_requests} reached")
        if self.max_cost_usd is not None and self.cost_at_most + usd > self.max_cost_usd:
            raise BudgetReached(
                f"budget: max_cost ${self.max_cost_usd:g} reached (${self.cost_at_most:.4f} spent or reserved)"
            )
        self.requests += 1
        self.reserved_usd += usd

    def settle(self, body: dict[str, Any], raw: str | None) -> None:
        """Replace the reservation of a request with its actual tokens: those in the response, else an estimate; none if `raw` is None."""
        # At least 0, since a batch may have been submitted by an earlier run.
        self.reserved_usd = max(0.0, self.reserved_usd - self.usd(*tokens_at_most(body)))
        if raw is not None:
            facts, is_known = read_facts(raw), json_object(raw).get("usage")
            self.prompt_tokens += facts["prompt_tokens"] if is_known else tokens_at_most(body)[0]
            self.completion_tokens += facts["completion_tokens"] if is_known else len(raw) // 4

    @property
    def cost_at_most(self) -> float:
        """Upper bound of the cost in US dollars, including pending and lost responses; 0 if the price is unknown."""
        return self.usd(self.prompt_tokens, self.completion_tokens) + self.reserved_usd

    def __str__(self) -> str:
        cost = f"${self.cost_at_most:.4f}" if self.price else f"{self.prompt_tokens + self.completion_tokens:,} tokens"
        return f"{self.requests:,} requests, {self.from_cache:,} from cache, {cost}"


def tokens_at_most(body: dict[str, Any]) -> tuple[int, int]:
    """Return the estimated number of prompt tokens, at four characters each, and the limit on completion tokens."""
    prompt = sum(len(message["content"]) // 4 + 4 for message in body["messages"])
    return prompt, body.get("max_tokens") or body.get("max_completion_tokens") or 0


class Endpoint:
    """An OpenAI-compatible endpoint: OpenAI itself, vLLM, Ollama, OpenRouter, Gemini's compatible endpoint, …

    It learns which optional fields the endpoint rejects, and detects runs that cannot succeed.

    Args:
        base_url: Up to and including `/v1`; by default `OPENAI_BASE_URL`, or OpenAI itself.
        api_key: By default `OPENAI_API_KEY`. Local servers need none. It is never printed or stored.
        timeout_seconds: How long to wait for a response.

    Raises:
        ValueError: for OpenAI itself without a key, or a timeout that is not positive.
    """

    def __init__(self, base_url: str | None, api_key: str | None, timeout_seconds: float) -> None:
        if not timeout_seconds > 0:
            raise ValueError(f"the timeout must be positive, not {timeout_seconds} seconds")
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY")
        if not self._api_key and "api.openai.com" in self.base_url:
            raise ValueError("no API key: set OPENAI_API_KEY, or pass the --base-url of another endpoint")
        self.timeout_seconds = timeout_seconds
        self._unsupported: set[str] = set()
        self.outcomes: Counter[str] = Counter()
        self.cuts_most = False  # Whether most answers exceed the token limit, as with models that think first.
        self._refusals: list[object] = []  # The reasons of the last refusals in a row.

    def client_options(self) -> dict[str, Any]:
        """Return the arguments of the openai client. It requires a key, which local servers ignore."""
        key = self._api_key or "none"
        return {"api_key": key, "base_url": self.base_url, "max_retries": MAX_RETRIES, "timeout": self.timeout_seconds}

    def supported(self, response_format: dict, max_tokens: int, **fields: Any) -> dict[str, Any]:
        """Return the optional fields of a chat completion that the endpoint supports, in a form that it supports."""
        formats = [
            form for form in (response_format, {"type": "json_object"}) if form["type"] not in self._unsupported
        ]
        limits = [name for name in ("max_tokens", "max_completion_tokens") if name not in self._unsupported]
        fields |= dict(zip(["response_format"], formats)) | dict(zip(limits[:1], [max_tokens]))
        return {name: value for name, value in fields.items() if value is not None and name not in self._unsupported}

    def learn(self, body: dict[str, Any], message: str) -> bool:
        """From now on, leave out the field that an error message names. Return whether sending the request again may help.

        If the message names no field and no request has been accepted yet, the response format is left out.
        """
        for name in ("response_format", "seed", "temperature", "max_tokens", "max_completion_tokens"):
            words = ("response_format", "schema", "json_object") if name == "response_format" else (name,)
            if name in body and any(word in message.lower() for word in words):
                self._unsupported.add(body[name]["type"] if name == "response_format" else name)
                return True
        if self.outcomes or "response_format" not in body:
            return False
        self._unsupported |= {"json_schema", "json_object"}
        return True

    def scrub(self, text: str) -> str:
        """Remove the API key from a text, in case the endpoint echoed it."""
        return text.replace(self._api_key, "***") if self._api_key else text

    def explain(self, error: openai.OpenAIError) -> str:
        """Return the message of an error that concerns a single request.

        Raises:
            EndpointError: if the error concerns all requests.
        """
        if not isinstance(error, openai.APIStatusError):
            return self.scrub(f"{error} {error.__cause__ or ''}".strip())
        body = error.body if isinstance(error.body, dict) else {}
        message = f"{error.status_code}: {body.get('message') or error.response.text[:300]} {body.get('param') or ''}"
        wait = retry_after_seconds(error.response.headers) or 0
        if wait > LONGEST_PAUSE_SECONDS:
            message += f"(asks to wait {wait:.0f} s)"
        if wait > LONGEST_PAUSE_SECONDS or error.status_code in HOPELESS or is_out_of_quota(body):
            raise EndpointError(f"{self.base_url} answered {self.scrub(message).strip()}")
        return self.scrub(message).strip()

    def count(self, outcome: str, detail: object, total: int) -> None:
        """Count the outcome of one of `total` requests: `useful`, `useless`, `cut` (to be repeated with a higher limit) or `refused`.

        Raises:
            EndpointError: if none of the first answers is usable, or the endpoint refuses everything.
        """
        self.outcomes[outcome] += 1
        if outcome == "cut":
            self.cuts_most |= self.outcomes["cut"] >= 3 and 2 * self.outcomes["cut"] >= self.outcomes.total()
        self._refusals = [*self._refusals, detail] if outcome == "refused" else []
        if len(self._refusals) >= max(MAX_REFUSALS, MAX_REFUSED_SHARE * total):
            self._stop_for_refusals(f"the last {len(self._refusals)}")
        if outcome == "useless" and not self.outcomes["useful"] and self.outcomes["useless"] >= MAX_USELESS_ANSWERS:
            raise EndpointError(
                f"none of the first {self.outcomes['useless']} answers of {self.base_url} is usable, e.g. {detail}. Change the model, "
                "--max-tokens (if answers are truncated), --temperature, or --base-url (if this is not a completion; it usually ends in /v1)"
            )

    def check_refusals(self) -> None:
        """Raise an error if requests were sent and all of them were refused.

        Raises:
            EndpointError: with the first reason.
        """
        if self._refusals and set(self.outcomes) == {"refused"}:
            self._stop_for_refusals(f"all {len(self._refusals)}")

    def _stop_for_refusals(self, which: str) -> NoReturn:
        raise EndpointError(
            f"{self.base_url} refused {which} requests: {self._refusals[0]}. Check that the API key may use this model, or change --model "
            "or --base-url"
        )


def may_pass(error: Exception) -> bool:
    """Return whether an error of the client may be transient."""
    status = getattr(error, "status_code", 500)
    return isinstance(error, openai.APIError) and (status >= 500 or status in (408, 409, 429))


def is_out_of_quota(error: object) -> bool:
    """Return whether an error means that the account has no credit left, so waiting does not help."""
    return isinstance(error, dict) and "insufficient_quota" in (error.get("code"), error.get("type"))
