"""`shine-hf evaluate`, from files to a table and a JSON."""

import json

import pytest

from shine_hf.cli import main

SUBMISSION = [{"qid": "a", "pred_relevant_windows": [[0, 4, 0.9]]}, {"qid": "b", "pred_relevant_windows": [[0, 3, 1]]}]
GROUND_TRUTH = [{"qid": "a", "relevant_windows": [[0, 4]]}, {"qid": "b", "relevant_windows": [[0, 12]]}]


@pytest.fixture
def files(tmp_path):
    paths = tmp_path / "preds.jsonl", tmp_path / "gt.jsonl"
    for path, rows in zip(paths, (SUBMISSION, GROUND_TRUTH)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def _evaluate(submission, ground_truth, *options):
    return main(["evaluate", "--submission", str(submission), "--ground-truth", str(ground_truth), *map(str, options)])


def test_evaluate_prints_a_table_and_writes_json(files, tmp_path, capsys):
    assert _evaluate(*files, "--output", tmp_path / "metrics.json") == 0
    header, full, short, middle = (line.split() for line in capsys.readouterr().out.splitlines())
    assert dict(zip(header, full)) | {"moments": "full", "R1@0.3": "50.00", "mIoU": "62.50"} == dict(zip(header, full))
    assert short[0] == "short" and set(short[1:]) == {"100.00"}
    assert middle[:2] == ["middle", "0.00"]
    layout = json.loads((tmp_path / "metrics.json").read_text())
    assert layout["brief"]["MR-full-mIoU"] == layout["full"]["MR-mIoU"] == 62.5
    assert layout["short"]["MR-R1"]["0.95"] == 100


def test_highlights_get_a_separate_table(tmp_path, files, capsys):
    for path, rows, columns in (
        (files[0], SUBMISSION, {"pred_saliency_scores": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]}),
        (files[1], GROUND_TRUTH, {"duration": 12, "relevant_clip_ids": [0], "saliency_scores": [[3]]}),
    ):
        path.write_text("".join(json.dumps(row | columns) + "\n" for row in rows))
    assert _evaluate(*files) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Good", "100.00", "100.00"] in lines and ["VeryGood", "0.00", "0.00"] in lines


def test_errors_are_one_line_and_name_file_or_query(files, tmp_path, capsys):
    submission, ground_truth = files
    assert _evaluate(tmp_path / "absent.jsonl", ground_truth) == 2
    assert "absent.jsonl" in _error(capsys)
    assert _evaluate(*files, "--output", tmp_path / "nowhere" / "metrics.json") == 2
    assert "nowhere" in _error(capsys)
    submission.write_text(json.dumps(SUBMISSION[0]) + "\n")
    assert _evaluate(*files) == 2
    assert "'b'" in _error(capsys)
    submission.write_text("not json\n")
    assert _evaluate(*files) == 2
    assert "preds.jsonl, line 1" in _error(capsys)


def _error(capsys):
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err
