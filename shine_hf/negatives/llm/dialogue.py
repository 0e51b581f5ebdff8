"""The questions that are asked for one request, the same for the chat and the batch endpoint.

A dialogue is a first question and, after each answer that could not be used, one more. It is replayed from the cache
alone, so a process that starts again is at once where the killed one was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shine_hf.negatives.generators.base import Fill, FillRequest
from shine_hf.negatives.language.masking import fill_masks
from shine_hf.negatives.llm.cache import Answer, AnswerCache, Question, request_key
from shine_hf.negatives.llm.endpoint import Features, api_parameters
from shine_hf.negatives.llm.pricing import Estimate, Price, estimate_tokens
from shine_hf.negatives.llm.prompts import PROMPT_VERSION, UnusableAnswer, answer_schema, build_messages, parse_answer

# Long enough to show what was wrong, short enough for a prompt.
_REJECTED_ANSWER_CHARACTERS = 200


@dataclass(frozen=True)
class ChatParameters:
    """What is asked of the model beside the messages; part of the cache key.

    `seed` is raised by one for each further question, else an endpoint that honours it would repeat its mistake.
    """

    model: str
    temperature: float | None = 0.7
    seed: int | None = 0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("name the language model that is to fill the masks (--model)")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")


class Dialogue:
    """The conversation about one `FillRequest`. `key` and `body` belong to the question that is open now."""

    __slots__ = ("_asked", "_parameters", "attempt", "key", "messages", "request", "root")

    def __init__(self, request: FillRequest, parameters: ChatParameters) -> None:
        self.request = request
        self.attempt = 0
        self._asked = request
        self._parameters = parameters
        self._open_question()
        self.root = self.key

    def _open_question(self) -> None:
        self.messages = build_messages(self._asked)
        # Neither the endpoint's address nor how the JSON is asked for: a server that moved to another port, or another
        # way to the same model (chat or batch), must not cost the answer again.
        self.key = request_key(
            prompt_version=PROMPT_VERSION,
            parameters=asdict(self._parameters),
            messages=self.messages,
            attempt=self.attempt,
        )

    def replay(self, cache: AnswerCache, max_questions: int) -> Fill | None:
        """Follow the cached answers. A `Fill` if they settle the request, None if the open question must be asked."""
        while (answer := cache.get(self.key)) is not None:
            content = ""
            try:
                content = read_content(answer.raw)
                words = parse_answer(content, self.request)
                return Fill(self.request, fill_masks(self.request.masked_query, words))
            except UnusableAnswer as problem:
                self.attempt += 1
                if self.attempt >= max_questions:
                    return Fill(self.request, None, str(problem))
                self._asked = self._asked.rejected(content[:_REJECTED_ANSWER_CHARACTERS], (problem.kind,))
                self._open_question()
        return None

    def body(self, features: Features) -> dict[str, Any]:
        """The body of the chat completion for the open question."""
        parameters = self._parameters
        return {
            "model": parameters.model,
            "messages": self.messages,
            **api_parameters(
                features,
                schema=answer_schema(len(self.request.originals)),
                seed=None if parameters.seed is None else parameters.seed + self.attempt,
                temperature=parameters.temperature,
                max_tokens=parameters.max_tokens,
            ),
        }

    def estimated_tokens(self) -> tuple[int, int]:
        """Prompt and completion tokens that the open question will roughly take."""
        prompt = sum(estimate_tokens(message["content"]) + 4 for message in self.messages)
        return prompt, 6 + 3 * len(self.request.originals)

    def question(self) -> Question:
        """The open question as it goes into the cache."""
        return Question(
            key=self.key,
            qid=self.request.qid,
            level=self.request.level,
            attempt=self.attempt,
            masked_query=self.request.masked_query,
            model=self._parameters.model,
            prompt_version=PROMPT_VERSION,
            parameters=json.dumps(asdict(self._parameters), sort_keys=True),
        )


def estimate_run(
    requests: Sequence[FillRequest],
    parameters: ChatParameters,
    cache: AnswerCache,
    *,
    max_questions: int,
    price: Price | None,
) -> Estimate:
    """What filling the requests would take beyond the cache, if every first answer can be used; sends nothing."""
    open_questions: dict[bytes, tuple[int, int]] = {}
    from_cache = 0
    for request in requests:
        dialogue = Dialogue(request, parameters)
        if dialogue.replay(cache, max_questions) is None:
            open_questions[dialogue.key] = dialogue.estimated_tokens()
        else:
            from_cache += 1
    prompt_tokens = sum(prompt for prompt, _ in open_questions.values())
    completion_tokens = sum(completion for _, completion in open_questions.values())
    cost = None if price is None else price.cost_usd(prompt_tokens, completion_tokens)
    return Estimate(len(open_questions), from_cache, prompt_tokens, completion_tokens, cost)


def record_answer(question: Question, raw: str, *, cost_usd: float | None, batch_id: str | None = None) -> Answer:
    """The record of a completion that has just come, whatever is in it."""
    prompt_tokens, completion_tokens = read_usage(raw) or (0, 0)
    completion = _as_object(raw)
    return Answer(
        **vars(question),
        raw=raw,
        model_version=_text_or_none(completion.get("model")),
        finish_reason=_text_or_none(_first_choice(completion).get("finish_reason")),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cost_usd=cost_usd,
        received_at=time.time(),
        batch_id=batch_id,
    )


def read_usage(raw: str) -> tuple[int, int] | None:
    """Prompt and completion tokens that a chat completion says it took, None if it does not say."""
    usage = _as_object(raw).get("usage")
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens") or 0
    return counts if all(type(count) is int and count >= 0 for count in counts) else None


def is_completion(raw: str) -> bool:
    """Whether a body is a chat completion at all, whatever it says."""
    return bool(_first_choice(_as_object(raw)))


def read_content(raw: str) -> str:
    """The text of a chat completion.

    Raises:
        UnusableAnswer: `not_json`, `malformed_response`, `refusal`, `truncated` or `empty_answer`.
    """
    completion = _as_object(raw)
    if not completion:
        raise UnusableAnswer("not_json", repr(raw[:120]))
    choice = _first_choice(completion)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise UnusableAnswer("malformed_response", repr(raw[:120]))
    if message.get("refusal"):
        raise UnusableAnswer("refusal", str(message["refusal"])[:120])
    if choice.get("finish_reason") == "content_filter":
        raise UnusableAnswer("refusal", "content filter")
    if choice.get("finish_reason") == "length":
        raise UnusableAnswer("truncated", "the answer did not fit into max_tokens")
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise UnusableAnswer("empty_answer")
    return content


def _as_object(raw: str) -> dict:
    try:
        value = json.loads(raw)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _first_choice(completion: dict) -> dict:
    choices = completion.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None
