import gzip
import json
from collections import Counter

import pytest
from datasets import Dataset

from shine_hf.data.annotations import read_annotations, read_original
from shine_hf.schema import FEATURES

from .made_up import make_row, write_compositional_files, write_jsonl

AUTHORS_FILES = {
    "charades_cg": {
        "train": "charades_cg/charades_cg_gpt_train.jsonl.gz",
        "test_trivial": "charades_cg/charades_cg_test.jsonl",
        "novel_composition": "charades_cg/charades_cg_novel_composition.jsonl",
        "novel_word": "charades_cg/charades_cg_novel_word.jsonl",
    },
    "activitynet_cg": {
        "test_trivial": "anet_cg/anet_cg_test.jsonl.gz",
        "novel_composition": "anet_cg/anet_cg_novel_composition.jsonl.gz",
        "novel_word": "anet_cg/anet_cg_novel_word.jsonl",
    },
}


@pytest.fixture(scope="module")
def real(shared):
    return {name: read_original(name, shared / "data") for name in AUTHORS_FILES}


def test_real_splits_have_the_published_sizes(real):
    sizes = {name: {split: len(rows) for split, rows in splits.items()} for name, splits in real.items()}
    assert sizes == {
        "charades_cg": {"train": 8281, "test_trivial": 3096, "novel_composition": 3442, "novel_word": 695},
        "activitynet_cg": {"train": 36724, "test_trivial": 15712, "novel_composition": 12028, "novel_word": 3920},
    }
    assert all(rows.features == FEATURES for splits in real.values() for rows in splits.values())


@pytest.mark.parametrize("name", AUTHORS_FILES)
def test_rows_match_the_authors_rows_field_by_field(real, shared, name):
    for split, file in AUTHORS_FILES[name].items():
        path = shared / "data" / "shine" / file
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        theirs = [json.loads(line) for line in text.split("\n") if line]
        ours = real[name][split].to_list()
        assert len(theirs) == len(ours)
        for their, our in zip(theirs, ours):
            assert our["qid"] == their["qid"] and our["vid"] == their["vid"]
            assert our["query"] == their["query"].strip()
            assert our["duration"] == their["duration"] and our["relevant_windows"] == their["relevant_windows"]
            assert our["masked_queries"] == their.get("masked_queries", [])
            assert our["negative_queries"] == their.get("recomposed_queries", [])


def test_compositions_of_the_real_files_are_read(real):
    def rows_by_type(rows):
        return Counter(kind for types in rows["composition_types"] for kind in set(types))

    charades = real["charades_cg"]["novel_composition"]
    assert rows_by_type(charades) == {"v-adv": 2072, "v-n": 1936, "p-n": 1170, "n-n": 76, "a-n": 23}
    assert sum(len(set(types)) > 1 for types in charades["composition_types"]) == 1155
    assert len({tuple(pair) for pairs in charades["composition_words"] for pair in pairs}) == 945
    assert rows_by_type(real["activitynet_cg"]["novel_composition"]) == {
        "v-n": 8704, "p-n": 2598, "v-adv": 2456, "n-n": 2399, "a-n": 2257,
    }  # fmt: skip
    words = {
        name: {word for found in splits["novel_word"]["composition_words"] for (word,) in found}
        for name, splits in real.items()
    }
    assert {name: len(found) for name, found in words.items()} == {"charades_cg": 219, "activitynet_cg": 1587}
    for splits in real.values():
        for split, rows in splits.items():
            assert list(map(len, rows["composition_types"])) == list(map(len, rows["composition_words"]))
            assert all(rows["composition_types"]) == split.startswith("novel")


def test_flags_of_the_real_files_match_the_known_counts(real):
    flags = {
        (name, split): Counter(flag for found in rows["annotation_flags"] for flag in found)
        for name, splits in real.items()
        for split, rows in splits.items()
    }
    assert flags == {
        ("charades_cg", "train"): {"window_after_end": 1255},
        ("charades_cg", "test_trivial"): {"window_after_end": 412},
        ("charades_cg", "novel_composition"): {"window_after_end": 452},
        ("charades_cg", "novel_word"): {"window_after_end": 109},
        ("activitynet_cg", "train"): {"window_after_end": 248, "window_empty": 2, "window_reversed": 2},
        ("activitynet_cg", "test_trivial"): {"window_after_end": 123},
        ("activitynet_cg", "novel_composition"): {"window_after_end": 66},
        ("activitynet_cg", "novel_word"): {"window_after_end": 34},
    }


