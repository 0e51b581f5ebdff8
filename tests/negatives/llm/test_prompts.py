from dataclasses import replace

from shine_hf.negatives.llm.prompts import Dialogue, answer_schema, build_messages

from ..requests_made_up import make_request


def test_prompt_contains_masked_query_originals_and_candidates():
    system, user = build_messages(make_request(7))
    assert (system["role"], user["role"]) == ("system", "user")
    assert "person <mask> the <mask> 7." in user["content"]
    assert 'Blank 1: verb, not "opens"' in user["content"] and 'Blank 2: noun, not "door"' in user["content"]
    assert "closes" in user["content"] and "basket" in user["content"]


def test_original_is_not_offered_as_a_candidate():
    offered = build_messages(make_request())[1]["content"].split("preferably one of: ")[1].split("\n")[0].split(", ")
    assert "opens" not in offered and set(offered) < set(make_request().candidates[0])


def test_large_candidate_lists_are_sampled_reproducibly_per_row():
    words = tuple(f"word{i}" for i in range(500))
    first = replace(make_request(), candidates=(words, words))
    other = replace(first, qid="another_row")
    assert build_messages(first) == build_messages(first)
    assert build_messages(first) != build_messages(other)
    assert build_messages(first)[1]["content"].count("word") < 100


def test_prompt_lists_rejected_answers_with_reasons():
    request = make_request().rejected("person opens the door 0.", ["original_word", "equals_query"])
    content = build_messages(request)[1]["content"]
    assert "original word, equals query" in content and '"person opens the door 0."' in content
    assert build_messages(request) != build_messages(make_request())


def test_schema_asks_for_one_word_per_mask():
    schema = answer_schema(3)["json_schema"]["schema"]
    assert schema["required"] == ["words"]
    assert (schema["properties"]["words"]["minItems"], schema["properties"]["words"]["maxItems"]) == (3, 3)


def test_prompt_version_pins_the_prompt_text():
    """Cached answers are found by keys made from the prompt. If it must change, raise PROMPT_VERSION and note it in the changelog."""
    parameters = {"model": "gpt-3.5-turbo", "temperature": 0.7, "seed": 0, "max_tokens": 256}
    dialogue = Dialogue(make_request(7), parameters, max_questions=5)
    assert dialogue.key.hex() == "0d2f1e5e70c6694941aed5edf5a2e8a3521b3ce2969485bfc040567ce2eedbdd"
