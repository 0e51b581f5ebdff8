import random
import re
import time
from collections import Counter

import pytest
from datasets import Dataset

from shine_hf.negatives.alignment import Alignment, align, words_of
from shine_hf.negatives.contact import PositiveQueries, TestContact
from shine_hf.negatives.language.masking import mask_query
from shine_hf.negatives.language.tagging import Tagger
from shine_hf.negatives.language.vocabulary import Vocabulary
from shine_hf.negatives.validation import CHECKS, ValidationSummary, Validator, validate_dataset

ROW = {"qid": "v_train_0", "vid": "v", "query": "person takes a red cup.", "relevant_windows": [[5.0, 10.0]]}
TEMPLATE = "person <mask> a red <mask>."


@pytest.fixture(scope="module")
def tagger():
    return Tagger()


def flags(text, template=TEMPLATE, row=ROW, earlier=(), **options):
    return Validator(**options).check_level(row, template, text, earlier=earlier)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("person washes a red box.", []),
        ("person washes  a red box", []),  # spacing and punctuation are not words
        ("", ["missing"]),
        (None, ["missing"]),
        ("person washes the red box.", ["template_changed"]),
        ("person washes a box.", ["template_changed"]),
        ("person carefully washes a red box.", ["extra_words"]),
        ("person washes a red.", ["empty_mask"]),
        ("person takes a red box.", ["original_word"]),
        ("person taking a red box.", ["inflection"]),
        ("person washes a red mug.", ["near_synonym"]),
        ("person __washes__ a red box.", ["markup"]),
        ("person <mask> a red box.", ["markup"]),
        ("Person takes a red cup", ["original_word", "equals_query"]),
        ("person takes a red box.", ["original_word"]),
    ],
)
def test_broken_rules_are_flagged_by_name(text, found):
    assert flags(text) == found


def test_template_without_masks_is_flagged():
    assert flags("this is it.", template="this is it.") == ["nothing_to_mask"]


def test_equal_levels_are_flagged():
    assert flags("person washes a red box.", earlier=["person Washes a red box"]) == ["equals_earlier_level"]
    assert flags("person washes a red box.", earlier=["person opens a red box", ""]) == []


def test_masks_are_aligned_with_added_or_missing_words():
    assert align(TEMPLATE, "person slowly opens a red box.").fills == (("slowly", "opens"), ("box",))
    assert align(TEMPLATE, "person a red box.").problem == "empty_mask"
    assert align(TEMPLATE, "a cat sleeps.").fills == ()
    # Regular expression characters in a template are taken literally.
    assert align("a (big) <mask> + c*", "a (big) dog + c*").fills == (("dog",),)


def align_by_regular_expression(masked_query, text):
    """Compute the same as `align`, with the earlier regular expression, in exponential time."""
    template, words = words_of(masked_query), words_of(text)
    if len(template) == len(words) and all(t in (w, "<mask>") for t, w in zip(template, words)):
        return Alignment(None, tuple((w,) for t, w in zip(template, words) if t == "<mask>"))
    for repeat, problem in (("+?", "extra_words"), ("*?", "empty_mask")):
        pieces = [f"((?: \\S+){repeat})" if word == "<mask>" else re.escape(f" {word}") for word in template]
        if match := re.fullmatch("".join(pieces), "".join(f" {word}" for word in words)):
            return Alignment(problem, tuple(tuple(fill.split()) for fill in match.groups()))
    return Alignment("template_changed")


def test_alignment_matches_the_regular_expression():
    chooser, problems = random.Random(0), Counter()
    for _ in range(5000):
        template = " ".join(chooser.choices(("a", "b", "<mask>"), k=chooser.randrange(8)))
        text = " ".join(chooser.choices(("a", "b", "c", "<mask>"), (4, 4, 3, 1), k=chooser.randrange(10)))
        alignment = align(template, text)
        assert alignment == align_by_regular_expression(template, text), (template, text)
        problems[alignment.problem] += 1
    assert min(problems.values()) > 50 and len(problems) == 4


def test_alignment_takes_linear_time():
    begin = time.perf_counter()
    for masks, words in ((6, 60), (200, 5000)):
        align("person " + "<mask> " * masks + "door", "person " + "word " * words + "window")
        align("a <mask> " * masks + "b", "a " * words)
    assert time.perf_counter() - begin < 1.0  # a regular expression took 12 s for the first one


