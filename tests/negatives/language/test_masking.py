import gzip
import importlib.util
import json
from pathlib import Path

import pytest
from datasets import Dataset

from shine_hf.negatives.language.masking import (
    MaskingOptions,
    extract_fills,
    fill_masks,
    join_tokens,
    mask_dataset,
    mask_query,
    masked_positions,
    parse_ratios,
)
from shine_hf.negatives.language.tagging import TaggedQuery, Tagger
from shine_hf.schema import MASK


def tagged(text):
    pairs = [pair.rsplit("/", 1) for pair in text.split(" ")]
    return TaggedQuery(tuple(word for word, _ in pairs), tuple(tag for _, tag in pairs))


def masks(text, options=None):
    return mask_query(tagged(text), options).masked_queries()


# N maskable words -> masks at each level, as counted in the released masks (N = 1 to 10).
RELEASED_COUNTS = [
    (1, (1, 1, 1)), (2, (1, 1, 2)), (3, (1, 2, 3)), (4, (1, 2, 3)), (5, (1, 2, 3)),
    (6, (1, 3, 4)), (7, (1, 3, 5)), (8, (2, 4, 6)), (9, (2, 4, 6)), (10, (2, 5, 7)),
]  # fmt: skip


@pytest.mark.parametrize(("words", "counts"), RELEASED_COUNTS)
def test_mask_counts_match_the_released_masks(words, counts):
    assert MaskingOptions().mask_counts(words) == counts


def test_small_ratios_mask_at_least_one_word_and_keep_exact_products():
    options = MaskingOptions((0.1, 0.3, 0.5))
    assert options.mask_counts(5) == (1, 1, 2)
    assert options.mask_counts(10) == (1, 3, 5)
    assert MaskingOptions((0.58,)).mask_counts(50) == (29,)  # 28.999… in floating point
    assert options.mask_counts(0) == (0, 0, 0)


def test_masking_order_by_part_of_speech_ends_with_the_actor():
    text = "person/NOUN quickly/ADV puts/VERB the/DET red/ADJ cup/NOUN on/ADP it/PRON ./PUNCT"
    six = MaskingOptions(tuple((i + 0.5) / 6 for i in range(1, 6)) + (1.0,))
    levels = [mask_query(tagged(text), six).levels[0]] + list(mask_query(tagged(text), six).levels)
    newly = ["puts", "cup", "red", "on", "quickly", "person"]
    tokens = tagged(text).tokens
    assert [set(newly[:n]) for n in range(1, 7)] == [{tokens[i] for i in level} for level in levels[1:]]


def test_levels_are_nested_and_function_words_are_kept():
    query = mask_query(tagged("a/DET man/NOUN is/AUX opening/VERB his/PRON door/NOUN to/PART eat/VERB ./PUNCT"))
    first, second, third = map(set, query.levels)
    assert first < second < third
    assert all(word in query.masked_query(3) for word in ("a ", " is ", " his ", " to ", "."))


def test_noun_and_pronoun_subjects_are_masked_last():
    assert masks("a/DET man/NOUN opens/VERB a/DET door/NOUN ./PUNCT")[1] == "a man <mask> a <mask>."
    assert masks("person/NOUN they/PRON eat/VERB food/NOUN ./PUNCT") == [
        "person they <mask> food.",
        "person they <mask> <mask>.",
        "<mask> they <mask> <mask>.",
    ]
    assert masks("a/DET cat/NOUN on/ADP a/DET bed/NOUN sleeps/VERB ./PUNCT")[1] == "a cat on a <mask> <mask>."


def test_particles_count_as_prepositions_but_back_as_an_adverb():
    assert masks("person/NOUN sits/VERB down/ADV ./PUNCT")[1] == "person <mask> <mask>."
    third = masks("person/NOUN runs/VERB back/ADV in/ADP room/NOUN ./PUNCT")[2]
    assert third == "person <mask> back <mask> <mask>."


def test_verbs_with_wrong_tags_count_as_verbs():
    assert masks("a/DET person/NOUN enters/NOUN holding/VERB a/DET cup/NOUN ./PUNCT")[0].startswith(
        "a person <mask> h"
    )
    assert masks("a/DET smiling/ADJ person/NOUN is/AUX reading/VERB ./PUNCT")[0] == "a <mask> person is reading."
    assert (
        masks("person/NOUN is/AUX in/ADP the/DET washing/NOUN room/NOUN ./PUNCT")[0] == "person is in the <mask> room."
    )


