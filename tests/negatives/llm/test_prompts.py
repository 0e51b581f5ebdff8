import json
from dataclasses import replace

import pytest

from shine_hf.negatives.llm.prompts import UnusableAnswer, answer_schema, build_messages, parse_answer

from ..requests_made_up import make_request


def test_prompt_holds_masked_query_originals_and_dictionary():
    system, user = build_messages(make_request(7))
    assert (system["role"], user["role"]) == ("system", "user")
    assert "person <mask> the <mask> 7." in user["content"]
    assert 'Blank 1: verb, not "opens"' in user["content"] and 'Blank 2: noun, not "door"' in user["content"]
    assert "closes" in user["content"] and "basket" in user["content"]


def test_original_is_not_offered_as_a_candidate():
    offered = build_messages(make_request())[1]["content"].split("preferably one of: ")[1].split("\n")[0].split(", ")
    assert "opens" not in offered and set(offered) < set(make_request().candidates[0])


def test_large_dictionaries_are_sampled_per_row_and_repeatably():
    words = tuple(f"word{i}" for i in range(500))
    first = replace(make_request(), candidates=(words, words))
    other = replace(first, qid="another_row")
    assert build_messages(first) == build_messages(first)
    assert build_messages(first) != build_messages(other)
    assert build_messages(first)[1]["content"].count("word") < 100


def test_rejections_say_what_was_wrong():
    request = make_request().rejected("person opens the door 0.", ["original_word", "equals_query"])
    content = build_messages(request)[1]["content"]
    assert "original word, equals query" in content and '"person opens the door 0."' in content
    assert build_messages(request) != build_messages(make_request())


def test_schema_asks_for_one_word_per_mask():
    schema = answer_schema(3)["json_schema"]["schema"]
    assert schema["required"] == ["words"]
    assert (schema["properties"]["words"]["minItems"], schema["properties"]["words"]["maxItems"]) == (3, 3)


@pytest.mark.parametrize(
    "content",
    [
        '{"words": ["lifts", "box"]}',
        ' {"words":["lifts ","box"]}\n',
        '```json\n{"words": ["lifts", "box"]}\n```',
        '["lifts", "box"]',
        '{"answer": ["lifts", "box"]}',
        "person lifts the box 0.",
        '"person lifts the box 0."',
        '{"sentence": "person lifts the box 0."}',
    ],
)
def test_parse_takes_every_unambiguous_form(content):
    assert parse_answer(content, make_request()) == ["lifts", "box"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("", "empty_answer"),
        ("```\n```", "empty_answer"),
        ('{"words": ["lifts"]}', "too_few_words"),
        ('{"words": []}', "too_few_words"),
        ('{"words": ["a", "b", "c"]}', "too_many_words"),
        ('{"words": ["lifts", ""]}', "empty_word"),
        ('{"words": ["lifts", 3]}', "malformed_answer"),
        ('{"words": null}', "malformed_answer"),
        ('{"words": ["lifts", "box"', "malformed_answer"),
        ("Sure! lifts and box", "malformed_answer"),
        ("somebody lifts the box 0.", "malformed_answer"),
        ("42", "malformed_answer"),
        ('{"words": ["lifts", "b\\u0000x"]}', "malformed_answer"),
        ('{"words": ["lifts", "b\\ud800x"]}', "malformed_answer"),
    ],
)
def test_parse_refuses_the_rest_and_says_why(content, kind):
    with pytest.raises(UnusableAnswer) as caught:
        parse_answer(content, make_request())
    assert caught.value.kind == kind


def test_two_words_in_one_mask_are_left_to_validation():
    assert parse_answer(json.dumps({"words": ["picks  up", "box"]}), make_request()) == ["picks up", "box"]
