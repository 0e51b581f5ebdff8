from collections import Counter

import pytest
from datasets import Dataset

from shine_hf.negatives.generate import generate_negatives, repair_negatives
from shine_hf.negatives.generators.base import Fill
from shine_hf.negatives.language.masking import MaskingOptions, fill_masks
from shine_hf.negatives.language.tagging import Tagger
from shine_hf.negatives.validation import Validator

QUERIES = ["person opens the door.", "person eats a sandwich.", "person throws the red ball."]


@pytest.fixture(scope="module")
def tagger():
    return Tagger()


@pytest.fixture
def dataset():
    return Dataset.from_list(
        [
            {"qid": f"q{i}", "vid": "v", "query": query, "relevant_windows": [[0.0, 5.0]]}
            for i, query in enumerate(QUERIES)
        ]
    )


class Scripted:
    """A generator that answers with a function of the request and records what it was asked."""

    source = "scripted"

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def fill(self, requests):
        self.asked.append([(request.qid, request.level, request.rejections) for request in requests])
        for request in reversed(requests):  # any order is allowed
            answer = self.answer(request)
            yield answer if isinstance(answer, Fill) else Fill(request, answer)


WORDS = ("flies", "kettle", "blue", "tree", "house", "moon")


def good(request, shift=0):
    return fill_masks(
        request.masked_query, [WORDS[(i + request.level + shift) % 6] for i in range(len(request.originals))]
    )


CHECKS = ("missing", "nothing_to_mask", "template_changed", "original_word", "equals_query", "equals_earlier_level")


def run(dataset, generator, tagger, **options):
    return generate_negatives(
        dataset, generator, validator=Validator(CHECKS, tagger=tagger), progress=False, **options
    )


def test_answers_in_any_order_are_assigned_to_their_rows(dataset, tagger):
    negatives, summary = run(dataset, Scripted(good), tagger)
    assert negatives["query"][:] == QUERIES
    assert negatives["masked_queries"][0] == [
        "person <mask> the door.",
        "person <mask> the <mask>.",
        "<mask> <mask> the <mask>.",
    ]
    assert negatives["negative_queries"][0] == [
        "person kettle the door.",
        "person blue the tree.",
        "tree house the moon.",
    ]
    assert negatives["negative_flags"][:] == [[[], [], []]] * 3
    assert str(negatives.features["negative_flags"]) == "List(List(Value('string')))"
    assert (summary.requests, summary.regenerated, summary.clean_rows) == (9, 0, 3)


def test_only_failures_are_asked_again_with_the_reason(dataset, tagger):
    def answer(request):
        if request.qid == "q1" and request.level == 2 and len(request.rejections) < 2:
            return request.query
        return good(request)

    generator = Scripted(answer)
    negatives, summary = run(dataset, generator, tagger)
    assert [len(asked) for asked in generator.asked] == [9, 1, 1]
    [(qid, level, rejections)] = generator.asked[2]
    assert (qid, level, len(rejections)) == ("q1", 2, 2)
    assert rejections[0].answer == QUERIES[1]
    assert set(rejections[0].flags) == {"original_word", "equals_query"}
    assert negatives["negative_flags"][1] == [[], [], []]
    assert (summary.requests, summary.regenerated) == (11, 2)


def test_attempts_are_limited_and_the_best_failure_is_kept_with_its_flags(dataset, tagger):
    def answer(request):
        if request.qid != "q0" or request.level != 1:
            return good(request)
        return ["person opens the door.", "person flies the window.", "a cat opens the cage."][len(request.rejections)]

    generator = Scripted(answer)
    negatives, summary = run(dataset, generator, tagger, max_attempts=3)
    assert [len(asked) for asked in generator.asked] == [9, 1, 1]
    assert negatives["negative_queries"][0][0] == "a cat opens the cage."
    assert negatives["negative_flags"][0] == [["template_changed"], [], []]
    assert summary.clean_rows == 2
    with pytest.raises(ValueError, match="max_attempts must be at least 1"):
        run(dataset, generator, tagger, max_attempts=0)


