"""The prompts for language models, and the follow-up questions after unusable answers.

The model gets a masked query and, for each mask, a sample of the training vocabulary (in SHINE, an LLM recomposes the masked query with
words from the dictionary). It answers with `{"words": [...]}`, one word per mask, so it cannot change the other words.
"""

from __future__ import annotations

import json
import random
from typing import Any

from shine_hf.negatives.generators.base import Fill, FillRequest
from shine_hf.negatives.language.masking import fill_masks
from shine_hf.schema import MASK

from .answers import UnusableAnswer, read_words
from .cache import AnswerCache, Row, request_key
from .client import Endpoint

# Part of every cache key. Increase it when a message changes. Then all answers must be paid for again.
PROMPT_VERSION = "1"
CANDIDATES_PER_MASK = 40
# The token limit after an answer was truncated: models that think first need more.
GROWTH, MIN_GROWN_TOKENS = 4, 4096

_SYSTEM = (
    f"You rewrite short descriptions of events in videos. Some words of a description were blanked out as {MASK}. "
    "Fill every blank with exactly one new English word, so that the sentence stays grammatical and plausible, "
    "describes something that could be filmed, and clearly means something else than before. "
    "Never use the word that stood there before, another form of it, or a synonym of it. "
    'Answer with JSON only: {"words": ["first blank", "second blank", ...]}, one word per blank, in order.'
)

_PART_OF_SPEECH = {"VERB": "verb", "NOUN": "noun", "PROPN": "noun", "ADJ": "adjective", "ADP": "preposition"}
_PART_OF_SPEECH |= {"ADV": "adverb", "PRON": "pronoun or noun"}


def build_messages(request: FillRequest) -> list[dict[str, str]]:
    """Return the chat messages for a request. They depend only on the request, including its rejections."""
    lines = [f"Description: {request.masked_query}"]
    for index, original in enumerate(request.originals):
        part_of_speech = request.parts_of_speech[index]
        line = f"Blank {index + 1}: {_PART_OF_SPEECH.get(part_of_speech, 'word')}, not {json.dumps(original)}"
        if words := _sample_candidates(request, index):
            line += "; preferably one of: " + ", ".join(words)
        lines.append(line)
    for rejection in request.rejections:
        reasons = ", ".join(flag.replace("_", " ") for flag in rejection.flags)
        lines.append(f"An earlier answer was rejected ({reasons}): {json.dumps(rejection.answer, ensure_ascii=False)}")
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "\n".join(lines)}]


def _sample_candidates(request: FillRequest, index: int) -> list[str]:
    # A different sample for every row instead of the most frequent words. Otherwise the 40 most frequent verbs would fill the dataset,
    # and identical queries of different videos would all get the same negative.
    if index >= len(request.candidates):
        return []
    words = [word for word in request.candidates[index] if word != request.originals[index]]
    if len(words) > CANDIDATES_PER_MASK:
        rng = random.Random(f"{request.qid}/{request.level}/{index}")
        words = rng.sample(words, CANDIDATES_PER_MASK)
    return words


def answer_schema(masks: int) -> dict[str, Any]:
    """Return the JSON schema of the answer to a query with this number of masks, as `response_format` of a chat completion."""
    words = {"type": "array", "items": {"type": "string"}, "minItems": masks, "maxItems": masks}
    schema = {"type": "object", "properties": {"words": words}, "required": ["words"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "filled_blanks", "strict": True, "schema": schema}}


class Dialogue:
    """The questions about one request: a first one, and another one after each unusable answer.

    They are replayed from the cache, so a restarted process continues where the last one stopped. `key` is the cache key of the open
    question; `grown` is True if its token limit has been raised.

    Args:
        request: The request.
        parameters: `model`, `temperature`, `seed` and `max_tokens`, which are part of the cache key.
        max_questions: Maximum number of questions.
    """

    def __init__(self, request: FillRequest, parameters: dict[str, Any], max_questions: int) -> None:
        self.request, self._parameters, self._max_questions = request, parameters, max_questions
        self._asked, self._attempt, self.grown = request, 0, False
        self._open_question()

    def _open_question(self) -> None:
        self._messages = build_messages(self._asked)
        # The key leaves out the endpoint's URL and the response format, so the same model at another endpoint is not paid for again.
        parts = {"prompt_version": PROMPT_VERSION, "parameters": self._parameters, "attempt": self._attempt}
        self.key = request_key(messages=self._messages, **parts)

    def replay(self, cache: AnswerCache) -> Fill | None:
        """Replay the cached answers. Return a `Fill` if they settle the request, or None if the open question must be asked."""
        while (raw := cache.get(self.key)) is not None:
            try:
                return Fill(self.request, fill_masks(self.request.masked_query, read_words(raw, self.request)))
            except UnusableAnswer as problem:
                was_cut = problem.kind == "truncated"
                self._attempt += 1
                if self._attempt == self._max_questions or (was_cut and self.grown):
                    return Fill(self.request, None, str(problem))
                if not was_cut:
                    self._asked = self._asked.rejected(problem.answer[:200], (problem.kind,))
                self.grown |= was_cut
                self._open_question()
        return None

    def body(self, endpoint: Endpoint, tries: int = 0) -> dict[str, Any]:
        """Return the chat completion request for the open question. The seed changes with `tries`, the attempts without an answer."""
        optional = dict(self._parameters)
        model, seed, limit = optional.pop("model"), optional["seed"], optional["max_tokens"]
        optional["seed"] = None if seed is None else seed + self._attempt + tries
        optional["max_tokens"] = max(GROWTH * limit, MIN_GROWN_TOKENS) if self.grown else limit
        schema = answer_schema(len(self.request.originals))
        return {"model": model, "messages": self._messages, **endpoint.supported(response_format=schema, **optional)}

    def question(self) -> Row:
        """Return the open question as a row of the cache."""
        row = {name: getattr(self.request, name) for name in ("qid", "level", "masked_query")}
        parameters = json.dumps(self._parameters, sort_keys=True)
        row |= {"model": self._parameters["model"], "prompt_version": PROMPT_VERSION, "parameters": parameters}
        return {"key": self.key, "attempt": self._attempt, **row}