def test_only_overlapping_positive_queries_are_flagged():
    positives = PositiveQueries(
        [
            {"vid": "v", "query": "person washes a red box.", "relevant_windows": [[9.0, 12.0]]},
            {"vid": "v", "query": "person opens a red box.", "relevant_windows": [[10.0, 12.0]]},
            {"vid": "w", "query": "person throws a red box.", "relevant_windows": [[5.0, 10.0]]},
        ]
    )
    assert flags("person washes a red box.", positives=positives) == ["positive_query"]
    assert flags("person opens a red box.", positives=positives) == []  # touches, does not overlap
    assert flags("person throws a red box.", positives=positives) == []


def test_test_set_leakage_is_flagged_only_if_it_must_be_avoided():
    contact = TestContact(["Person washes a red box"], ["kettle", "red"])
    assert flags("person washes a red box.", test_contact=contact) == ["test_query"]
    assert flags("person fills a red kettle.", test_contact=contact) == ["test_word"]
    assert flags("person fills a red basket.", test_contact=contact) == []  # "red" was in the query already
    assert flags("person fills a red kettle.") == []


def test_part_of_speech_comes_from_the_vocabulary_then_from_the_tagger(tagger):
    queries = tagger.tag(["person takes a red cup.", "person washes a big box.", "person quickly runs."])
    vocabulary = Vocabulary((mask_query(query) for query in queries), min_count=1)

    def check(text, **options):
        validator = Validator(vocabulary=vocabulary, **options)
        return validator.check_level(ROW, TEMPLATE, text, tagged=queries[0])

    assert check("person washes a red box.") == []
    assert check("person box a red washes.") == ["part_of_speech"]
    assert check("person quickly a red box.") == ["part_of_speech"]
    # Words missing from the vocabulary are tagged in their sentence.
    assert check("person paints a red boat.", tagger=tagger) == []
    assert check("person slowly a red boat.", tagger=tagger) == ["part_of_speech"]


def test_checks_can_be_selected_and_unknown_ones_are_rejected():
    assert flags("person takes a red mug.", checks=["near_synonym"]) == ["near_synonym"]
    with pytest.raises(ValueError, match=r"unknown checks: spelling; the checks are nothing_to_mask"):
        Validator(["spelling"])


def test_number_of_levels_must_match_the_templates():
    row = {**ROW, "masked_queries": [TEMPLATE], "negative_queries": ["a", "b"]}
    with pytest.raises(ValueError, match="qid v_train_0: 2 negative queries for 1 masked queries"):
        Validator().check_row(row)


def test_dataset_gets_flags_and_counts(tagger):
    columns = {"masked_queries": [TEMPLATE, TEMPLATE], "negative_flags": [[], []]}
    rows = [
        {**ROW, **columns, "negative_queries": ["person washes a red box.", "person lifts a red mug."]},
        {**ROW, **columns, "qid": "2", "negative_queries": ["person opens a red box.", "person shakes a red bag."]},
        {**ROW, "qid": "test", "masked_queries": [], "negative_flags": [], "negative_queries": []},
    ]
    checks = [name for name in CHECKS if name != "part_of_speech"]
    dataset, summary = validate_dataset(Dataset.from_list(rows), Validator(checks), tagger)
    assert dataset["negative_flags"][:] == [[[], ["near_synonym"]], [[], []], []]
    assert dataset.column_names == list(rows[0])
    assert (summary.rows, summary.levels, summary.clean_rows, summary.clean_levels) == (2, 4, 1, 3)
    assert summary.flags[1] == {"near_synonym": 1, "any": 1}
    assert "clean at all levels: 1 of 2 rows (50.0 %)" in str(summary)
    assert str(ValidationSummary())


# Counts from ../shared/data/FACTS.md, which compares strings. Our checks ignore punctuation and spacing ("what s",
# "half - eaten", a dropped comma), so a few more rows are exact fills here.
FACTS = {
    "template_changed": (862, 272, 284),
    "extra_words": (194, 330, 1104),
    "empty_mask": (0, 16, 387),
    "original_word": (5, 322, 881),
    "equals_query": (5, 1, 0),
    "equals_earlier_level": (0, 8, 0),
    "markup": (29, 29, 29),
}


def test_released_negatives_have_the_known_flag_counts(shared, tagger):
    from shine_hf.data.annotations import read_original

    train = read_original("charades_cg", shared / "data", "gpt-3.5-turbo")["train"]
    checked, summary = validate_dataset(train, tagger=tagger)
    for name, expected in FACTS.items():
        found = [counter[name] for counter in summary.flags]
        assert found == pytest.approx(expected, abs=6), name
    rules = {*FACTS}
    clean = sum(not any(rules.intersection(level) for level in row) for row in checked["negative_flags"])
    assert clean == pytest.approx(4817, abs=10)
    assert summary.flags[0]["near_synonym"] + summary.flags[0]["inflection"] == pytest.approx(616, rel=0.1)