# ---- made-up files ---------------------------------------------------------------------------------------------------


def test_original_json_is_converted_to_rows(tmp_path):
    video = {
        "sentences": [" person puts the cup on the table. ", "person laughs."],
        "timestamps": [[1, 4.5], [3.0, 9.5]],
        "duration": 9,
        "novels": [{"v-adv": [["put", "on"]], "v-n": [["put", "cup"], ["put", "table"]]}, {}],
    }
    word = {
        "sentences": ["person juggles."],
        "timestamps": [[0, 1]],
        "duration": 2.0,
        "news": [{"VERB": ["juggles"]}],
    }
    write_compositional_files(tmp_path, novel_composition={"AB12": video}, novel_word={"CD34": word})
    splits = read_original("charades_cg", tmp_path, negatives="none")
    first, second = splits["novel_composition"]
    assert first == {
        "qid": "AB12_composition_0",
        "vid": "AB12",
        "query": "person puts the cup on the table.",
        "duration": 9.0,
        "relevant_windows": [[1.0, 4.5]],
        "masked_queries": [],
        "negative_queries": [],
        "negative_flags": [],
        "annotation_flags": [],
        "composition_types": ["v-adv", "v-n", "v-n"],
        "composition_words": [["put", "on"], ["put", "cup"], ["put", "table"]],
    }
    assert second["qid"] == "AB12_composition_1" and second["annotation_flags"] == ["window_after_end"]
    assert splits["novel_word"][0]["composition_types"] == ["VERB"]
    assert splits["novel_word"][0]["composition_words"] == [["juggles"]]
    assert [splits[split][0]["qid"] for split in ("train", "test_trivial")] == [
        "train-video_train_0",
        "test_trivial-video_test_0",
    ]


