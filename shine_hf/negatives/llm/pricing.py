"""What language models cost, and a budget that is kept even while many requests are on their way."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input_usd: float
    output_usd: float

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.input_usd + completion_tokens * self.output_usd) / 1e6

    def scaled(self, factor: float) -> Price:
        return Price(self.input_usd * factor, self.output_usd * factor)


# OpenAI's list prices as reported by public price lists of 2026 (they change: pass your own where it matters).
LIST_PRICES: dict[str, Price] = {
    "gpt-3.5-turbo": Price(0.50, 1.50),
    "gpt-4o": Price(2.50, 10.00),
    "gpt-4o-mini": Price(0.15, 0.60),
    "gpt-4.1": Price(2.00, 8.00),
    "gpt-4.1-mini": Price(0.40, 1.60),
    "gpt-4.1-nano": Price(0.10, 0.40),
    "gpt-5": Price(1.25, 10.00),
    "gpt-5-mini": Price(0.25, 2.00),
    "gpt-5-nano": Price(0.05, 0.40),
}
BATCH_DISCOUNT = 0.5


def load_prices(path: str | Path) -> dict[str, Price]:
    """Prices from a JSON file `{"model": [input, output], ...}`, US dollars per million tokens.

    Raises:
        ValueError: the file is not of this form; the message names the file and the model.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(table, dict):
        raise ValueError(f'{path} must hold {{"model": [input, output], ...}} in US dollars per million tokens')
    prices = {}
    for model, pair in table.items():
        numbers = isinstance(pair, list) and len(pair) == 2 and all(type(p) in (int, float) and p >= 0 for p in pair)
        if not numbers or not all(map(math.isfinite, pair)):
            raise ValueError(f"{path}: the price of {model!r} must be [input, output], two numbers >= 0, not {pair!r}")
        prices[model] = Price(*map(float, pair))
    return prices


def price_of(model: str, prices: Mapping[str, Price] | None = None) -> Price | None:
    """The price of a model, or None if it is not known.

    `prices` comes before the list prices. A dated version (`gpt-4o-mini-2024-07-18`, `gpt-3.5-turbo-0125`) has the price
    of its model.
    """
    table = {**LIST_PRICES, **(prices or {})}
    if model in table:
        return table[model]
    names = [
        name for name in table if model.startswith(name + "-") and model[len(name) + 1 :].replace("-", "").isdigit()
    ]
    return table[max(names, key=len)] if names else None


def estimate_tokens(text: str) -> int:
    """A rough count for English text (four characters a token), for budgets and dry runs; bills come from the usage."""
    return math.ceil(len(text) / 4)


@dataclass(frozen=True)
class Estimate:
    """What a run would take. `cost_usd` is None if the price of the model is not known."""

    requests: int
    from_cache: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None

    def __str__(self) -> str:
        cost = "price unknown" if self.cost_usd is None else f"about ${self.cost_usd:.2f}"
        return (
            f"{self.requests} requests, about {self.prompt_tokens} prompt and {self.completion_tokens} completion tokens, "
            f"{cost}; {self.from_cache} answers are in the cache (answers that fail a check are asked again)"
        )


@dataclass
class Spending:
    """What a run has asked for and been charged so far. `cost_usd` is None while the model's price is unknown."""

    requests: int = 0
    answers: int = 0
    from_cache: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None
    # Requests whose answer was lost on the way (timeout, dropped connection): the endpoint may charge them all the same.
    lost: int = 0
    possibly_charged_usd: float = 0.0

    def __str__(self) -> str:
        if self.cost_usd is None:
            cost = f"{self.prompt_tokens + self.completion_tokens} tokens, price unknown"
        else:
            cost = f"${self.cost_usd + self.possibly_charged_usd:.4f}"
        return f"{self.requests} requests, {self.from_cache} from cache, {cost}"


class Budget:
    """Admits requests as long as neither limit can be passed, counting those on their way at their estimated cost.

    Every request that is sent counts for `max_requests`, also one that fails. Limits hold for one run (one object).

    Raises:
        ValueError: a limit is negative, or `max_cost_usd` is given for a model whose price is unknown.
    """

    def __init__(
        self,
        price: Price | None,
        *,
        max_requests: int | None = None,
        max_cost_usd: float | None = None,
        model: str = "",
    ) -> None:
        for name, limit in (("max_requests", max_requests), ("max_cost", max_cost_usd)):
            if limit is not None and not limit >= 0:
                raise ValueError(f"{name} must be 0 or more, not {limit}")
        if max_cost_usd is not None and price is None:
            raise ValueError(
                f"the price of {model!r} is not known, so max_cost cannot be kept: give its price per million tokens, "
                "or limit the run by max_requests"
            )
        self.price = price
        self.max_requests = max_requests
        self.max_cost_usd = max_cost_usd
        self.spending = Spending(cost_usd=None if price is None else 0.0)
        self._on_the_way_usd = 0.0

    def reserve_usd(self, prompt_tokens: int, max_completion_tokens: int) -> float:
        """What a request may cost at most, as far as the estimate of its prompt goes; 0 while the price is unknown."""
        return 0.0 if self.price is None else self.price.cost_usd(prompt_tokens, max_completion_tokens)

    def admit(self, estimated_usd: float) -> str | None:
        """Reserve one request. Returns None if it may be sent, else which limit stands against it."""
        if self.max_requests is not None and self.spending.requests >= self.max_requests:
            return f"budget: max_requests {self.max_requests} reached"
        if self.max_cost_usd is not None:
            committed = self.spending.cost_usd + self.spending.possibly_charged_usd + self._on_the_way_usd
            if committed + estimated_usd > self.max_cost_usd:
                return f"budget: max_cost ${self.max_cost_usd:g} reached (${committed:.4f} spent or on its way)"
        self.spending.requests += 1
        self._on_the_way_usd += estimated_usd
        return None

    def answered(self, estimated_usd: float, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Book an answer; returns its cost in US dollars, None if the price is unknown."""
        self._on_the_way_usd -= estimated_usd
        self.spending.answers += 1
        self.spending.prompt_tokens += prompt_tokens
        self.spending.completion_tokens += completion_tokens
        if self.price is None:
            return None
        cost = self.price.cost_usd(prompt_tokens, completion_tokens)
        self.spending.cost_usd += cost
        return cost

    def refused(self, estimated_usd: float) -> None:
        """Book a request that the endpoint turned down: nothing is charged for it."""
        self._on_the_way_usd -= estimated_usd

    def lost(self, estimated_usd: float) -> None:
        """Book a request whose answer never came: it may be charged."""
        self._on_the_way_usd -= estimated_usd
        self.spending.lost += 1
        self.spending.possibly_charged_usd += estimated_usd
