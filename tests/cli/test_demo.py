"""`shine-hf demo` from an empty folder to a prediction, on a benchmark of a few videos."""

import json

import pytest

from shine_hf.cli import main

SMALL = ["--train-videos", "8", "--test-videos", "3", "--max-steps", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def summary(output: str) -> list[list[str]]:
    """Model, split and numbers of the closing table."""
    lines = output[output.index("Shapes-CG, ") :].splitlines()
    return [line.split() for line in lines if line.startswith(("base ", "shine "))]


def test_renders_encodes_trains_evaluates_and_predicts_and_goes_on_where_it_stopped(folder, capsys):
    assert main(["demo", "--output-dir", str(folder), "--compare", *SMALL]) == 0
    first = capsys.readouterr().out
    assert [row[:2] for row in summary(first)] == [
        [model, split] for model in ("base", "shine") for split in ("test_trivial", "novel_composition")
    ]
    assert len(list((folder / "videos").glob("*.mp4"))) == len(list((folder / "features").glob("*.npz"))) == 14
    for picture in ("contact_sheet.png", "prediction.png"):
        assert (folder / picture).stat().st_size > 5000 and picture in first
    config = json.loads((folder / "qd_detr_shine_seed0" / "config.json").read_text())
    assert config["video_encoder"] == json.loads((folder / "features" / "features.json").read_text())["encoder"]
    rows = [json.loads(line) for line in (folder / "novel_composition.jsonl").read_text().splitlines()]
    (shown,) = (row for row in rows if f"{row['vid']}.mp4: {row['query']!r}" in first)
    assert f"{shown['relevant_windows'][0][0]:.2f}" in first

    # Nothing is trained again, so the numbers are the same.
    checkpoint = folder / "qd_detr_shine_seed0" / "checkpoint-1" / "model.safetensors"
    before = checkpoint.stat().st_mtime_ns
    assert main(["demo", "--output-dir", str(folder), *SMALL]) == 0
    assert summary(capsys.readouterr().out) == summary(first)[2:] and checkpoint.stat().st_mtime_ns == before


def test_what_is_wrong_is_said_in_one_line(folder, capsys):
    assert main(["demo", "--output-dir", str(folder), "--test-videos", "0"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("shine-hf demo: error:") and "1 to test on" in error and "\n" not in error
