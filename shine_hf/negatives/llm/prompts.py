"""What a language model is asked, and how its answer is read.

The model sees a masked query and, for each mask, a sample of the training vocabulary (SHINE: an LLM
recomposes the masked query with words of the dictionary), and answers with `{"words": [...]}`, one word per mask: the
unmasked words cannot change then. Nothing here talks to a server.
"""

from __future__ import annotations

import json
import random
import re

from shine_hf.negatives.generators.base import FillRequest
from shine_hf.negatives.language.masking import MASK, extract_fills

# Part of every cache key: raise it whenever a message or the schema changes.
PROMPT_VERSION = "1"
CANDIDATES_PER_MASK = 40

_SYSTEM = (
    f"You rewrite short descriptions of events in videos. Some words of a description were blanked out as {MASK}. "
    "Fill every blank with exactly one new English word, so that the sentence stays grammatical and plausible, "
    "describes something that could be filmed, and clearly means something else than before. "
    "Never use the word that stood there before, another form of it, or a synonym of it. "
    'Answer with JSON only: {"words": ["first blank", "second blank", ...]}, one word per blank, in order.'
)

_PART_OF_SPEECH = {
    "VERB": "verb",
    "NOUN": "noun",
    "PROPN": "noun",
    "ADJ": "adjective",
    "ADP": "preposition",
    "ADV": "adverb",
    "PRON": "pronoun or noun",
}


class UnusableAnswer(ValueError):
    """An answer that arrived but cannot be put into the masked query. `kind` is a short name, the text says why."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


def build_messages(request: FillRequest) -> list[dict[str, str]]:
    """The chat messages for one request: always the same for the same request, and different for each rejection."""
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
    # A sample, not the most frequent words, and one of its own for every row: otherwise the 40 commonest verbs would
    # fill the whole dataset, and equal queries of different videos would all get the same negative.
    if index >= len(request.candidates):
        return []
    words = [word for word in request.candidates[index] if word != request.originals[index]]
    if len(words) > CANDIDATES_PER_MASK:
        chooser = random.Random(f"{request.qid}/{request.level}/{index}")
        words = chooser.sample(words, CANDIDATES_PER_MASK)
    return words


def answer_schema(number_of_masks: int) -> dict:
    """JSON schema of the answer, in the form of `response_format` of the chat completions API."""
    words = {
        "type": "array",
        "items": {"type": "string"},
        "minItems": number_of_masks,
        "maxItems": number_of_masks,
    }
    schema = {"type": "object", "properties": {"words": words}, "required": ["words"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "filled_blanks", "strict": True, "schema": schema}}


def parse_answer(content: str, request: FillRequest) -> list[str]:
    """The words of an answer, one per mask.

    Taken are the JSON object asked for, also inside a code fence, a bare JSON list, and the whole filled description
    when nothing but the masked words differs. Anything else is refused, not guessed at.

    Raises:
        UnusableAnswer: `empty_answer`, `malformed_answer`, `too_few_words`, `too_many_words` or
            `empty_word`.
    """
    text = _without_fence(content.strip())
    if not text:
        raise UnusableAnswer("empty_answer")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(value, dict):
        value = value.get("words", next(iter(value.values()), None) if len(value) == 1 else None)
    words = extract_fills(request.masked_query.strip(), value.strip()) if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UnusableAnswer("malformed_answer", _shorten(text))
    if len(words) != len(request.originals):
        kind = "too_few_words" if len(words) < len(request.originals) else "too_many_words"
        raise UnusableAnswer(kind, f"{len(words)} words for {len(request.originals)} masks")
    # Inner spaces stay: two words in one mask are for validation to name, the template is still intact.
    words = [" ".join(word.split()) for word in words]
    if not all(words):
        raise UnusableAnswer("empty_word", _shorten(text))
    if not all(word.isprintable() for word in words):  # control characters, halves of a surrogate pair
        raise UnusableAnswer("malformed_answer", _shorten(text))
    return words


def _without_fence(text: str) -> str:
    match = re.fullmatch(r"```[a-zA-Z]*\s*(.*?)\s*```", text, flags=re.DOTALL)
    return match.group(1) if match else text


def _shorten(text: str, limit: int = 120) -> str:
    return repr(text if len(text) <= limit else text[:limit] + "…")
