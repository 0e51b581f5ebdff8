import json
from dataclasses import replace

import pytest

from shine_hf.negatives.llm.answers import (
    NoAnswer,
    UnusableAnswer,
    is_answer,
    parse_words,
    read_facts,
    read_text,
    read_words,
    without_thinking,
)

from ..requests_made_up import make_request

GOOD = '{"words": ["lifts", "box"]}'
NO = '{"words": ["no", "no"]}'


def body(content, finish_reason="stop", **message):
    message = {"role": "assistant", "content": content, **message}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}]})


ONE_MASK = replace(
    make_request(),
    template=("person", "<mask>", "the", "door", "."),
    masked_query="person <mask> the door.",
    originals=("opens",),
    parts_of_speech=("VERB",),
    candidates=((),),
)


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        ' {"words":["lifts ","box"]}\n',
        # thinking
        f"<think>Maybe {NO}</think>\n{GOOD}",
        f"<think>a <think>b</think> {NO}</think> {GOOD}",
        f"Let me see: {NO}\n</think>\n\n{GOOD}",
        f"<THINKING>{NO}</THINKING>{GOOD}<think>one more",
        f"[THINK]{NO}[/THINK]{GOOD}",
        f"<|channel|>analysis<|message|>{NO}<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}",
        # prose and fences
        f"```json\n{GOOD}\n```",
        f"Sure! Here are the words:\n```json\n{GOOD}\n```\nDo you need more?",
        f"```\nperson <mask> the <mask>\n```\nbecomes\n```\n{GOOD}\n```",
        f"As asked for ({{one word}} per blank): {GOOD} {NO}",
        f'The form is {{"words": ["first blank", "second blank"]}}. {GOOD}',
        f'The form is {{"words": ["first blank", ...]}}. {GOOD}',
        # almost JSON
        '{"words": ["lifts", "box",],}',
        "{'words': ['lifts', 'box']}",
        '{words: ["lifts", "box"]}',
        "{“words”: [“lifts”, “box”]}",
        '{"words": ["lifts", // a verb\n "box"]}',
        '{"words": ["lifts", "box"]',
        # other forms
        '{"Words": ["lifts", "box"]}',
        '{"WORDS": ["lifts", "box"]}',
        '{"words": [["lifts"], ["box"]]}',
        '{"words": [["lifts", "box"]]}',
        '{"words": "lifts, box"}',
        '{"words": ["lifts, box"]}',
        '{"words": "[\\"lifts\\", \\"box\\"]"}',
        '{"words": {"1": "lifts", "2": "box"}}',
        '{"1": "lifts", "2": "box"}',
        '{"blank 2": "box", "blank 1": "lifts"}',
        '{"first": "lifts", "second": "box"}',
        '{"opens": "lifts", "door": "box"}',
        '{"answer": {"words": ["lifts", "box"]}}',
        '{"reasoning": "a, b", "words": ["lifts", "box"]}',
        '{"words": [{"blank": 1, "word": "lifts"}, {"blank": 2, "word": "box"}]}',
        '[{"words": ["lifts", "box"]}]',
        '["lifts", "box"]',
        '{"answer": ["lifts", "box"]}',
        "person lifts the box 0.",
        '"person lifts the box 0."',
        "Here it is:\n**Person lifts the box 0**",
        '{"sentence": "person lifts the box 0."}',
    ],
)
def test_first_matching_object_is_used(content):
    assert read_words(body(content), make_request()) == ["lifts", "box"]


@pytest.mark.parametrize(
    "content", ['{"words": "kicks"}', '{"word": ["kicks"]}', '{"words": [["kicks"]]}', '{"1": "kicks"}']
)
def test_single_word_answers_are_read(content):
    assert parse_words(f"For [verb] and {{verb}} I choose {content}", ONE_MASK) == ["kicks"]


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": GOOD}],
        [{"type": "thinking", "thinking": [{"type": "text", "text": NO}]}, {"type": "text", "text": GOOD}],
        [{"type": "reasoning", "text": NO}, {"text": GOOD}],
        ["Sure: ", GOOD],
        {"words": ["lifts", "box"]},
    ],
)
def test_content_parts_are_joined(content):
    assert read_words(body(content), make_request()) == ["lifts", "box"]


