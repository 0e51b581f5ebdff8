"""Parse the answers of language models, which may contain thinking, prose, code fences, several parts, and invalid JSON.

The words are taken from the first JSON object in the text that has one word per mask. Thinking before the answer is never mistaken for the
answer.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from shine_hf.negatives.alignment import align
from shine_hf.negatives.generators.base import FillRequest
from shine_hf.negatives.language.masking import extract_fills
from shine_hf.schema import MASK

_MAX_BRACKETS = 200  # Per text. A text with thousands of brackets is not an answer.
_TAG = r"(?:think(?:ing)?|thoughts?|reasoning|reflection)"
_THINKING_BEGINS = rf"[<\[◁]\s*{_TAG}\s*[>\]▷]|<\|channel\|>\s*analysis.*?<\|message\|>"
_THINKING_ENDS = rf"[<\[◁]\s*/{_TAG}\s*[>\]▷]|<\|channel\|>\s*final.*?<\|message\|>"
_THINKING_FIELDS = frozenset("reasoning thinking thought thoughts explanation rationale analysis reason notes".split())
_WORD_FIELDS = "words word answers answer fills fill blanks replacements replacement value".split()
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
_QUOTES = str.maketrans("“”„‟", '""""')
_DECODER = json.JSONDecoder(strict=False)


class UnusableAnswer(ValueError):
    """An answer that cannot fill the masked query, with its `kind`, e.g. `too_few_words`, and its text without thinking."""

    def __init__(self, kind: str, detail: str = "", answer: str = "") -> None:
        detail = detail or answer
        shortened = repr(detail if len(detail) <= 120 else detail[:120] + "…")
        super().__init__(f"{kind}: {shortened}" if detail else kind)
        # Unpaired surrogates can be neither sent nor stored.
        self.kind, self.answer = kind, answer.encode("utf-8", "replace").decode()


class NoAnswer(UnusableAnswer):
    """A response with status 200 that contains no answer from the model: an error, a refusal, or no text. It is never cached."""


def read_words(raw: str, request: FillRequest) -> list[str]:
    """Parse the words in the body of a chat completion, one per mask.

    Raises:
        NoAnswer: `not_json`, `provider_error`, `no_choices`, `refusal` or `empty_answer`.
        UnusableAnswer: `malformed_answer`, `too_few_words`, `too_many_words`, `empty_word`, or `truncated` by the token limit.
    """
    text = read_text(raw)
    try:
        return parse_words(text, request)
    except UnusableAnswer:
        if read_facts(raw)["finish_reason"] == "length":
            raise UnusableAnswer("truncated", answer=text) from None
        raise


def read_text(raw: str) -> str:
    """Return the text of a chat completion, without thinking.

    Raises:
        NoAnswer: if the response has no answer from the model.
        UnusableAnswer: `truncated`, if thinking used up the token limit.
    """
    completion = json_object(raw)
    if not completion:
        raise NoAnswer("not_json", raw)
    choice = _first_choice(completion)
    reason = choice.get("finish_reason")
    if error := completion.get("error") or choice.get("error") or (reason == "error" and "finish_reason error"):
        raise NoAnswer("provider_error", error if isinstance(error, str) else json.dumps(error))
    message = choice.get("message")
    if not isinstance(message, dict):
        raise NoAnswer("no_choices", raw)
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    refusals = [part["refusal"] for part in (message, *parts) if isinstance(part, dict) and part.get("refusal")]
    if refusals or reason == "content_filter":
        raise NoAnswer("refusal", str(refusals[0]) if refusals else "content filter")
    text = without_thinking("\n".join(filter(None, map(_text_of_part, parts))))
    if not text:
        raise UnusableAnswer("truncated") if reason == "length" else NoAnswer("empty_answer")
    return text


def is_answer(raw: str) -> bool:
    """Return whether a response has an answer from the model, usable or not."""
    try:
        return bool(read_text(raw))
    except UnusableAnswer as problem:
        return not isinstance(problem, NoAnswer)


def read_facts(raw: str) -> dict[str, Any]:
    """Return the `model_version` and `finish_reason` (or None), `prompt_tokens` and `completion_tokens` (or 0) of a response."""
    completion = json_object(raw)
    usage = completion.get("usage") if isinstance(completion.get("usage"), dict) else {}
    texts = {"model_version": completion.get("model"), "finish_reason": _first_choice(completion).get("finish_reason")}
    facts: dict[str, Any] = {name: text if isinstance(text, str) else None for name, text in texts.items()}
    for name in ("prompt_tokens", "completion_tokens"):
        facts[name] = usage[name] if type(usage.get(name)) is int and usage[name] > 0 else 0
    return facts


def without_thinking(text: str) -> str:
    """Remove thinking from a text: between tags, before a closing tag only, or after an opening tag only."""
    flags = re.DOTALL | re.IGNORECASE
    text = re.sub(f"(?:{_THINKING_BEGINS}).*?(?:{_THINKING_ENDS})", " ", text, flags=flags)
    text = re.split(_THINKING_ENDS, text, flags=flags)[-1]
    return re.split(_THINKING_BEGINS, text, flags=flags)[0].strip()


