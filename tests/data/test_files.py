"""Annotation files as users have them: each one loads if its meaning is clear; otherwise the error names file, line and field."""

import gzip
import json

import pytest
from datasets import Dataset

from shine_hf.cli import main
from shine_hf.data.annotations import read_annotations
from shine_hf.data.arguments import DataArguments
from shine_hf.data.loading import load_splits

ROW = {"qid": "1", "vid": "v0", "query": "a person drinks café", "duration": 30, "relevant_windows": [[1, 5]]}
PYTHON_WORDING = (
    "object",
    "NoneType",
    "Traceback",
    "KeyError",
    "TypeError",
    "codec",
    "'int'",
    "Expecting",
    "subscript",
)


def text_of(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read(tmp_path, *rows, name="own.jsonl"):
    path = tmp_path / name
    path.write_text(text_of(*rows), encoding="utf-8")
    return read_annotations(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_unicode_encoding_is_read(tmp_path, encoding, newline):
    content = text_of(ROW, ROW | {"qid": "2"}).replace("\n", newline).encode(encoding)
    (tmp_path / "own.jsonl").write_bytes(content)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(content))
    for name in ("own.jsonl", "packed.jsonl"):
        assert read_annotations(tmp_path / name)["query"] == ["a person drinks café"] * 2


def test_latin_1_error_names_the_encoding_and_the_fix(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(text_of(ROW | {"query": "a person"}, ROW).encode("latin-1"))
    with pytest.raises(ValueError, match=r"own\.jsonl, line 2: byte 0xE9 is not UTF-8.*Latin-1.*iconv"):
        read_annotations(path)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", b"[]"])
@pytest.mark.parametrize("name", ["own.jsonl", "own.json", "own.csv"])
def test_empty_files_are_rejected(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} (is empty|contains no rows); expected .* per query"):
        read_annotations(tmp_path / name)


def test_damaged_gzip_and_parquet_files_are_rejected(tmp_path):
    (tmp_path / "own.jsonl.gz").write_bytes(gzip.compress(text_of(ROW).encode())[:-9])
    with pytest.raises(ValueError, match=r"own\.jsonl\.gz: the gzip file is damaged"):
        read_annotations(tmp_path / "own.jsonl")
    (tmp_path / "own.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"own\.parquet: not a Parquet file"):
        read_annotations(tmp_path / "own.parquet")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([ROW, ROW | {"qid": "2"}]),
        json.dumps([ROW, ROW | {"qid": "2"}], indent=2),
        "\n\n" + text_of(ROW) + "\n  \n" + text_of(ROW | {"qid": "2"}),
        text_of(ROW) + json.dumps(ROW | {"qid": "2"}),
    ],
)
@pytest.mark.parametrize("name", ["own.jsonl", "own.json"])
def test_arrays_blank_lines_and_pretty_printing_are_read(tmp_path, text, name):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_annotations(tmp_path / name)["qid"] == ["1", "2"]


@pytest.mark.parametrize("indent", [None, 2])
def test_single_object_is_read(tmp_path, indent):
    (tmp_path / "own.json").write_text(json.dumps(ROW, indent=indent), encoding="utf-8")
    assert len(read_annotations(tmp_path / "own.json")) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"qid": 7}, {"qid": "7"}),
        ({"qid": 7.0}, {"qid": "7"}),
        ({"vid": 12}, {"vid": "12"}),
        ({"query": ["a b"]}, {"query": "a b"}),
        ({"query": "  a b \n"}, {"query": "a b"}),
        ({"duration": "30.5"}, {"duration": 30.5}),
        ({"relevant_windows": [1, 5]}, {"relevant_windows": [[1.0, 5.0]]}),
        ({"relevant_windows": ["1", 5]}, {"relevant_windows": [[1.0, 5.0]]}),
        ({"relevant_windows": "[[1, 5]]"}, {"relevant_windows": [[1.0, 5.0]]}),
        ({"relevant_windows": {"start": 1, "end": 5}}, {"relevant_windows": [[1.0, 5.0]]}),
        ({"relevant_windows": [{"start": 1, "end": 5}]}, {"relevant_windows": [[1.0, 5.0]]}),
        ({"relevant_windows": None}, {"relevant_windows": [], "annotation_flags": ["no_window"]}),
        ({"relevant_windows": [[-1, 5]]}, {"annotation_flags": ["window_before_start"]}),
        ({"negative_queries": "a c"}, {"negative_queries": ["a c"]}),
        ({"negative_queries": ["a c", None]}, {"negative_queries": ["a c", ""]}),
        ({"recomposed_queries": ["a c"]}, {"negative_queries": ["a c"]}),
        ({"negative_queries": None}, {"negative_queries": []}),
        ({"saliency_scores": [3, 4], "relevant_clip_ids": [0, 1]}, {"saliency_scores": [[3.0], [4.0]]}),
        ({"saliency_scores": [1] * 15}, {"relevant_clip_ids": list(range(15))}),
    ],
)
def test_values_with_a_clear_meaning_are_converted(tmp_path, changes, expected):
    row = read(tmp_path, ROW | changes)[0]
    assert {name: row[name] for name in expected} == expected