def test_reasoning_fields_are_ignored():
    assert read_words(body(GOOD, reasoning=NO, reasoning_content=NO), make_request()) == ["lifts", "box"]
    with pytest.raises(NoAnswer, match="empty_answer"):
        read_words(body("", reasoning_content=GOOD), make_request())


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('{"words": ["lifts"]}', "too_few_words"),
        ('{"words": []}', "too_few_words"),
        ('{"words": ["a", "b", "c"]}', "too_many_words"),
        ('{"ideas": ["a", "b"], "words": ["c"]}', "too_few_words"),
        ('{"words": ["lifts", ""]}', "empty_word"),
        ('{"words": ["lifts", 3]}', "malformed_answer"),
        ('{"words": ["lifts", "<mask>"]}', "malformed_answer"),
        ('{"words": null}', "malformed_answer"),
        ('{"words": ["lifts", "box"', "malformed_answer"),
        ('{"words": ["lifts", "b\\u0000x"]}', "malformed_answer"),
        ('{"words": ["lifts", "b\\ud800x"]}', "malformed_answer"),
        ('{"was": "opens", "is": "lifts"}', "malformed_answer"),
        ("Sure! lifts and box", "malformed_answer"),
        ("person <mask> the <mask> 0.", "malformed_answer"),
        ("somebody lifts the box 0.", "malformed_answer"),
        ("42", "malformed_answer"),
        ("{" * 5000 + "[" * 5000, "malformed_answer"),
    ],
)
def test_other_answers_are_rejected_with_a_reason(content, kind):
    with pytest.raises(UnusableAnswer) as caught:
        read_words(body(content), make_request())
    assert caught.value.kind == kind
    assert not isinstance(caught.value, NoAnswer)
    assert is_answer(body(content))


def test_two_words_in_one_mask_are_accepted_for_validation():
    assert parse_words(json.dumps({"words": ["picks  up", "box"]}), make_request()) == ["picks up", "box"]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ("<html>", "not_json"),
        ("", "not_json"),
        ("[]", "not_json"),
        ('{"error": "x"}', "provider_error"),
        ('{"choices": null, "error": {"message": "Provider returned error", "code": 502}}', "provider_error"),
        (body("", finish_reason="error"), "provider_error"),
        (body(GOOD, finish_reason="error"), "provider_error"),
        ('{"choices": []}', "no_choices"),
        ('{"choices": [{"message": null}]}', "no_choices"),
        (body(None), "empty_answer"),
        (body(" \n"), "empty_answer"),
        (body([1]), "empty_answer"),
        (body("<think>and so on"), "empty_answer"),
        (body(None, refusal="I cannot"), "refusal"),
        (body([{"type": "refusal", "refusal": "I cannot"}]), "refusal"),
        (body(GOOD, finish_reason="content_filter"), "refusal"),
    ],
)
def test_replies_without_an_answer_are_errors(raw, kind):
    with pytest.raises(NoAnswer) as caught:
        read_words(raw, make_request())
    assert caught.value.kind == kind
    assert not is_answer(raw)


@pytest.mark.parametrize("content", ["", None, "<think>and so on", '{"words": ["lifts", "b'])
def test_truncated_answers_are_recognized(content):
    raw = body(content, finish_reason="length")
    with pytest.raises(UnusableAnswer, match="truncated"):
        read_words(raw, make_request())
    assert is_answer(raw)  # it was charged
    assert read_words(body(GOOD + "\n" * 50, finish_reason="length"), make_request()) == ["lifts", "box"]


def test_error_text_excludes_thinking():
    with pytest.raises(UnusableAnswer) as caught:
        read_words(body("<think>secret</think>I like the weather"), make_request())
    assert caught.value.answer == read_text(body("I like the weather"))
    assert str(caught.value) == "malformed_answer: 'I like the weather'"
    assert without_thinking("no thinking < here >") == "no thinking < here >"


def test_invalid_usage_numbers_are_ignored():
    facts = read_facts(
        '{"model": "m-1", "usage": {"prompt_tokens": 3, "completion_tokens": 4}, "choices": [{"finish_reason": "stop"}]}'
    )
    assert facts == {"model_version": "m-1", "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 4}
    for raw in (
        '{"usage": null}',
        '{"usage": {"prompt_tokens": -1}}',
        '{"usage": {"prompt_tokens": "3"}, "model": 7}',
        "x",
    ):
        assert set(read_facts(raw).values()) == {None, 0}