def test_level_equal_to_a_lower_one_is_asked_again(dataset, tagger):
    def answer(request):
        if request.qid == "q0" and not request.rejections:
            return fill_masks(request.masked_query, WORDS[: len(request.originals)])
        return good(request)

    # Both levels mask the same single word, so the first answers are equal.
    generator = Scripted(answer)
    negatives, _ = run(dataset.select([0]), generator, tagger, masking=MaskingOptions((0.25, 0.3)))
    assert generator.asked[1][0][:2] == ("q0", 2)
    assert len(set(negatives["negative_queries"][0])) == 2


def test_levels_without_an_answer_are_flagged_and_not_asked_again(dataset, tagger):
    def answer(request):
        return Fill(request, None, "budget: max_requests 8 reached") if request.level == 3 else good(request)

    generator = Scripted(answer)
    negatives, summary = run(dataset, generator, tagger)
    assert len(generator.asked) == 1
    assert [row[2] for row in negatives["negative_queries"]] == [""] * 3
    assert [row[2] for row in negatives["negative_flags"]] == [["missing"]] * 3
    assert summary.errors == Counter(budget=3)
    assert "no answer (budget): 3" in str(summary)


def test_generator_that_skips_a_request_is_an_error(dataset, tagger):
    class Forgetful(Scripted):
        def fill(self, requests):
            yield from list(super().fill(requests))[:-1]

    with pytest.raises(ValueError, match="returned no fill for 1 of 9 requests, the first for qid q0, level 1"):
        run(dataset, Forgetful(good), tagger)


def test_query_without_maskable_words_is_flagged_and_not_asked(tagger):
    rows = [{"qid": "q", "vid": "v", "query": "this is it.", "relevant_windows": [[0.0, 1.0]]}]
    generator = Scripted(good)
    negatives, _ = run(Dataset.from_list(rows), generator, tagger)
    assert generator.asked == []
    assert negatives["negative_queries"][0] == ["", "", ""]
    assert negatives["negative_flags"][0] == [["nothing_to_mask"]] * 3


def test_duplicate_qids_are_rejected(dataset, tagger):
    twice = Dataset.from_list([*dataset.to_list(), dataset[0]])
    with pytest.raises(ValueError, match="two rows have the same qid"):
        run(twice, Scripted(good), tagger)


def test_repair_regenerates_only_failing_levels(dataset, tagger):
    rows = [
        {
            **row,
            "masked_queries": ["person <mask> " + query[2], "person <mask> " + query[2]],
            "negative_queries": texts,
        }
        for row, query, texts in [
            (dataset[0], ("person", "opens", "the door."), ["person kicks the door.", "person opens the door."]),
            (dataset[1], ("person", "eats", "a sandwich."), ["person drops a sandwich.", "person wants a sandwich."]),
        ]
    ]
    generator = Scripted(good)
    validator = Validator(CHECKS, tagger=tagger)
    repaired, summary = repair_negatives(
        Dataset.from_list(rows), generator, source="gpt-3.5-turbo", validator=validator, progress=False
    )
    assert [entry[:2] for asked in generator.asked for entry in asked] == [("q0", 2)]
    assert repaired["negative_queries"][:] == [
        ["person kicks the door.", "person blue the door."],
        ["person drops a sandwich.", "person wants a sandwich."],
    ]
    assert repaired["level_sources"][0] == ["gpt-3.5-turbo", "scripted"]
    assert repaired["source"][:] == ["gpt-3.5-turbo-clean"] * 2
    assert summary.clean_rows == 2


def test_repair_requires_negatives_and_matching_templates(dataset, tagger):
    rows = [{**dataset[0], "masked_queries": ["a <mask>."], "negative_queries": ["a cat."]}]
    with pytest.raises(ValueError, match=r"qid q0: the masked query 'a <mask>\.' does not match"):
        repair_negatives(Dataset.from_list(rows), Scripted(good), source="x", progress=False)
    rows = [{**dataset[0], "masked_queries": [], "negative_queries": []}]
    with pytest.raises(ValueError, match="nothing to repair"):
        repair_negatives(Dataset.from_list(rows), Scripted(good), source="x", progress=False)


def test_all_public_names_can_be_imported():
    import shine_hf.negatives

    for name in shine_hf.negatives.__all__:
        assert getattr(shine_hf.negatives, name) is not None
