"""`shine-hf demo` from an empty folder to its page, on a benchmark of a few videos."""

import json
import re
import signal

import pytest

from shine_hf import ShineTrainer
from shine_hf.cli import demo, main
from shine_hf.cli.demo.page import COMPARISON_NOTE
from shine_hf.shapes_cg.world import ShapesCG

SMALL = ["--train-videos", "8", "--test-videos", "3", "--max-steps", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


def summary(output: str) -> list[list[str]]:
    """Model, split and numbers of the closing table."""
    lines = output[output.index("Shapes-CG, ") :].splitlines()
    return [line.split() for line in lines if line.startswith(("base ", "shine "))]


def test_renders_encodes_trains_evaluates_and_shows_and_goes_on_where_it_stopped(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--output-dir", str(folder), "--compare", *SMALL]) == 0
    first = capsys.readouterr().out
    assert [row[:2] for row in summary(first)] == [
        [model, split] for model in ("base", "shine") for split in ("test_trivial", "novel_composition")
    ]
    assert len(list((folder / "videos").glob("*.mp4"))) == len(list((folder / "features").glob("*.npz"))) == 14
    config = json.loads((folder / "qd_detr_shine_seed0" / "config.json").read_text())
    assert config["video_encoder"] == json.loads((folder / "features" / "features.json").read_text())["encoder"]
    # What it says next works as it stands.
    (command,) = re.findall(r"^  shine-hf (predict .*qd_detr_shine.*)$", first, flags=re.M)
    predict, query = command.split(' --query "')
    assert main([*predict.split(), "--query", query.rstrip('"')]) == 0

    # Nothing is trained again, so the numbers are the same.
    capsys.readouterr()
    checkpoint = folder / "qd_detr_shine_seed0" / "checkpoint-1" / "model.safetensors"
    before = checkpoint.stat().st_mtime_ns
    assert main(["demo", "--output-dir", str(folder), *SMALL]) == 0
    again = capsys.readouterr().out
    assert COMPARISON_NOTE in first and COMPARISON_NOTE not in again
    assert summary(again) == summary(first)[2:] and checkpoint.stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_page_shows_hits_and_misses_of_both_models_and_their_count(folder, capsys):
    assert main(["demo", "--output-dir", str(folder), "--compare", *SMALL]) == 0
    printed, page = capsys.readouterr().out, (folder / "demo.html").read_text()
    rows = [json.loads(line) for line in (folder / "novel_composition.jsonl").read_text().splitlines()]
    shown = re.findall(r"<h2>\d\. (.*)</h2>", page)
    assert len(shown) == min(8, len(rows)) and set(shown) <= {row["query"] for row in rows}
    assert COMPARISON_NOTE in printed and COMPARISON_NOTE in page
    for model in ("QD-DETR", "QD-DETR with SHINE"):
        hits = len(re.findall(rf'<figcaption>{model}: <span class="hit">', page))
        assert len(re.findall(rf'<figcaption>{model}: <span class="(?:hit|miss)">', page)) == len(shown)
        assert f"{model}: {hits} of {len(shown)} found" in page and f"{model}: {hits} of {len(shown)} found" in printed
    assert page.count("data:image/png;base64,") == 2 * len(shown)
    # Every link plays a part of a video that is there.
    for target in re.findall(r'href="([^"]+)"', page):
        path, _, fragment = target.partition("#")
        assert (folder / path).is_file() and re.fullmatch(r"t=[\d.]+,[\d.]+", fragment)


def test_what_is_wrong_is_said_in_one_line(folder, capsys):
    assert main(["demo", "--output-dir", str(folder), "--test-videos", "0"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("shine-hf demo: error:") and "1 to test on" in error and "\n" not in error


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_demo_says_how_to_go_on_and_goes_on(tmp_path, monkeypatch, capsys, number):
    """After the first checkpoint and the first evaluation, when `Trainer` would delete the newest checkpoint."""
    demo = ["demo", "--output-dir", str(tmp_path), "--train-videos", "8", "--test-videos", "1", "--max-steps", "4"]
    training_step = ShineTrainer.training_step

    def interrupted(trainer, *args, **kwargs):
        if trainer.state.global_step == 2:
            signal.raise_signal(number)
        return training_step(trainer, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ShineTrainer, "training_step", interrupted)
        assert main(demo) == 128 + number
    error = capsys.readouterr().err
    assert "stopped after step 3 of 4, which is saved. Run the same command again to resume." in error
    assert "resume_from_checkpoint" not in error
    assert (tmp_path / "qd_detr_shine_seed0" / "checkpoint-3" / "trainer_state.json").is_file()
    assert main(demo) == 0
    assert (tmp_path / "qd_detr_shine_seed0" / "checkpoint-4").is_dir()


def test_ctrl_c_before_the_training_is_no_traceback(tmp_path, monkeypatch, capsys):
    def write(world, folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(ShapesCG, "write", write)
    assert main(["demo", "--output-dir", str(tmp_path), *SMALL]) == 130
    assert capsys.readouterr().err.strip() == "shine-hf demo: stopped. Run the same command again to resume."


def test_durations_are_rounded_before_they_are_split():
    assert demo._minutes(179.7) == "3 min 0 s"