BAD_VALUES = [
    ({"qid": None}, "field qid: expected an id of the query, text or an integer; found null"),
    ({"qid": True}, "field qid: .*found true"),
    ({"qid": 1.5}, "field qid: .*found 1.5"),
    ({"vid": ["v0"]}, "field vid: .*found"),
    ({"query": ["a", "b"]}, 'field query: expected one sentence; write one row per sentence; found \\["a", "b"\\]'),
    ({"query": 5}, "field query: expected a non-empty sentence"),
    ({"query": "\ud800"}, "field query: expected text without unpaired surrogates"),
    ({"duration": None}, "field duration: expected the length of the video, a positive number of seconds; found null"),
    ({"duration": float("nan")}, "field duration: .*found NaN"),
    ({"duration": float("inf")}, "field duration: .*found Infinity"),
    ({"duration": -3}, "field duration: .*found -3"),
    ({"duration": True}, "field duration: .*found true"),
    ({"duration": "long"}, 'field duration: .*found "long"'),
    ({"relevant_windows": [1, 5, 7, 9]}, r"field relevant_windows: expected \[\[start, end\], …\] in seconds"),
    ({"relevant_windows": [[1, 5, 0.9]]}, "field relevant_windows: "),
    ({"relevant_windows": [[1, None]]}, r"field relevant_windows: .*found \[\[1, null\]\]"),
    ({"relevant_windows": [[1, float("nan")]]}, "field relevant_windows: .*NaN"),
    ({"relevant_windows": "from 1 to 5"}, "field relevant_windows: "),
    ({"relevant_windows": [{"from": 1}]}, "field relevant_windows: "),
    ({"negative_queries": [["a"]]}, "field negative_queries: expected a list of sentences"),
    (
        {"negative_queries": ["a", "b"], "masked_queries": ["m"]},
        "levels do not agree: 1 masked_queries, 2 negative_queries",
    ),
    ({"composition_types": ["v-n"]}, "composition_types and composition_words must have the same length, not 1 and 0"),
    ({"saliency_scores": [[3, "x"]], "relevant_clip_ids": [0]}, "field saliency_scores: expected a list of numbers"),
    (
        {"saliency_scores": [3, 4], "relevant_clip_ids": [0]},
        "field relevant_clip_ids: expected one id for each of the 2 sal.*found 1",
    ),
    ({"saliency_scores": [3, 4]}, "field relevant_clip_ids: expected one id .*the 15 clips of 2 s.*found 0 ids"),
    (
        {"saliency_scores": [3], "relevant_clip_ids": [15]},
        "field relevant_clip_ids: expected clips 0 to 14, .*found 15",
    ),
    ({"saliency_scores": [3], "relevant_clip_ids": [-1]}, "field relevant_clip_ids: .*found -1"),
    ({"saliency_scores": [3], "relevant_clip_ids": ["x"]}, "field relevant_clip_ids: expected a list of clip numbers"),
    ({"saliency_scores": [3, 3], "relevant_clip_ids": [2, 2]}, "field relevant_clip_ids: expected each clip once"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_VALUES)
def test_values_without_a_clear_meaning_are_rejected(tmp_path, changes, message):
    (tmp_path / "own.jsonl").write_text(text_of(ROW).rstrip() + "\n" + json.dumps(ROW | {"qid": "2"} | changes))
    with pytest.raises(ValueError, match=message) as error:
        read_annotations(tmp_path / "own.jsonl")
    assert "own.jsonl, line 2" in str(error.value) and not any(word in str(error.value) for word in PYTHON_WORDING)


@pytest.mark.parametrize("name", ["qid", "vid", "query", "duration"])
def test_missing_fields_are_rejected(tmp_path, name):
    row = {key: value for key, value in ROW.items() if key != name}
    with pytest.raises(ValueError, match=rf"own\.jsonl, line 1: no field {name}; expected"):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("video_id", "vid"),
        ("sentence", "query"),
        ("timestamps", "relevant_windows"),
        ("relevent_windows", "relevant_windows"),
    ],
)
def test_misnamed_field_error_suggests_the_right_name(tmp_path, wrong, right):
    row = {(wrong if key == right else key): value for key, value in ROW.items()}
    with pytest.raises(ValueError, match=f"line 1: no field {right}; rename {wrong} to {right}"):
        read(tmp_path, row)


