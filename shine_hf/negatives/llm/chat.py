"""Generate hard negatives with any OpenAI-compatible chat endpoint, with many concurrent requests, each paid for only once."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shine_hf.io import pause_seconds
from shine_hf.negatives.generators.base import Fill, FillRequest

from .answers import UnusableAnswer, is_answer, json_object, read_facts, read_words
from .cache import AnswerCache, Row
from .client import REFUSED, Budget, BudgetReached, Endpoint, EndpointError, is_out_of_quota, openai, tokens_at_most
from .prompts import PROMPT_VERSION, Dialogue

GRACE_SECONDS = 20.0  # After a stop, wait this long for pending responses, which may be charged.


@dataclass(kw_only=True)
class LanguageModel:
    """Base class of the generators that use chat completions or batches.

    Args:
        source: Name of the model at the endpoint.
        cache: Path of the cache of answers.
        base_url, api_key, timeout_seconds: See [`Endpoint`].
        temperature, seed, max_tokens: Sampling parameters. An answer that is truncated by `max_tokens` is requested once more with a higher
            limit.
        max_questions: Maximum number of questions per request, if the answers are unusable.
        max_requests, max_cost_usd, price: See [`Budget`]. Requests beyond it get the error `budget: …`.

    Raises:
        ValueError: for an invalid parameter, or a cache that cannot be used.
    """

    source: str = field(kw_only=False)
    cache: AnswerCache | str | Path
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout_seconds: float = 60.0
    temperature: float | None = 0.7
    seed: int | None = 0
    max_tokens: int = 256
    max_questions: int = 5
    max_requests: int | None = None
    max_cost_usd: float | None = None
    price: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not self.source or self.max_tokens < 1 or self.max_questions < 1:
            raise ValueError("a language model needs a name, and max_tokens and max_questions of at least 1")
        options = {"temperature": self.temperature, "seed": self.seed, "max_tokens": self.max_tokens}
        self.parameters: dict[str, Any] = {"model": self.source, **options}
        self.endpoint = Endpoint(self.base_url, self.api_key, self.timeout_seconds)
        self.budget = Budget(self.price, self.max_requests, self.max_cost_usd)
        # Last, so that an invalid argument does not leave a file.
        self.answers = self.cache if isinstance(self.cache, AnswerCache) else AnswerCache(self.cache)

    def cost_so_far(self) -> Budget:
        """Return the requests, tokens and cost so far. Its `str` fits a progress bar."""
        return self.budget

    def dialogue(self, request: FillRequest) -> Dialogue:
        """Return the dialogue about a request."""
        return Dialogue(request, self.parameters, self.max_questions)

    def judge(self, dialogue: Dialogue, raw: str, total: int) -> UnusableAnswer | None:
        """Count one of `total` responses, and return why it is unusable, or None.

        Raises:
            EndpointError: if none of the first answers is usable.
        """
        try:
            read_words(raw, dialogue.request)
        except UnusableAnswer as problem:
            is_cut = problem.kind == "truncated" and not dialogue.grown
            self.endpoint.count("cut" if is_cut else "useless", problem, total)
            return problem
        self.endpoint.count("useful", None, total)
        return None

    def answered(self, question: Row, raw: str) -> Row:
        """Return the row of a question with its answer."""
        facts = read_facts(raw)
        cost = self.budget.usd(facts["prompt_tokens"], facts["completion_tokens"]) if self.budget.price else None
        return {**question, **facts, "raw": raw, "cost_usd": cost, "received_at": time.time()}

    def estimate(self, requests: Sequence[FillRequest]) -> str:
        """Describe the cost of the requests that are not in the cache, if every first answer is usable. Sends nothing."""
        dialogues = [self.dialogue(request) for request in requests]
        unanswered = {each.key: each for each in dialogues if each.replay(self.answers) is None}.values()
        prompt = sum(tokens_at_most(each.body(self.endpoint))[0] for each in unanswered)
        completion = sum(6 + 3 * len(each.request.originals) for each in unanswered)
        cost = f"about ${self.budget.usd(prompt, completion):.2f}" if self.budget.price else "price unknown"
        return (
            f"{len(unanswered):,} requests, about {prompt:,} prompt and {completion:,} completion tokens, {cost}; the other requests are "
            "duplicates or in the cache. Answers that fail a check are requested again"
        )

    def provenance(self) -> dict[str, Any]:
        """Return the parameters, the versions of the model that answered, the first and last day of its answers, and the prices."""
        parameters = json.dumps(self.parameters, sort_keys=True)
        answers = [row for row in self.answers if row["parameters"] == parameters]
        days = {time.strftime("%Y-%m-%d", time.gmtime(row["received_at"])) for row in (answers[:1] + answers[-1:])}
        versions = {row["model_version"] for row in answers if row["model_version"]}
        made = {"model_versions": sorted(versions), "answered_on": sorted(days), "usd_per_million_tokens": self.price}
        return {**self.parameters, "prompt_version": PROMPT_VERSION, **made}


@dataclass(kw_only=True)
class OpenAIChatGenerator(LanguageModel):
    """Fill masked queries through `/chat/completions`, with `concurrency` requests at a time.

    Every answer is committed to the cache before it is used. An unusable answer is cached too, and the request is sent again with the reason
    in the prompt. The openai client retries after transient errors (429, 5xx, timeouts, dropped connections).
    """

    concurrency: int = 64

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {self.concurrency}")
        super().__post_init__()

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        """Yield one `Fill` per request, as answers arrive.

        Requests are sent from a separate thread, so they do not wait for the caller. If the caller stops early, pending answers are awaited
        and stored.

        Raises:
            EndpointError: if no request can succeed. Calling again resumes from the answers in the cache.
        """
        self.answers.lock()
        results: queue.SimpleQueue[Fill | Exception | None] = queue.SimpleQueue()
        run = _Run(self, requests, results.put)
        thread = threading.Thread(target=lambda: asyncio.run(run.main()), name="shine-hf-chat", daemon=True)
        thread.start()
        try:
            while (result := results.get()) is not None:
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            run.stopped.set()
            thread.join()


class _Run:
    """One call of `fill`, in its event loop."""

    def __init__(self, model: OpenAIChatGenerator, requests: Sequence[FillRequest], emit: Callable) -> None:
        self._model, self._emit = model, emit
        self._requests, self._total = iter(requests), len(requests)
        self._locks: defaultdict[bytes, asyncio.Lock] = defaultdict(asyncio.Lock)  # Ask identical questions once.
        self._error: Exception | None = None
        self.stopped = threading.Event()

    async def main(self) -> None:
        """Fill all requests, and finally emit None, or the error that ended the run."""
        options = self._model.endpoint.client_options()
        hooks = {"request": [self._before_sending], "response": [self._after_reply]}
        transport = openai.DefaultAsyncHttpxClient(timeout=options["timeout"], event_hooks=hooks)
        async with openai.AsyncOpenAI(http_client=transport, **options) as self._client:
            count = min(self._model.concurrency, self._total)
            workers = running = {asyncio.create_task(self._work()) for _ in range(count)}
            while running and not self.stopped.is_set():
                _, running = await asyncio.wait(running, timeout=0.2)
            if running:
                _, running = await asyncio.wait(running, timeout=GRACE_SECONDS)
            for worker in running:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        try:
            if not self._error and not self._model.budget.from_cache:
                self._model.endpoint.check_refusals()
        except EndpointError as error:
            self._error = error
        self._emit(self._error)

    async def _work(self) -> None:
        """Process requests one after the other."""
        cache = self._model.answers
        try:
            for request in self._requests:
                dialogue = self._model.dialogue(request)
                fill = dialogue.replay(cache)
                self._model.budget.from_cache += fill is not None
                while fill is None and not self.stopped.is_set():
                    async with self._locks[dialogue.key]:
                        problem = await self._ask(dialogue) if cache.get(dialogue.key) is None else None
                    fill = Fill(request, None, problem) if problem else dialogue.replay(cache)
                if self.stopped.is_set():
                    return
                self._emit(fill)
        except Exception as error:
            self._error = self._error or error
            self.stopped.set()

    async def _ask(self, dialogue: Dialogue) -> str | None:
        """Ask the open question until its answer is in the cache. Return why that failed, or None.

        Raises:
            EndpointError: if no request can succeed.
        """
        model, endpoint = self._model, self._model.endpoint
        tries, outcomes_before = 0, endpoint.outcomes.total()
        while not self.stopped.is_set():
            dialogue.grown |= endpoint.cuts_most
            body = dialogue.body(endpoint, tries)
            try:
                # As text: the client's own parsing takes longer than everything else.
                raw = endpoint.scrub(await self._client.post("/chat/completions", body=body, cast_to=str))
            except BudgetReached as limit:
                return str(limit)
            except openai.OpenAIError as error:
                message, status = endpoint.explain(error), getattr(error, "status_code", None)
                if status in (400, 422) and endpoint.learn(body, message):
                    continue
                if status in REFUSED:
                    endpoint.count("refused", message, self._total)
                    return f"refused: {message}"
                if endpoint.outcomes.total() == outcomes_before:  # No other request got a response in the meantime.
                    raise EndpointError(f"{endpoint.base_url}: {message}") from error
                return f"given up: {message}"
            if has_answer := is_answer(raw):
                model.answers.store([model.answered(dialogue.question(), raw)])
            problem = model.judge(dialogue, raw, self._total)
            tries += 1
            if has_answer or tries == model.max_questions:
                return None if has_answer else str(problem)
            await asyncio.sleep(pause_seconds(tries))
        return None

    async def _before_sending(self, request: Any) -> None:
        self._model.budget.admit(json.loads(request.content))

    async def _after_reply(self, response: Any) -> None:
        await response.aread()
        is_success = response.status_code == 200
        self._model.budget.settle(json.loads(response.request.content), response.text if is_success else None)
        error = json_object(response.text).get("error")
        if not is_success and is_out_of_quota(error):  # The client would wait and retry.
            raise openai.RateLimitError(str(error.get("message")), response=response, body=error)
