"""Hard negatives through the Batch API of OpenAI-compatible endpoints: slower, at half the price.

All that must survive lies in the cache: a batch reserves its questions before anything is sent, and gives them up only
together with its answers. A run that is killed at any point finds its batches again, by their id or by the name that was
given to the endpoint as metadata, and never hands the same question in twice.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from shine_hf.negatives.generators.base import Fill, FillRequest
from shine_hf.negatives.llm.cache import Answer, AnswerCache, Batch, Question
from shine_hf.negatives.llm.dialogue import ChatParameters, Dialogue, estimate_run, read_usage, record_answer
from shine_hf.negatives.llm.endpoint import Endpoint, EndpointError, Features, backoff_seconds
from shine_hf.negatives.llm.pricing import BATCH_DISCOUNT, Budget, Estimate, Price, Spending, price_of

if TYPE_CHECKING:
    from openai.types import Batch as RemoteBatch

# OpenAI's limits on one input file.
MAX_REQUESTS_PER_BATCH = 50_000
MAX_BYTES_PER_BATCH = 200_000_000
# A question that came back without an answer (server error, expired) goes into so many further batches.
MAX_RETRIES = 3
# With it the endpoint tells a batch of ours from all others.
_METADATA_KEY = "shine_hf_batch"
_OVER = ("completed", "failed", "expired", "cancelled")


class OpenAIBatchGenerator:
    """Fills masked queries through `/batches`.

    `fill` uploads, waits and collects; it may be interrupted and called again, in another process too. Answers that
    cannot be used are asked again in a further batch, `max_questions` times at most. The cache is shared with
    `OpenAIChatGenerator`: an answer that one has paid for serves the other. (The chat generator does not wait for batches
    that are still at work; it asks by itself what they have not answered yet.)

    Args:
        model, cache, base_url, api_key, temperature, seed, max_tokens, max_questions, max_requests, max_cost_usd, prices:
            as for `OpenAIChatGenerator`; prices are those of single requests, of which a batch costs half.
        poll_seconds: how often the endpoint is asked how far it is.
        timeout_seconds: for one upload or download.

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
        timeout_seconds: float = 600.0,
        poll_seconds: float = 20.0,
        max_questions: int = 5,
        max_requests: int | None = None,
        max_cost_usd: float | None = None,
        prices: Mapping[str, Price] | None = None,
        max_requests_per_batch: int = MAX_REQUESTS_PER_BATCH,
        max_bytes_per_batch: int = MAX_BYTES_PER_BATCH,
    ) -> None:
        if max_questions < 1 or not poll_seconds > 0 or not 1 <= max_requests_per_batch <= MAX_REQUESTS_PER_BATCH:
            raise ValueError(
                f"max_questions must be at least 1, poll_seconds positive, and a batch hold 1 to {MAX_REQUESTS_PER_BATCH} "
                f"requests, not {max_questions}, {poll_seconds}, {max_requests_per_batch}"
            )
        self.source = model
        self.parameters = ChatParameters(model, temperature=temperature, seed=seed, max_tokens=max_tokens)
        self.poll_seconds = poll_seconds
        self.max_questions = max_questions
        self.max_requests_per_batch = max_requests_per_batch
        self.max_bytes_per_batch = max_bytes_per_batch
        self.endpoint = Endpoint(base_url, api_key, timeout_seconds=timeout_seconds)
        price = price_of(model, prices)
        self.budget = Budget(
            price.scaled(BATCH_DISCOUNT) if price else None,
            max_requests=max_requests,
            max_cost_usd=max_cost_usd,
            model=model,
        )
        self._reserved_usd: dict[bytes, float] = {}
        self._sent_features: dict[str, Features] = {}
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
        """One `Fill` per request, in portions, as batches finish.

        Raises:
            EndpointError: no request can succeed, or the endpoint rejected a batch as a whole.
        """
        failures: Counter[bytes] = Counter()
        problems: dict[bytes, str] = {}
        waiting = [Dialogue(request, self.parameters) for request in requests]
        first_look = True
        with self.endpoint.client() as self._client:
            while waiting:
                still_waiting = []
                for dialogue in waiting:
                    fill = dialogue.replay(self.cache, self.max_questions)
                    if fill is None and failures[dialogue.key] > MAX_RETRIES:
                        fill = Fill(dialogue.request, None, problems[dialogue.key])
                    if fill is None:
                        still_waiting.append(dialogue)
                    else:
                        self.budget.spending.from_cache += first_look
                        yield fill
                first_look = False
                over_budget = self._submit(still_waiting)
                waiting = [dialogue for dialogue in still_waiting if dialogue.key not in over_budget]
                for dialogue in still_waiting:
                    if dialogue.key in over_budget:
                        yield Fill(dialogue.request, None, over_budget[dialogue.key])
                while waiting and not self._collect(failures, problems):
                    self.cache.heartbeat()
                    time.sleep(self.poll_seconds)

    # Handing in

    def _submit(self, dialogues: Sequence[Dialogue]) -> dict[bytes, str]:
        """Hand in what no batch has yet; returns the questions that the budget keeps back, with the reason."""
        kept_back: dict[bytes, str] = {}
        pending = list({dialogue.key: dialogue for dialogue in dialogues}.values())
        while pending:
            part, pending = pending[: self.max_requests_per_batch], pending[self.max_requests_per_batch :]
            planned = self.cache.plan_batch(self.endpoint.base_url, [dialogue.question() for dialogue in part])
            if planned is None:
                continue
            batch, questions = planned
            free = {question.key for question in questions}
            with tempfile.TemporaryFile() as file:
                written, reasons = self._write(file, [dialogue for dialogue in part if dialogue.key in free])
                kept_back.update(reasons)
                self.cache.free_questions(batch.name, free - written)
                if not written:
                    self.cache.finish_batch(batch.name)
                    continue
                pending = [d for d in part if d.key in free - written - kept_back.keys()] + pending
                self._sent_features[batch.name] = self.endpoint.features
                file_id = self._upload(batch, file)
            self.cache.batch_submitted(batch.name, self._create(batch, file_id))
        return kept_back

    def _write(self, file: IO[bytes], dialogues: Sequence[Dialogue]) -> tuple[set[bytes], dict[bytes, str]]:
        """Write the input file as far as its size and the budget allow: the keys written, and those over budget."""
        written: set[bytes] = set()
        over_budget: dict[bytes, str] = {}
        size = 0
        for dialogue in dialogues:
            item = {
                "custom_id": dialogue.key.hex(),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": dialogue.body(self.endpoint.features),
            }
            line = json.dumps(item, ensure_ascii=False).encode() + b"\n"
            if written and size + len(line) > self.max_bytes_per_batch:
                break
            reserve = self.budget.reserve_usd(dialogue.estimated_tokens()[0], self.parameters.max_tokens)
            if (limit := self.budget.admit(reserve)) is not None:
                over_budget[dialogue.key] = limit
                continue
            self._reserved_usd[dialogue.key] = reserve
            file.write(line)
            size += len(line)
            written.add(dialogue.key)
        return written, over_budget

    def _upload(self, batch: Batch, file: IO[bytes]) -> str:
        # An upload that is lost or repeated costs nothing; only a created batch does.
        def upload() -> str:
            file.seek(0)
            return self._client.files.create(file=(f"{batch.name}.jsonl", file), purpose="batch").id

        return self.endpoint.call(upload)

    def _create(self, batch: Batch, file_id: str) -> str:
        """Create the batch at the endpoint, once: if a reply is lost, look for the batch before asking again."""
        tries = 0
        while True:
            try:
                return self._client.batches.create(
                    input_file_id=file_id,
                    endpoint="/v1/chat/completions",
                    completion_window="24h",
                    metadata={_METADATA_KEY: batch.name},
                ).id
            except Exception as error:
                failure = self.endpoint.explain(error)
            tries += 1
            if failure.kind in ("unfit", "stop") or tries > 8:
                self.cache.finish_batch(batch.name)
                raise EndpointError(f"{self.endpoint.base_url} takes no batch: {failure.message}")
            time.sleep(backoff_seconds(tries, failure.wait_seconds))
            if (found := self._find(batch)) is not None:
                return found

    def _find(self, batch: Batch) -> str | None:
        """The endpoint's id of a batch that carries our name, if it was created."""

        def search() -> str | None:
            for remote in self._client.batches.list(limit=100):
                if (remote.metadata or {}).get(_METADATA_KEY) == batch.name:
                    return remote.id
                # Newest first; a day of grace for clocks that differ.
                if remote.created_at < batch.created_at - 86_400:
                    return None
            return None

        return self.endpoint.call(search)

    # Collecting

    def _collect(self, failures: Counter[bytes], problems: dict[bytes, str]) -> bool:
        """Look at all open batches once; True if one of them is over, so that there is something to do."""
        progress = False
        batches = self.cache.open_batches(self.endpoint.base_url)
        for batch in batches:
            batch_id = batch.batch_id
            if batch_id is None:
                # Planned, but not known to be handed in: by a worker that is just doing so, or that was killed.
                if batch.worker != self.cache.worker and self.cache.is_alive(batch.worker):
                    continue
                if (batch_id := self._find(batch)) is None:
                    self.cache.finish_batch(batch.name)
                    progress = True
                    continue
                self.cache.batch_submitted(batch.name, batch_id)
            try:
                remote = self.endpoint.call(lambda batch_id=batch_id: self._client.batches.retrieve(batch_id))
            except EndpointError as error:
                raise EndpointError(
                    f"batch {batch_id}, handed in earlier according to {self.cache.path}, cannot be read (was it made with "
                    f"the key of another account?): {error}"
                ) from error
            if remote.status in _OVER:
                self._finish(batch, remote, failures, problems)
                progress = True
        return progress or not batches

    def _finish(self, batch: Batch, remote: RemoteBatch, failures: Counter[bytes], problems: dict[bytes, str]) -> None:
        questions = self.cache.batch_questions(batch.name)
        sent = self._sent_features.pop(batch.name, Features())
        answers: list[Answer] = []
        problem_of = dict.fromkeys(questions, f"batch {remote.id} {remote.status} without an answer")
        refused, hopeless = 0, ""
        for item in self._results(remote):
            question = questions.get(_key_of(item))
            if question is None:
                continue
            response = item.get("response") or {}
            status = response.get("status_code")
            if status == 200:
                answers.append(self._answer(question, response.get("body"), remote.id))
                del problem_of[question.key]
                continue
            message = self.endpoint.scrub(json.dumps(response.get("body") or item.get("error")))
            problem_of[question.key] = f"{status or remote.status}: {message[:300]}"
            if status in (401, 403, 404) or "insufficient_quota" in message:
                hopeless = problem_of[question.key]
            elif status in (400, 422):
                refused += 1
                self.endpoint.learn(sent, message, nothing_accepted_yet=not answers)
        self.cache.finish_batch(batch.name, answers)
        other_form = self.endpoint.features != sent
        for key, problem in problem_of.items():
            self.budget.refused(self._reserved_usd.pop(key, 0.0))
            problems[key] = problem
            failures[key] += not other_form
        if remote.status == "failed":
            self._explain_rejected_batch(remote)
        if refused == len(questions) and not other_form:
            hopeless = problem
        if hopeless:
            raise EndpointError(f"{self.endpoint.base_url} refused the requests of batch {remote.id}: {hopeless}")

    def _results(self, remote: RemoteBatch) -> Iterator[dict]:
        for file_id in (remote.output_file_id, remote.error_file_id):
            if file_id is None:
                continue
            content = self.endpoint.call(lambda file_id=file_id: self._client.files.content(file_id).content)
            for number, line in enumerate(content.splitlines(), start=1):
                try:
                    item = json.loads(line)
                except ValueError as error:
                    raise EndpointError(
                        f"line {number} of file {file_id} (batch {remote.id}) is not JSON: {error}"
                    ) from error
                if isinstance(item, dict):
                    yield item

    def _answer(self, question: Question, body: object, batch_id: str) -> Answer:
        raw = self.endpoint.scrub(json.dumps(body, ensure_ascii=False))
        reserve = self._reserved_usd.pop(question.key, 0.0)
        usage = read_usage(raw)
        cost = None
        if usage is None:
            self.budget.lost(reserve)  # it does not say what it took: at most what was reserved for it
        else:
            cost = self.budget.answered(reserve, *usage)
        return record_answer(question, raw, cost_usd=cost, batch_id=batch_id)

    def _explain_rejected_batch(self, remote: RemoteBatch) -> None:
        errors = (remote.errors.data if remote.errors else None) or []
        if any("token_limit" in (error.code or "") for error in errors):
            time.sleep(self.poll_seconds)  # too much is queued at the endpoint: later there is room again
            return
        text = "; ".join(f"line {error.line}: {error.message}" for error in errors[:3]) or "it gives no reason"
        raise EndpointError(f"{self.endpoint.base_url} rejected batch {remote.id}: {text}")


def _key_of(item: dict) -> bytes | None:
    try:
        return bytes.fromhex(item["custom_id"])
    except (KeyError, TypeError, ValueError):
        return None