def test_gzipped_files_are_read(tmp_path):
    write_compositional_files(tmp_path)
    plain = read_original("charades_cg", tmp_path, negatives="none")
    path = tmp_path / "charades_cg" / "train.json"
    path.with_name("train.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert read_original("charades_cg", tmp_path, negatives="none")["train"].to_list() == plain["train"].to_list()


def negatives_row(**changes):
    return {
        "qid": "train-video_train_0",
        "query": "person opens the door.",
        "masked_queries": ["m1", "m2"],
        "negative_queries": ["n1", "n2"],
        "negative_flags": [["unmasked_changed"], []],
    } | changes


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_negatives_are_read_from_an_export(tmp_path, suffix):
    write_compositional_files(tmp_path)
    path = tmp_path / f"negatives.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, [negatives_row()])
    else:
        Dataset.from_list([negatives_row()]).to_parquet(str(path))
    splits = read_original("charades_cg", tmp_path, negatives=str(path))
    row = splits["train"][0]
    assert {name: row[name] for name in negatives_row()} == negatives_row()
    assert splits["test_trivial"][0]["negative_queries"] == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [negatives_row(query="person closes the door.")],
            "the query of qid 'train-video_train_0' is 'person closes the door.', but",
        ),
        ([negatives_row(qid="elsewhere_train_0")], "'elsewhere_train_0' is in none of the annotation files"),
        ([negatives_row(), negatives_row()], "duplicate qid"),
        ([negatives_row(masked_queries=["m1"])], "levels do not agree"),
    ],
)
def test_mismatched_negatives_are_rejected(tmp_path, rows, message):
    write_compositional_files(tmp_path)
    path = write_jsonl(tmp_path / "negatives.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        read_original("charades_cg", tmp_path, negatives=str(path))


def test_partial_negatives_log_a_count(tmp_path, caplog):
    video = {
        "sentences": ["person opens the door.", "person laughs."],
        "timestamps": [[1, 2], [3, 4]],
        "duration": 9.0,
    }
    write_compositional_files(tmp_path, train={"train-video": video})
    path = write_jsonl(tmp_path / "negatives.jsonl", [negatives_row()])
    read_original("charades_cg", tmp_path, negatives=str(path))
    assert "negatives for 1 of the 2 rows of train" in caplog.text and "test_trivial" not in caplog.text


def test_unknown_names_and_missing_files_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="unknown dataset 'charades'; choose one of charades_cg"):
        read_original("charades", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"train.json.*YYJMJC/Compositional-Temporal-Grounding"):
        read_original("charades_cg", tmp_path)
    write_compositional_files(tmp_path)
    with pytest.raises(ValueError, match="unknown negatives 'gpt-9'"):
        read_original("charades_cg", tmp_path, negatives="gpt-9")
    # The authors' negatives are the default for Charades-CG. A missing file is an error, not training without negatives.
    with pytest.raises(FileNotFoundError, match=r"charades_cg_gpt_train.jsonl.*zxccade/SHINE"):
        read_original("charades_cg", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"train.json, line 1, column 2: not JSON"),
        ("[]", r"train.json contains no rows"),
        ('{"AB12": {"sentences": []}}', r"train.json, video 'AB12'"),
        (
            '{"AB12": {"sentences": ["a", "b"], "timestamps": [[0, 1]], "duration": 5}}',
            "video 'AB12': 2 sentences, 1 timestamps",
        ),
        (
            '{"AB12": {"sentences": [" "], "timestamps": [[0, 1]], "duration": 5}}',
            "field query: expected a non-empty sentence",
        ),
        ('{"AB12": {"sentences": ["a"], "timestamps": [[0, 1]], "duration": 0}}', "duration"),
    ],
)
def test_broken_original_files_are_rejected_with_their_name(tmp_path, content, message):
    write_compositional_files(tmp_path)
    (tmp_path / "charades_cg" / "train.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_original("charades_cg", tmp_path, negatives="none")


# ---- the common jsonl format -----------------------------------------------------------------------------------------


def test_common_jsonl_format_is_read(tmp_path):
    plain = {
        "qid": 7,
        "vid": "a",
        "query": " Chef\u2028cooks ",
        "duration": 150,
        "relevant_windows": [[0, 2], [8, 10]],
    }
    graded = {**plain, "qid": 8, "relevant_clip_ids": [0, 4], "saliency_scores": [[1, 2, 3], [4, 4, 4]]}
    rows = read_annotations(write_jsonl(tmp_path / "own.jsonl", [plain, graded]))
    assert rows["qid"] == ["7", "8"] and rows["query"][0] == "Chef\u2028cooks"
    assert rows[0]["relevant_windows"] == [[0.0, 2.0], [8.0, 10.0]]
    assert rows[0]["saliency_scores"] is None and rows[1]["saliency_scores"] == [[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]
    assert rows[0]["negative_queries"] == [] and rows[0]["annotation_flags"] == []


def test_jsonl_in_our_schema_round_trips(tmp_path):
    row = make_row(1, relevant_windows=[[4.0, 99.0]])
    assert read_annotations(write_jsonl(tmp_path / "own.jsonl", [row])).to_list() == [row]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2, column 2: not JSON"),
        ("[1, 2]", "line 2: expected an object"),
        ('{"qid": 1, "vid": "a", "query": "b", "relevant_windows": []}', "line 2: no field duration"),
        ('{"qid": 1, "vid": "a", "query": null, "duration": 3}', "line 2"),
        (
            '{"qid": 1, "vid": "a", "query": "b", "duration": "long"}',
            'line 2 .*field duration: expected the length of the video, a positive number of seconds; found "long"',
        ),
        ('{"qid": 1, "vid": "a", "query": "b", "duration": 3, "relevant_windows": [5]}', "line 2"),
        (
            '{"qid": 0, "vid": "a", "query": "b", "duration": 3, "relevant_windows": [[0, 1]]}',
            "the same qid as .*own.jsonl, line 1",
        ),
        (
            '{"qid": 1, "vid": "a", "query": "", "duration": 3, "relevant_windows": [[0, 1]]}',
            "field query: expected a non-empty sentence",
        ),
    ],
)
def test_broken_jsonl_lines_are_rejected_with_their_number(tmp_path, line, message):
    path = tmp_path / "own.jsonl"
    path.write_text(f'{{"qid": 0, "vid": "a", "query": "b", "duration": 3, "relevant_windows": [[0, 1]]}}\n{line}\n')
    with pytest.raises(ValueError, match=message) as error:
        read_annotations(path)
    assert "own.jsonl" in str(error.value)


def test_real_qvhighlights_file_is_read(shared):
    rows = read_annotations(shared / "data" / "qvhighlights" / "highlight_val_release.jsonl")
    assert len(rows) == 1550 and sum(len(windows) > 1 for windows in rows["relevant_windows"]) == 530
    assert all(len(ids) == len(scores) for ids, scores in zip(rows["relevant_clip_ids"], rows["saliency_scores"]))
