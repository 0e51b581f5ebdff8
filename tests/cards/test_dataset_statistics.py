"""The numbers of a dataset card, counted by hand."""

from shine_hf.cards.dataset_statistics import _masks_per_level, dataset_statistics


def row(qid, vid, query, windows, duration=10.0, **columns):
    return {
        "qid": qid,
        "vid": vid,
        "query": query,
        "duration": duration,
        "relevant_windows": windows,
        "masked_queries": [],
        "negative_queries": [],
        "negative_flags": [],
        "annotation_flags": [],
        "composition_types": [],
        "composition_words": [],
        **columns,
    }


TRAIN = [
    row(
        "t0",
        "A",
        "person opens door",
        [[0.0, 1.0]],
        masked_queries=["person <mask> door", "<mask> <mask> door"],
        negative_queries=["person closes door", "cat paints door"],
        negative_flags=[[], ["template_changed"]],
    ),
    row("t1", "A", "person opens door", [[0.0, 1.0]], annotation_flags=["window_empty"]),
    row("t2", "A", "person opens door", [[5.0, 10.0]]),
    row(
        "t3",
        "B",
        "a dog sits",
        [[2.0, 20.0]],
        duration=20.0,
        masked_queries=["a <mask> sits", "a <mask> <mask>"],
        negative_queries=["a cat sits", "a cat runs"],
        negative_flags=[[], []],
    ),
]
NOVEL = [
    row(
        "n0",
        "B",
        "a dog sits",
        [[4.0, 4.0]],
        duration=20.0,
        composition_types=["NOUN", "NOUN"],
        composition_words=[["cat"], ["zebra"]],
    ),
    row("n1", "C", "Person closes door.", [[1.0, 3.0], [4.0, 5.0]], composition_words=[["closes", "door"]]),
]


def test_counts_of_a_split():
    found = dataset_statistics({"train": TRAIN, "novel_word": NOVEL})["splits"]
    assert found["train"] == {
        "queries": 4,
        "videos": 2,
        "words_per_query": {"mean": 3.0, "min": 3, "max": 3},
        "window_seconds": {"mean": 6.25, "min": 1.0, "max": 18.0},
        "video_seconds": {"mean": 15.0, "min": 10.0, "max": 20.0},
        "moments_per_video": {"mean": 2.0, "min": 1, "max": 3},
        "word_histogram": {"3": 4},
        # A tenth of the video falls into the second of ten bins, the entire video into the last.
        "window_share_histogram": {"1": 2, "5": 1, "9": 1},
        "annotation_flags": {"window_empty": 1},
        "composition_types": {},
        "compositions": 0,
        "repeated_queries_of_a_video": 2,
        "repeated_moments": 1,
        "queries_in_train": None,
    }
    novel = found["novel_word"]
    assert novel["window_seconds"] == {"mean": 1.5, "min": 1.0, "max": 2.0}
    assert novel["window_share_histogram"] == {"1": 1, "2": 1}
    assert novel["composition_types"] == {"NOUN": 1}
    assert (novel["compositions"], novel["queries_in_train"]) == (3, 1)


def test_a_window_over_the_entire_video_is_in_the_last_bin():
    rows = [row("t0", "A", "x", [[0.0, 10.0]])]
    assert dataset_statistics({"train": rows})["splits"]["train"]["window_share_histogram"] == {"9": 1}


def test_counts_of_negatives():
    found = dataset_statistics({"train": TRAIN, "novel_word": NOVEL})["negatives"]
    assert found["train"]["rows"] == 2
    assert found["train"]["clean_rows"] == 1
    assert found["train"]["flags"] == [{}, {"any": 1, "template_changed": 1}]
    assert found["train"]["masks"] == {"1, 2": 2}
    assert found["novel_word"] == {"rows": 0, "clean_rows": 0, "flags": [], "masks": {}}


def test_how_far_negatives_touch_the_test():
    found = dataset_statistics({"train": TRAIN, "novel_word": NOVEL})["test_contact"]
    # Known: person, opens, door, a, dog, sits. New in negatives: closes, cat, paints, runs.
    assert (found["new_word_forms"], found["train_word_forms"]) == (4, 6)
    assert found["queries"] == {"novel_word": 1}
    assert found["novel_words"] == {"novel_word": [1, 2]}


def test_what_splits_share():
    found = dataset_statistics({"train": TRAIN, "novel_word": NOVEL, "empty": []})["shared"]
    assert found == [
        {"splits": ["train", "novel_word"], "videos": 1, "queries": 1},
        {"splits": ["train", "empty"], "videos": 0, "queries": 0},
        {"splits": ["novel_word", "empty"], "videos": 0, "queries": 0},
    ]


def test_masks_per_level_in_percent():
    assert _masks_per_level({"1, 2": 3, "2, 2": 1}) == [{1: 75.0, 2: 25.0}, {2: 100.0}]


def test_queries_that_training_has_too():
    tested = [row("n0", "B", "x", []), row("n1", "C", "x", []), row("n2", "C", "y", [])]
    found = dataset_statistics({"train": [row("t0", "A", "x", [])], "test_trivial": tested})["splits"]
    assert found["test_trivial"]["queries_in_train"] == 2
