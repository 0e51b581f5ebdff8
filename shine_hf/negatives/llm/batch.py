"""Generate hard negatives through the Batch API of OpenAI-compatible endpoints, which is slower and cheaper.

All state that must survive a kill is in the cache: a batch reserves its questions before anything is sent, and releases them only together
with its answers. After a kill, the next run finds the batches by their ID or by the name in their metadata.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shine_hf.io import retry
from shine_hf.negatives.generators.base import Fill, FillRequest

from .answers import is_answer, json_object
from .cache import Row
from .chat import LanguageModel
from .client import HOPELESS, REFUSED, BudgetReached, EndpointError, is_out_of_quota, may_pass, openai

if TYPE_CHECKING:
    from openai.types import Batch

    from .prompts import Dialogue

# Maximum number of times to ask a question that comes back without an answer (server error, expired).
MAX_TRIES = 4
_PLANNED = "planned:"


@dataclass(kw_only=True)
class OpenAIBatchGenerator(LanguageModel):
    """Fill masked queries through `/batches`. `price` is the price of batches.

    `fill` uploads batches, waits for them and collects the answers. It may be interrupted and called again, even in another process. The
    cache is shared with `OpenAIChatGenerator`, which does not wait for batches but asks the questions that are still unanswered.

    Args:
        poll_seconds: Seconds between checks for batches that have ended.
        max_requests_per_batch: OpenAI accepts 50,000 requests and 200 MB; a request is about 2 kB.
    """

    timeout_seconds: float = 600.0
    poll_seconds: float = 20.0
    max_requests_per_batch: int = 50_000

    def __post_init__(self) -> None:
        if not self.poll_seconds > 0 or self.max_requests_per_batch < 1:
            raise ValueError("poll_seconds and max_requests_per_batch must be positive")
        super().__post_init__()

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        """Yield one `Fill` per request, as batches end.

        Raises:
            EndpointError: if no request can succeed, or the endpoint rejects a batch.
        """
        self.answers.lock()
        # Question -> why each attempt had no answer.
        self._problems: defaultdict[bytes, list[str]] = defaultdict(list)
        self._dialogues: dict[bytes, Dialogue] = {}
        self._sent: dict[bytes, dict[str, Any]] = {}  # Question -> the body sent in this run.
        waiting = [self.dialogue(request) for request in requests]
        with openai.OpenAI(**self.endpoint.client_options()) as self._client:
            while waiting:
                unsettled = []
                for dialogue in waiting:
                    fill, problems = dialogue.replay(self.answers), self._problems[dialogue.key]
                    if fill is None and len(problems) < MAX_TRIES:
                        unsettled.append(dialogue)
                        continue
                    self.budget.from_cache += not self._dialogues  # Only in the first round.
                    yield fill or Fill(dialogue.request, None, problems[-1])
                waiting = unsettled
                self._dialogues = {dialogue.key: dialogue for dialogue in waiting}
                self._submit()
                while waiting and not self._collect():
                    time.sleep(self.poll_seconds)

    def _submit(self) -> None:
        """Submit the questions that are not in a batch yet, within the budget."""
        taken = {key: batch for batch, questions in self.answers.waiting().items() for key in questions}
        lines: dict[bytes, bytes] = {}
        for key, dialogue in self._dialogues.items():
            if key in taken:
                if not taken[key].startswith(f"{self.endpoint.base_url} "):
                    raise EndpointError(
                        f"question {key.hex()[:8]} is in the open batch {taken[key]}: collect that batch first"
                    )
                continue
            body = dialogue.body(self.endpoint, len(self._problems[key]))
            try:
                self.budget.admit(body)
            except BudgetReached as limit:
                self._problems[key] += [str(limit)] * MAX_TRIES
                continue
            self._sent[key] = body
            line = {"custom_id": key.hex(), "method": "POST", "url": "/v1/chat/completions", "body": body}
            lines[key] = json.dumps(line).encode() + b"\n"
        keys = list(lines)
        for start in range(0, len(keys), self.max_requests_per_batch):
            part = keys[start : start + self.max_requests_per_batch]
            self._submit_batch([self._dialogues[key].question() for key in part], b"".join(lines[key] for key in part))

    def _submit_batch(self, questions: list[Row], file: bytes) -> None:
        name = f"{self.endpoint.base_url} {_PLANNED}{uuid.uuid4().hex}"
        questions = [{**question, "batch_id": name, "received_at": time.time()} for question in questions]
        self.answers.store(questions)
        try:
            file_id = self._client.files.create(file=("questions.jsonl", file), purpose="batch").id
            # Not the client's own retries: the response may have been lost, so look for the batch before creating it again.
            batch_id = retry(lambda: self._find(name, questions) or self._create(name, file_id), may_pass)
        except openai.OpenAIError as error:
            if not may_pass(error):  # Otherwise the batch may exist, and the next run looks for it.
                self.answers.store([], ended_batch=name)
            raise EndpointError(
                f"{self.endpoint.base_url} does not accept the batch: {self.endpoint.explain(error)}"
            ) from error
        self._rename(questions, batch_id)

    def _create(self, name: str, file_id: str) -> str:
        options = {"completion_window": "24h", "metadata": {"shine_hf_batch": name[-32:]}}
        client = self._client.with_options(max_retries=0)
        return client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", **options).id

    def _find(self, name: str, questions: Sequence[Row]) -> str | None:
        """Return the endpoint's id of a planned batch, if it was created."""
        for remote in self._client.batches.list(limit=100):  # Newest first.
            if (remote.metadata or {}).get("shine_hf_batch") == name[-32:]:
                return remote.id
            if remote.created_at < questions[0]["received_at"] - 86_400:  # One day of tolerance, since clocks differ.
                break
        return None

    def _rename(self, questions: Sequence[Row], batch_id: str) -> None:
        self.answers.store({**question, "batch_id": f"{self.endpoint.base_url} {batch_id}"} for question in questions)

    def _collect(self) -> bool:
        """Check all open batches once, and keep the answers of those that have ended; return whether any has.

        Raises:
            EndpointError: if a batch cannot be read or was rejected.
        """
        ours = [item for item in self.answers.waiting().items() if item[0].startswith(f"{self.endpoint.base_url} ")]
        progress = not ours
        for batch, by_key in ours:
            questions, batch_id = list(by_key.values()), batch.rpartition(" ")[2]
            try:
                if batch_id.startswith(_PLANNED):  # Planned by a run that was killed.
                    if found := self._find(batch, questions):
                        self._rename(questions, found)
                    else:
                        self.answers.store([], ended_batch=batch)
                    return True
                remote = self._client.batches.retrieve(batch_id)
            except openai.OpenAIError as error:
                raise EndpointError(
                    f"batch {batch_id}, submitted earlier according to {self.answers.path}, cannot be read (was another API key used?): "
                    f"{error}. To abandon it: sqlite3 {self.answers.path} \"DELETE FROM answers WHERE batch_id = '{batch}' AND raw = ''\""
                ) from error
            if remote.status in ("completed", "failed", "expired", "cancelled"):
                progress = True
                if remote.status == "failed":
                    self._explain_failure(batch, remote)
                else:
                    self._keep(batch, remote, {question["key"].hex(): question for question in questions})
        return progress

    def _keep(self, batch: str, remote: Batch, questions: dict[str, Row]) -> None:
        """Store the answers of a batch that has ended, and record why the other questions have none.

        Raises:
            EndpointError: if the endpoint refused all requests.
        """
        results = {name: (status, raw) for name, status, raw in self._results(remote) if name in questions}
        replies = {name: raw for name, (status, raw) in results.items() if status == 200}
        answers = {name: raw for name, raw in replies.items() if is_answer(raw)}
        rows = [{**self.answered(questions[name], raw), "batch_id": remote.id} for name, raw in answers.items()]
        self.answers.store(rows, ended_batch=batch)
        # Questions without a dialogue were asked by an earlier run for other requests.
        dialogues = {name: self._dialogues.get(question["key"]) for name, question in questions.items()}
        bodies = {name: self._sent.pop(each.key, each.body(self.endpoint)) for name, each in dialogues.items() if each}
        refused = []
        for name in [name for name in questions if name not in answers]:
            status, raw = results.get(name, (None, "no answer"))
            problem = f"batch {remote.id} {remote.status}: {status or ''} {raw[:300]}"
            if status in HOPELESS or is_out_of_quota(json_object(raw).get("error")):
                raise EndpointError(f"{self.endpoint.base_url} refused the requests: {problem}")
            if status in (400, 422) and name in bodies and self.endpoint.learn(bodies[name], raw):
                continue  # Asked again without the field that the endpoint refused.
            refused += [problem] * (status in REFUSED)
            self._problems[questions[name]["key"]] += [problem] * (MAX_TRIES if status in REFUSED else 1)
        is_working = self.budget.from_cache or self.endpoint.outcomes  # Another question has an answer.
        if len(refused) == len(questions) and not is_working:
            raise EndpointError(f"{self.endpoint.base_url} refused all requests: {refused[0]}")
        for name, body in bodies.items():
            self.budget.settle(body, replies.get(name))
            if name in replies:
                self.judge(dialogues[name], replies[name], len(self._dialogues))

    def _results(self, remote: Batch) -> Iterator[tuple[str, int | None, str]]:
        """Yield name, status and body of each line in the files of a batch."""
        for file_id in filter(None, (remote.output_file_id, remote.error_file_id)):
            for line in map(json_object, self._client.files.content(file_id).content.splitlines()):
                response: dict[str, Any] = line.get("response") or {}
                raw = json.dumps(response.get("body") or line.get("error"))
                yield str(line.get("custom_id")), response.get("status_code"), self.endpoint.scrub(raw)

    def _explain_failure(self, batch: str, remote: Batch) -> None:
        errors = (remote.errors.data if remote.errors else None) or []
        self.answers.store([], ended_batch=batch)
        if any("token_limit" in (error.code or "") for error in errors):
            return time.sleep(self.poll_seconds)  # The endpoint's queue is full; try again later.
        text = "; ".join(f"line {error.line}: {error.message}" for error in errors[:3]) or "no reason given"
        raise EndpointError(f"{self.endpoint.base_url} rejected batch {remote.id}: {text}")