def parse_words(text: str, request: FillRequest) -> list[str]:
    """Parse the words in a text: from the first suitable JSON object, else from the first list, else from the filled description itself.

    Raises:
        UnusableAnswer: see [`read_words`].
    """
    kind = ""
    for words in itertools.chain((_words(value, request) for value in _values(text)), [_fills(text, request)]):
        if words is None:
            continue
        words = [" ".join(word.split()) for word in words]
        if not (problem := _problem(words, request)):
            return words
        kind = kind or problem
    raise UnusableAnswer(kind or "malformed_answer", answer=text)


def _problem(words: list[str], request: FillRequest) -> str | None:
    if len(words) != len(request.originals):
        return "too_few_words" if len(words) < len(request.originals) else "too_many_words"
    if not all(words):
        return "empty_word"
    # Reject control characters and unpaired surrogates, the example in the prompt, and masks that were not filled.
    is_valid = all(word.isprintable() and not re.fullmatch(rf"\w+ blank|\W+|.*{MASK}.*", word) for word in words)
    return None if is_valid else "malformed_answer"


def _words(value: object, request: FillRequest, count: int | None = None) -> list[str] | None:
    """Return the words (`count`; by default one per mask) in a value, however it is nested; None if there are none."""
    count = count or len(request.originals)
    if isinstance(value, str):
        if fills := _fills(value, request):
            return fills
        if value.strip()[:1] in ("{", "["):
            return next(filter(None, (_words(inner, request, count) for inner in _values(value))), None)
        return re.split(r"[,;/|\n]", value) if count > 1 else [value]
    if isinstance(value, dict):
        fields = {str(name).strip().lower(): item for name, item in value.items()}
        fields = {name: item for name, item in fields.items() if name not in _THINKING_FIELDS}
        originals = [word.lower() for word in request.originals]
        numbers = {_number(name): item for name, item in fields.items()}
        if names := [name for name in _WORD_FIELDS if name in fields]:
            return _words(fields[names[0]], request, count)
        if set(fields) == set(originals):
            return _words([fields[word] for word in originals], request, count)
        if None not in numbers and len(numbers) == len(fields):
            return _words([numbers[number] for number in sorted(numbers)], request, count)
        return _words(next(iter(fields.values())), request, count) if len(fields) == 1 else None
    if not isinstance(value, list | tuple):
        return None
    if len(value) == 1 and (count > 1 or not isinstance(value[0], str)):
        return _words(value[0], request, count)
    items = [[item] if isinstance(item, str) else _words(item, request, 1) for item in value]
    return [word for [word] in items] if all(item and len(item) == 1 for item in items) else None


def _number(name: str) -> int | None:
    """Return the number in `1`, `blank 2`, `mask_3`, `second`, `first blank`."""
    if match := re.search(r"\d+", name):
        return int(match.group())
    return next((number for number, ordinal in enumerate(_ORDINALS, start=1) if ordinal in name), None)


def _fills(text: str, request: FillRequest) -> list[str] | None:
    """Return the fills if the text, or a line of it, is the filled description; None otherwise. Only the masked words may differ."""
    for line in (text, *text.splitlines()):
        fills = extract_fills(request.masked_query.strip(), line.strip(" \t\n\"'`*"))
        if fills is None and (alignment := align(request.masked_query, line)).problem is None:
            fills = [word for [word] in alignment.fills]
        if fills and MASK not in fills:
            return fills
    return None


def _values(text: str) -> Iterator[object]:
    """Yield the parsable values in braces in a text, then those in brackets outside the braces."""
    text = text.translate(_QUOTES)
    read: list[range] = []
    for opening, closing in ("{}", "[]"):
        for match in itertools.islice(re.finditer(re.escape(opening), text), _MAX_BRACKETS):
            start = match.start()
            if any(start in part for part in read):
                continue
            try:
                value, end = _DECODER.raw_decode(text, start)
            except (ValueError, RecursionError):
                end = _closing_end(text, start, opening, closing)
                value = _read_leniently(text[start:end])
            if value is not None:
                read.append(range(start, end))
                yield value


def _closing_end(text: str, start: int, opening: str, closing: str) -> int:
    """Return the position after the bracket that closes the one at `start`; `start` if there is none."""
    depth = 0
    for match in re.finditer(f"[{re.escape(opening + closing)}]", text[start:]):
        depth += 1 if match.group() == opening else -1
        if depth == 0:
            return start + match.end()
    return start


def _read_leniently(text: str) -> object | None:
    """Parse almost-valid JSON, with trailing commas, single quotes, bare keys or comments. YAML's flow style allows most of these."""
    import yaml

    text = re.sub(r"//[^\n]*$", "", text, flags=re.MULTILINE)
    # Do not parse lists as YAML, since [verb] in prose would be one.
    for read in [lambda: yaml.load(text, yaml.BaseLoader)] * text.startswith("{") + [lambda: ast.literal_eval(text)]:
        try:
            return read()
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, yaml.YAMLError):
            continue
    return None


def _text_of_part(part: object) -> str | None:
    if not isinstance(part, dict):
        return part if isinstance(part, str) else None
    if part.get("type", "text") not in ("text", "output_text"):
        return None
    # A part without text is an answer that the endpoint has already parsed.
    return part["text"] if isinstance(part.get("text"), str) else json.dumps(part)


def json_object(raw: str | bytes) -> dict[str, Any]:
    """Parse a JSON object; return an empty one if the text is not a JSON object."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _first_choice(completion: dict[str, Any]) -> dict[str, Any]:
    choices = completion.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}
