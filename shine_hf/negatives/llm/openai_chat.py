"""Hard negatives from any OpenAI-compatible chat endpoint: many requests at a time, each paid for once."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from shine_hf.negatives.generators.base import Fill, FillRequest
from shine_hf.negatives.llm.cache import AnswerCache
from shine_hf.negatives.llm.dialogue import (
    ChatParameters,
    Dialogue,
    estimate_run,
    is_completion,
    read_usage,
    record_answer,
)
from shine_hf.negatives.llm.endpoint import Endpoint, EndpointError, Failure, Features, backoff_seconds
from shine_hf.negatives.llm.pacing import Pacer
from shine_hf.negatives.llm.pricing import Budget, Estimate, Price, Spending, price_of

# A request turned away by a rate limit cost nothing and will be taken some time.
MAX_REFUSALS = 50
# So many answers that are no chat completions, and none that is: that is a web page, not an endpoint.
MAX_FOREIGN_ANSWERS = 10
_POLL_SECONDS = 0.25


class OpenAIChatGenerator:
    """Fills masked queries through `/chat/completions`.

    Every answer is committed to the cache before it is used, also one that is of no use; such a request is asked again,
    `max_questions` times at most, with the reason in the prompt. Errors that pass (429, 5xx, timeouts, dropped
    connections) are tried again with growing pauses, `Retry-After` is honoured, and a waiting request keeps no
    other from being sent. An error that holds for all requests stops the run: `fill` raises `EndpointError`; what was
    received is in the cache, the same call continues from there.

    Args:
        model: the model's name at the endpoint.
        cache: the cache, or the path of its file.
        base_url, api_key, timeout_seconds: see `Endpoint`.
        concurrency: how many requests may be on their way at once.
        max_retries: how often a request is sent again after errors that pass, rate limits apart.
        max_questions: how often one request is asked in all, if the answers cannot be used.
        max_requests, max_cost_usd: the run's budget; what lies beyond is yielded with the error `budget: …`.
        prices: US dollars per million tokens, before the built-in list prices.

    Raises:
        ValueError: a parameter is out of its range, or `max_cost_usd` is given and the price is not known.
        ImportError: the `negatives` extra is not installed.
    """

    def __init__(
        self,
        model: str,
        *,
        cache: AnswerCache | str | Path,
        base_url: str | None = None,
        api_key: str | None = None,
        temperature: float | None = 0.7,
        seed: int | None = 0,
        max_tokens: int = 256,
        concurrency: int = 64,
        timeout_seconds: float = 60.0,
        max_retries: int = 8,
        max_questions: int = 5,
        max_requests: int | None = None,
        max_cost_usd: float | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        if concurrency < 1 or max_questions < 1 or max_retries < 0:
            raise ValueError(
                "concurrency and max_questions must be at least 1 and max_retries at least 0, "
                f"not {concurrency}, {max_questions}, {max_retries}"
            )
        self.source = model
        self.parameters = ChatParameters(model, temperature=temperature, seed=seed, max_tokens=max_tokens)
        self.concurrency = concurrency
        self.max_retries = max_retries
        self.max_questions = max_questions
        self.endpoint = Endpoint(base_url, api_key, timeout_seconds=timeout_seconds)
        self.budget = Budget(
            price_of(model, prices), max_requests=max_requests, max_cost_usd=max_cost_usd, model=model
        )
        self._pacer = Pacer()
        # Opened last, so that no wrong argument leaves a file behind.
        self.cache = cache if isinstance(cache, AnswerCache) else AnswerCache(cache)

    def cost_so_far(self) -> Spending:
        """Requests, tokens and US dollars of this generator; its `str` is made for a progress bar."""
        return self.budget.spending

    def estimate(self, requests: Sequence[FillRequest]) -> Estimate:
        """What filling these requests would take (a dry run); sends nothing."""
        return estimate_run(
            requests, self.parameters, self.cache, max_questions=self.max_questions, price=self.budget.price
        )

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        """One `Fill` per request, as the answers come.

        The network runs in a thread of its own, so that it does not stand still while the caller works on a fill. When
        the caller stops early, requests on their way are waited for and their answers kept.

        Raises:
            EndpointError: no request can succeed (key, model, quota, address).
        """
        results: queue.SimpleQueue[Fill | BaseException | None] = queue.SimpleQueue()
        run = _Run(self, results.put)

        def work() -> None:
            try:
                asyncio.run(run.fill(requests))
                results.put(None)
            except BaseException as error:  # handed to the caller, who raises it
                results.put(error)

        thread = threading.Thread(target=work, name="shine-hf-chat", daemon=True)
        thread.start()
        try:
            while (result := results.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            run.stop()
            thread.join()


class _Run:
    """One call of `fill`, inside its event loop."""

    def __init__(self, generator: OpenAIChatGenerator, emit: Callable[[Fill], None]) -> None:
        self._generator = generator
        self._emit = emit
        self._cache = generator.cache
        self._endpoint = generator.endpoint
        self._budget = generator.budget
        self._pacer = generator._pacer
        self._stopped = threading.Event()
        self._error: Exception | None = None
        self._active: set[bytes] = set()
        self._tasks: set[asyncio.Task] = set()
        self._completions = 0
        self._foreign_answers = 0

    def stop(self) -> None:
        """Start nothing more. May be called from any thread."""
        self._stopped.set()

    async def fill(self, requests: Sequence[FillRequest]) -> None:
        concurrency = self._generator.concurrency
        # Requests that wait out an error hold no connection, so more of them are under way than connections.
        self._places = asyncio.Semaphore(8 * concurrency)
        self._connections = asyncio.Semaphore(concurrency)
        heartbeat = asyncio.create_task(self._keep_heart_beating())
        try:
            async with self._endpoint.async_client(concurrency) as self._client:
                elsewhere: list[Dialogue] = []
                for start in range(0, len(requests), 2 * concurrency):
                    block = requests[start : start + 2 * concurrency]
                    elsewhere += await self._begin(Dialogue(request, self._generator.parameters) for request in block)
                    await asyncio.sleep(0)
                while elsewhere and not self._stopped.is_set():
                    await self._pause(_POLL_SECONDS)
                    elsewhere = await self._begin(elsewhere)
                while self._tasks:
                    await asyncio.gather(*self._tasks)
        finally:
            heartbeat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await heartbeat
            self._cache.release_all()
        if self._error is not None:
            raise self._error

    async def _begin(self, dialogues: Iterator[Dialogue] | list[Dialogue]) -> list[Dialogue]:
        """Settle what the cache can settle and ask the rest; returns what another task or process is asking."""
        open_dialogues = []
        for dialogue in dialogues:
            if self._stopped.is_set():
                return []
            if (fill := dialogue.replay(self._cache, self._generator.max_questions)) is None:
                open_dialogues.append(dialogue)
            else:
                self._budget.spending.from_cache += 1
                self._emit(fill)
        mine = self._cache.claim([d.root for d in open_dialogues]) if open_dialogues else set()
        elsewhere = []
        for dialogue in open_dialogues:
            if dialogue.root not in mine or dialogue.root in self._active:
                elsewhere.append(dialogue)
                continue
            self._active.add(dialogue.root)
            await self._places.acquire()
            task = asyncio.create_task(self._converse(dialogue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return elsewhere

    async def _converse(self, dialogue: Dialogue) -> None:
        """Ask until the request is settled, or nothing more can be done for it."""
        try:
            # Replayed first: between the look into the cache and the claim another process may have been at work.
            while (fill := dialogue.replay(self._cache, self._generator.max_questions)) is None:
                if (problem := await self._ask(dialogue)) is not None:
                    fill = Fill(dialogue.request, None, problem)
                    self._cache.release([dialogue.root])
                    break
            if not self._stopped.is_set() or fill.text is not None:
                self._emit(fill)
        except Exception as error:
            # A fault of ours or of the disk: the run ends, and says so, instead of leaving one request hanging.
            self._fail(error)
        finally:
            self._active.discard(dialogue.root)
            self._places.release()

    async def _ask(self, dialogue: Dialogue) -> str | None:
        """Put the open question to the endpoint until its answer is in the cache. Returns why it is not, or None."""
        retries = refusals = 0
        completions_before = self._completions
        prompt_tokens, _ = dialogue.estimated_tokens()
        reserve = self._budget.reserve_usd(prompt_tokens, self._generator.parameters.max_tokens)
        while True:
            async with self._connections:
                await self._pause(self._pacer.reserve_turn())
                if self._stopped.is_set():
                    return "stopped"
                if (limit := self._budget.admit(reserve)) is not None:
                    return limit
                features = self._endpoint.features
                failure = await self._send(dialogue, features, reserve)
            if failure is None:
                return None
            if failure.kind == "unfit":
                if self._endpoint.learn(features, failure.message, nothing_accepted_yet=not self._completions):
                    continue
                if self._completions:
                    return f"the endpoint refused the request: {failure.message}"
            if failure.kind in ("unfit", "stop"):
                self._fail(
                    EndpointError(f"{self._endpoint.base_url} answered {failure.message}. {self._how_to_go_on()}")
                )
                return "stopped"
            if failure.kind == "busy":
                refusals += 1
            else:
                retries += 1
            if retries > self._generator.max_retries or refusals > MAX_REFUSALS:
                problem = f"given up after {retries + refusals} tries: {failure.message}"
                if self._completions == completions_before:
                    self._fail(EndpointError(f"{self._endpoint.base_url}: {problem}. {self._how_to_go_on()}"))
                return problem
            await self._pause(backoff_seconds(retries + min(refusals, 3), failure.wait_seconds))

    async def _send(self, dialogue: Dialogue, features: Features, reserve: float) -> Failure | None:
        """Send the open question once. The answer is in the cache when this returns None."""
        import httpx2

        try:
            async with asyncio.timeout(self._endpoint.timeout_seconds):
                # The bare response: the client's own parsing costs more than all the rest and fails on a 200 that
                # is not JSON, which was paid for and must be kept.
                response = await self._client.post(
                    "/chat/completions", body=dialogue.body(features), cast_to=httpx2.Response
                )
        except Exception as error:
            failure = self._endpoint.explain(error)
            if failure.maybe_charged:
                self._budget.lost(reserve)
            else:
                self._budget.refused(reserve)
            if failure.kind == "busy":
                self._pacer.refused(failure.wait_seconds)
            return failure
        self._keep(dialogue, self._endpoint.scrub(response.text), reserve)
        self._pacer.accepted()
        return None

    def _keep(self, dialogue: Dialogue, raw: str, reserve: float) -> None:
        # An endpoint that does not say what it took is booked by the estimate.
        cost = self._budget.answered(reserve, *(read_usage(raw) or dialogue.estimated_tokens()))
        self._cache.store(record_answer(dialogue.question(), raw, cost_usd=cost))
        if is_completion(raw):
            self._completions += 1
            return
        self._foreign_answers += 1
        if self._foreign_answers >= MAX_FOREIGN_ANSWERS and not self._completions:
            self._fail(
                EndpointError(
                    f"{self._endpoint.base_url} answers, but not with chat completions (the last one begins "
                    f"{raw[:80]!r}): is the base URL right? It usually ends in /v1"
                )
            )

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self.stop()

    def _how_to_go_on(self) -> str:
        return f"All {len(self._cache)} answers received are in {self._cache.path}; run the same command to go on"

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not on when the run is stopped."""
        until = time.monotonic() + seconds
        while not self._stopped.is_set() and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _POLL_SECONDS))

    async def _keep_heart_beating(self) -> None:
        while True:
            self._cache.heartbeat()
            await asyncio.sleep(1.0)