def test_paper_rule_has_no_special_cases():
    text = "person/NOUN they/PRON sit/VERB down/ADV ./PUNCT"
    assert masks(text, MaskingOptions(rule="paper"))[1] == "<mask> they <mask> down."
    assert masks(text)[1] == "person they <mask> <mask>."


def test_parts_of_speech_can_be_limited():
    text = "person/NOUN puts/VERB the/DET red/ADJ cup/NOUN on/ADP tables/NOUN ./PUNCT"
    third = masks(text, MaskingOptions((0.5, 0.9, 1.0), parts_of_speech=("VERB", "NOUN")))[2]
    assert third == "<mask> <mask> the red <mask> on <mask>."


def test_ratios_can_depend_on_length_and_levels_can_be_any_number():
    options = MaskingOptions((0.1, 0.5), ratios_by_length=((4, (0.5, 1.0)),))
    assert options.mask_counts(4) == (2, 4)
    assert options.mask_counts(10) == (1, 5)
    assert parse_ratios("4:0.5,1;0.1,0.5") == ((0.1, 0.5), ((4, (0.5, 1.0)),))
    assert parse_ratios("0.1,0.3,0.5") == ((0.1, 0.3, 0.5), ())


@pytest.mark.parametrize("text", ["", "half", "0.5;0.6", "4:0.5", "x:0.1;0.2"])
def test_unreadable_ratios_are_rejected(text):
    with pytest.raises(ValueError, match="cannot parse the mask ratios"):
        parse_ratios(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": (0.5, 0.25)}, "must increase"),
        ({"ratios": (0.0, 0.5)}, "must increase"),
        ({"ratios": (0.5, 1.5)}, "must increase"),
        ({"ratios": ()}, "must increase"),
        ({"parts_of_speech": ("VERB", "DET")}, "parts_of_speech must be some of"),
        ({"rule": "mine"}, "rule must be"),
        ({"ratios_by_length": ((4, (0.5,)),)}, "same number of levels"),
        ({"ratios_by_length": ((8, (0.1, 0.2, 0.3)), (4, (0.1, 0.2, 0.3)))}, "must increase"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        MaskingOptions(**options)


def test_joining_and_filling_are_inverse():
    template = ("person", MASK, "a", MASK, ",", "then", MASK, ".")
    masked_query = join_tokens(template)
    assert masked_query == "person <mask> a <mask>, then <mask>."
    filled = fill_masks(masked_query, ["opens", "door", "sits"])
    assert filled == "person opens a door, then sits."
    assert extract_fills(masked_query, filled) == ["opens", "door", "sits"]
    assert extract_fills(masked_query, "person opens a big door, then sits.") is None
    with pytest.raises(ValueError, match="2 words for the 3 masks"):
        fill_masks(masked_query, ["opens", "door"])


def test_mask_positions_are_found_in_other_templates():
    tokens = ("the", "door", " ", "opens", "door", ".the", "end")
    assert masked_positions(tokens, "the <mask>   opens door .the <mask>") == (1, 6)
    assert masked_positions(tokens, "the door opens <mask>.the end") == (4,)
    assert masked_positions(tokens, "a <mask> opens") is None
    assert masked_positions(tokens, "the door opens door.the end of it") is None
    assert masked_positions(["word"] * 5000, "word " * 4999 + "<mask>") == (4999,)


def test_query_without_maskable_words_is_unchanged():
    assert masks("this/PRON is/AUX it/PRON ./PUNCT") == ["this is it."] * 3


def test_masking_a_dataset_keeps_its_columns():
    rows = Dataset.from_list([{"query": " person opens the door.", "masked_queries": ["old"], "qid": "1"}])
    masked = mask_dataset(rows)
    assert masked.column_names == ["query", "masked_queries", "qid"]
    assert masked["masked_queries"][0][0] == "person <mask> the door."


def test_masks_agree_with_the_released_masks(shared):
    path = Path(__file__).parents[3] / "benchmarks" / "masking_agreement.py"
    spec = importlib.util.spec_from_file_location("masking_agreement", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    with gzip.open(shared / "data/shine/charades_cg/charades_cg_gpt_train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    first, second, third, together = benchmark.agreement(rows, Tagger(), MaskingOptions())
    assert first >= 98.3
    assert second >= 97.3
    assert third >= 97.8
    assert together >= 95.5
