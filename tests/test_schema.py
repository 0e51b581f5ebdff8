import math

import pytest
from datasets import Dataset

from shine_hf.schema import FEATURES, annotation_flags, check_rows, trainable

from .data.made_up import make_row, make_rows


def test_columns_match_the_published_datasets():
    assert list(FEATURES) == [
        "qid", "vid", "query", "duration", "relevant_windows", "masked_queries", "negative_queries", "negative_flags",
        "annotation_flags", "composition_types", "composition_words",
    ]  # fmt: skip
    rows = make_rows(3)
    assert Dataset.from_list(rows, features=FEATURES).to_list() == rows


@pytest.mark.parametrize(
    ("windows", "flags"),
    [
        ([[0, 10]], []),
        ([[2, 10.5]], ["window_after_end"]),
        ([[-1, 3]], ["window_before_start"]),
        ([[4, 4]], ["window_empty"]),
        ([[6, 4]], ["window_reversed"]),
        ([[10, 12]], ["window_outside"]),
        ([[-3, -1]], ["window_before_start", "window_outside"]),
        ([], ["no_window"]),
        ([[1, 2], [3, 11], [5, 5]], ["window_after_end", "window_empty"]),
    ],
)
def test_invalid_windows_are_flagged(windows, flags):
    assert annotation_flags(10.0, windows) == flags
    unusable = {"window_empty", "window_reversed", "window_outside", "no_window"} & set(flags)
    assert trainable({"duration": 10.0, "relevant_windows": windows}) == (not unusable)


def test_flagged_rows_pass_the_check():
    check_rows([make_row(0, relevant_windows=[[6.0, 4.0]]), make_row(1, relevant_windows=[[90.0, 99.0]])], "made up")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qid": "video0_train_0"}, "the same qid as file.json, row 0"),
        ({"query": "   "}, "field query: expected a non-empty sentence"),
        ({"query": None}, "field query: .*found null"),
        ({"vid": ""}, "field vid: expected an id"),
        ({"duration": 0.0}, "field duration: expected the length of the video, a positive number"),
        ({"duration": -1.0}, "field duration: expected the length of the video, a positive number"),
        ({"duration": math.nan}, "field duration: expected the length of the video, a positive number"),
        ({"duration": "9.5 s"}, "field duration: expected the length of the video, a positive number"),
        ({"relevant_windows": [[1.0]]}, r"\[start, end\]"),
        ({"relevant_windows": [[1.0, math.inf]]}, r"\[start, end\]"),
        ({"relevant_windows": [[1.0, "end"]]}, r"\[start, end\]"),
        ({"negative_queries": ["one", "two"]}, "levels do not agree"),
        ({"masked_queries": ["one"]}, "levels do not agree"),
        ({"negative_flags": [[], [], [], []]}, "levels do not agree"),
        (
            {"masked_queries": [], "negative_queries": ["a", "b"], "negative_flags": []},
            "2 negative_queries, but 3 at file.json, row 0",
        ),
    ],
)
def test_invalid_rows_are_rejected_with_file_row_and_field(changes, message):
    # Change the row after make_row, which cannot compute flags for some of these values.
    rows = [make_row(0), {**make_row(1), **changes}]
    with pytest.raises(ValueError, match=message) as error:
        check_rows(rows, "file.json")
    assert "file.json, row 1" in str(error.value) and repr(rows[1]["qid"]) in str(error.value)


def test_missing_column_is_named_in_the_error():
    row = make_row(0)
    del row["duration"]
    with pytest.raises(ValueError, match="row 0: no field duration; expected the length"):
        check_rows([row], "file.json")


def test_rows_with_and_without_negatives_can_be_mixed():
    check_rows([make_row(0), make_row(1, masked_queries=[], negative_queries=[], negative_flags=[])], "made up")