def test_duplicate_qid_error_names_both_lines(tmp_path):
    with pytest.raises(ValueError, match=r"own\.jsonl, line 3 \(qid '1'\): the same qid as .*own\.jsonl, line 1"):
        read(tmp_path, ROW, ROW | {"qid": 2}, ROW | {"qid": 1})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'qid': 1}", "line 2, column 2: not JSON at \"'qid': 1}\""),
        ('{"qid": 1', "line 2, column 10: not JSON: it ends unexpectedly"),
        ('{"qid": 1},', "line 2, column 11: not JSON at ','"),
        ("[1, 2]", r"line 2: expected an object with qid.*; found \[1, 2\]"),
        ('"text"', 'line 2: expected an object.*; found "text"'),
        ("[" * 100_000, "line 2: not JSON"),
    ],
)
def test_invalid_lines_are_rejected(tmp_path, line, message):
    (tmp_path / "own.jsonl").write_text(text_of(ROW) + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"own.jsonl, {message}"):
        read_annotations(tmp_path / "own.jsonl")


def test_broken_array_error_names_its_line(tmp_path):
    (tmp_path / "own.json").write_text('[\n  {"qid": 1},\n  {"qid" 2}\n]')
    with pytest.raises(ValueError, match=r"own\.json, line 3, column 10: not JSON at '2}'"):
        read_annotations(tmp_path / "own.json")


@pytest.mark.parametrize("name", ["own.csv", "own.tsv", "semicolons.csv"])
def test_csv_and_tsv_tables_are_read(tmp_path, name):
    separator = {"own.csv": ",", "own.tsv": "\t"}.get(name, ";")
    lines = [
        ["qid", "vid", "query", "duration", "relevant_windows", "negative_queries"],
        ["1", "v0", '"a cat, or a dog"', "30", '"[[1, 5]]"', '"[""a c"", ""a d""]"'],
        ["2", "v0", "a cat", "30", "", ""],
    ]
    (tmp_path / name).write_text("\n".join(map(separator.join, lines)) + "\n", encoding="utf-8-sig")
    rows = read_annotations(tmp_path / name)
    assert rows["query"] == ["a cat, or a dog", "a cat"] and rows["relevant_windows"] == [[[1.0, 5.0]], []]
    assert rows["negative_queries"] == [["a c", "a d"], []]
    lines[2][3] = "soon"
    (tmp_path / name).write_text("\n".join(map(separator.join, lines)), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name}, line 3 \(qid '2'\), field duration: .*found \"soon\""):
        read_annotations(tmp_path / name)


def test_too_many_fields_in_a_table_are_rejected(tmp_path):
    (tmp_path / "own.csv").write_text("qid,vid,query,duration\n1,v0,a cat, or a dog,30\n")
    with pytest.raises(
        ValueError, match=r"own\.csv, line 2: more fields than in the header; quote texts that contain ','"
    ):
        read_annotations(tmp_path / "own.csv")


def test_parquet_errors_name_the_row(tmp_path):
    rows = [ROW | {"qid": 1}, ROW | {"qid": 2, "duration": -1.0}]
    Dataset.from_list(rows[:1]).to_parquet(str(tmp_path / "own.parquet"))
    assert read_annotations(tmp_path / "own.parquet")["qid"] == ["1"]
    Dataset.from_list(rows).to_parquet(str(tmp_path / "own.parquet"))
    with pytest.raises(ValueError, match=r"own\.parquet, row 2 \(qid '2'\), field duration"):
        read_annotations(tmp_path / "own.parquet")


def test_published_rows_in_other_types_are_converted(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "published").mkdir()
    row = ROW | {"qid": 1, "vid": 2, "relevant_windows": [1, 5]}
    Dataset.from_list([row]).to_parquet(str(tmp_path / "published" / "train.parquet"))
    train = load_splits(DataArguments(dataset=str(tmp_path / "published")))["train"]
    assert (train[0]["qid"], train[0]["vid"], train[0]["relevant_windows"]) == ("1", "2", [[1.0, 5.0]])


@pytest.mark.parametrize("case", ["row_types/durnull", "row_types/qlist", "row_types/empty", "encodings/latin1",
                                  "saliency_ids/beyond", "saliency_ids/fewer", "saliency_ids/none"])  # fmt: skip
def test_inputs_from_public_reports_that_must_fail(shared, case):
    path = shared / "cases" / f"{case}.jsonl"
    with pytest.raises(ValueError, match=path.name) as error:
        read_annotations(path)
    assert not any(word in str(error.value) for word in PYTHON_WORDING)


@pytest.mark.parametrize(
    "case", ["row_types/flat", "row_types/vidint", "encodings/bom", "encodings/utf16", "saliency_flat/sal1d"]
)
def test_inputs_from_public_reports_that_must_load(shared, case):
    assert len(read_annotations(shared / "cases" / f"{case}.jsonl")) >= 1


def test_command_line_errors_are_one_line(tmp_path, capsys):
    (tmp_path / "own.jsonl").write_text(text_of(ROW | {"duration": None}), encoding="utf-8")
    command = ["features", "check", "--features", f"i3d:{tmp_path}", "--dataset", str(tmp_path / "own.jsonl")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "own.jsonl, line 1 (qid '1'), field duration" in error
