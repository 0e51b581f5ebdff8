"""Hard negatives through the Batch API of OpenAI-compatible endpoints: slower, and cheaper.

All that must survive lies in the cache: a batch reserves its questions before anything is sent, and frees them only together with its
answers. A run that is killed at any point finds its batches again, by their id or by the name that the endpoint was given as metadata.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from shine_hf.io import retry
from shine_hf.negatives.generators.base import Fill, FillRequest

from .answers import is_answer, json_object
from .cache import Row
from .chat import LanguageModel
from .client import HOPELESS, REFUSED, BudgetReached, EndpointError, is_out_of_quota, openai

if TYPE_CHECKING:
    from openai.types import Batch

# A question that came back without an answer (server error, expired) goes into so many further batches.
MAX_FURTHER_BATCHES = 3
_PLANNED = "planned:"
_OVER = ("completed", "failed", "expired", "cancelled")


class OpenAIBatchGenerator(LanguageModel):
    """Fills masked queries through `/batches`.

    `fill` uploads, waits and collects; it may be interrupted and called again, in another process too. The cache is shared with
    `OpenAIChatGenerator`, which does not wait for batches but asks what they have not answered yet.

    Args:
        poll_seconds: How often to ask whether a batch is over.
        max_requests_per_batch, max_bytes_per_batch: Limits on one input file; by default OpenAI's.
        **options: See [`LanguageModel`]; `price` is that of batches.
    """

    def __init__(
        self,
        model: str,
        *,
        poll_seconds: float = 20.0,
        max_requests_per_batch: int = 50_000,
        max_bytes_per_batch: int = 200_000_000,
        **options: Any,
    ) -> None:
        if not poll_seconds > 0 or max_requests_per_batch < 1:
            raise ValueError(
                f"poll_seconds and max_requests_per_batch must be positive, not {poll_seconds}, {max_requests_per_batch}"
            )
        self.poll_seconds = poll_seconds
        self.max_requests_per_batch, self.max_bytes_per_batch = max_requests_per_batch, max_bytes_per_batch
        super().__init__(model, **{"timeout_seconds": 600.0, **options})

    def fill(self, requests: Sequence[FillRequest]) -> Iterator[Fill]:
        """Yield one `Fill` per request, in portions, as batches end.

        Raises:
            EndpointError: no request can succeed, or the endpoint rejected a batch.
        """
        self.cache.lock()
        self._tries: Counter[bytes] = Counter()  # of each question that brought no answer
        self._problems: dict[bytes, str] = {}
        self._admitted: dict[bytes, dict[str, Any]] = {}  # the bodies that the budget has reserved
        waiting = [self.dialogue(request) for request in requests]
        first_look = True
        with openai.OpenAI(**self.endpoint.client_options()) as self._client:
            while waiting:
                unsettled = []
                for dialogue in waiting:
                    fill = dialogue.replay(self.cache)
                    if fill is None and self._tries[dialogue.key] > MAX_FURTHER_BATCHES:
                        fill = Fill(dialogue.request, None, self._problems[dialogue.key])
                    if fill is None:
                        unsettled.append(dialogue)
                        continue
                    self.budget.from_cache += first_look
                    yield fill
                first_look, waiting = False, unsettled
                self._dialogues = {dialogue.key: dialogue for dialogue in waiting}
                self._submit()
                while waiting and not self._collect():
                    time.sleep(self.poll_seconds)

    def _submit(self) -> None:
        """Hand in the questions that no batch has yet, as far as the budget allows."""
        taken = {key: batch for batch, questions in self.cache.waiting().items() for key in questions}
        part: dict[bytes, bytes] = {}
        size = 0
        for key, dialogue in self._dialogues.items():
            if key in taken:
                if not taken[key].startswith(f"{self.endpoint.base_url} "):
                    raise EndpointError(
                        f"question {key.hex()[:8]} waits in the batch {taken[key]}: collect that one first, there"
                    )
                continue
            body = dialogue.body(self.endpoint, self._tries[key])
            try:
                self.budget.admit(body)
            except BudgetReached as limit:
                self._give_up(key, str(limit))
                continue
            self._admitted[key] = body
            line = {"custom_id": key.hex(), "method": "POST", "url": "/v1/chat/completions", "body": body}
            data = json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
            if part and (len(part) == self.max_requests_per_batch or size + len(data) > self.max_bytes_per_batch):
                self._hand_in(part)
                part, size = {}, 0
            part[key] = data
            size += len(data)
        if part:
            self._hand_in(part)

    def _hand_in(self, part: dict[bytes, bytes]) -> None:
        name = f"{self.endpoint.base_url} {_PLANNED}{uuid.uuid4().hex}"
        questions = [self._dialogues[key].question() | {"batch_id": name, "received_at": time.time()} for key in part]
        self.cache.store(questions)
        try:
            file = self._client.files.create(file=("questions.jsonl", b"".join(part.values())), purpose="batch")
            # Not the client's own retries: where a reply was lost, the batch is looked for before it is created again.
            batch_id = retry(lambda: self._find(name, questions) or self._create(name, file.id), _may_pass)
        except openai.OpenAIError as error:
            if isinstance(error, openai.APIStatusError):  # else the batch may be there: the next run looks for it
                self.cache.store([], ended_batch=name)
            raise EndpointError(f"{self.endpoint.base_url} takes no batch: {self.endpoint.explain(error)}") from error
        self.cache.store([question | {"batch_id": f"{self.endpoint.base_url} {batch_id}"} for question in questions])

    def _create(self, name: str, file_id: str) -> str:
        return (
            self._client.with_options(max_retries=0)
            .batches.create(
                input_file_id=file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"shine_hf_batch": name[-32:]},
            )
            .id
        )

    def _find(self, name: str, questions: Sequence[Row]) -> str | None:
        """Return the endpoint's id of a planned batch, if it was created."""
        for remote in self._client.batches.list(limit=100):  # newest first
            if (remote.metadata or {}).get("shine_hf_batch") == name[-32:]:
                return remote.id
            if remote.created_at < questions[0]["received_at"] - 86_400:  # a day of grace for clocks that differ
                return None
        return None

    def _collect(self) -> bool:
        """Look at all open batches once; return whether one of them is over, so that there is something to do."""
        progress, is_idle = False, True
        for batch, questions in self.cache.waiting().items():
            base_url, _, batch_id = batch.rpartition(" ")
            if base_url != self.endpoint.base_url:
                continue
            is_idle = False
            try:
                if batch_id.startswith(_PLANNED):  # by a run that was killed
                    batch_id = self._find(batch, list(questions.values()))
                    found = [question | {"batch_id": f"{base_url} {batch_id}"} for question in questions.values()]
                    self.cache.store(found if batch_id else [], ended_batch=batch)
                    progress = True
                    continue
                remote = self._client.batches.retrieve(batch_id)
            except openai.OpenAIError as error:
                raise EndpointError(
                    f"batch {batch_id}, handed in earlier according to {self.cache.path}, cannot be read (was it made with another key?): "
                    f"{error}. To give it up: sqlite3 {self.cache.path} \"DELETE FROM answers WHERE batch_id = '{batch}' AND raw = ''\""
                ) from error
            if remote.status in _OVER:
                self._finish(batch, remote, questions)
                progress = True
        return progress or is_idle

    def _finish(self, batch: str, remote: Batch, questions: dict[bytes, Row]) -> None:
        """Keep the answers of a batch that is over, and note why the other questions have none."""
        replies: dict[bytes, str] = {}
        problems = dict.fromkeys(questions, f"batch {remote.id} {remote.status} without an answer")
        refused: list[bytes] = []
        hopeless = ""
        for item in self._results(remote):
            key = _key_of(item)
            if key not in questions:
                continue
            response = item.get("response") or {}
            status, raw = (
                response.get("status_code"),
                json.dumps(response.get("body") or item.get("error"), ensure_ascii=False),
            )
            raw = self.endpoint.scrub(raw)
            problems[key] = f"{status or remote.status}: {raw[:300]}"
            if status == 200:
                replies[key] = raw
            elif status in HOPELESS or is_out_of_quota(json_object(raw).get("error")):
                hopeless = problems[key]
            elif status in REFUSED and (status == 403 or not self.endpoint.learn(self._body(key), raw)):
                refused.append(key)
            elif status in REFUSED:
                del problems[key]  # asked again without the field that the endpoint refused
        answers = {key: raw for key, raw in replies.items() if is_answer(raw)}
        rows = [self.answered(questions[key], raw) | {"batch_id": remote.id} for key, raw in answers.items()]
        self.cache.store(rows, ended_batch=batch)
        for key in questions:
            if body := self._admitted.pop(key, None):
                self.budget.settle(body, replies.get(key))
            if key in problems and key not in answers and remote.status != "failed":
                self._give_up(key, problems[key], tries=MAX_FURTHER_BATCHES + 1 if key in refused else 1)
        if remote.status == "failed":
            return self._explain_failure(remote)
        if hopeless or len(refused) == len(questions):
            reason = hopeless or problems[refused[0]]
            raise EndpointError(f"{self.endpoint.base_url} refused the requests of batch {remote.id}: {reason}")
        for key, raw in replies.items():
            if key in self._dialogues:
                self.judge(self._dialogues[key], raw, len(self._dialogues))

    def _give_up(self, key: bytes, problem: str, tries: int = MAX_FURTHER_BATCHES + 1) -> None:
        self._problems[key] = problem
        self._tries[key] += tries

    def _body(self, key: bytes) -> dict[str, Any]:
        dialogue = self._dialogues.get(key)
        return self._admitted.get(key) or (dialogue.body(self.endpoint) if dialogue else {})

    def _results(self, remote: Batch) -> Iterator[dict[str, Any]]:
        for file_id in filter(None, (remote.output_file_id, remote.error_file_id)):
            for line in self._client.files.content(file_id).content.splitlines():
                yield json_object(line)

    def _explain_failure(self, remote: Batch) -> None:
        errors = (remote.errors.data if remote.errors else None) or []
        if any("token_limit" in (error.code or "") for error in errors):
            time.sleep(self.poll_seconds)  # too much is queued at the endpoint; later there is room again
            return
        text = "; ".join(f"line {error.line}: {error.message}" for error in errors[:3]) or "it gives no reason"
        raise EndpointError(f"{self.endpoint.base_url} rejected batch {remote.id}: {text}")


def _may_pass(error: Exception) -> bool:
    status = getattr(error, "status_code", 500)
    return isinstance(error, openai.APIError) and (status >= 500 or status in (408, 409, 429))


def _key_of(item: dict[str, Any]) -> bytes | None:
    try:
        return bytes.fromhex(item["custom_id"])
    except (KeyError, TypeError, ValueError):
        return None
