"""The Shapes-CG builder, run by `datasets` and as a script."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest

from shine_hf.shapes_cg.world import SPLITS, ShapesCG

SCRIPT = Path(__file__).resolve().parents[2] / "dataset_scripts" / "shapes_cg.py"
SMALL = {"train_videos": 3, "test_trivial_videos": 1, "novel_composition_videos": 2}


def test_builder_rows_follow_the_seed_without_a_stale_cache(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    builder_class = importlib.import_module("shapes_cg").ShapesCGBuilder
    for seed in (0, 1):
        world = ShapesCG(seed=seed, **SMALL)
        builder = builder_class(world=world, cache_dir=str(tmp_path))
        builder.download_and_prepare()
        for split in SPLITS:
            assert builder.as_dataset(split).to_list() == list(world.rows(split))


def test_script_writes_all_files_and_reports_errors(tmp_path, monkeypatch, capsys):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command = [str(SCRIPT), "--output-dir", str(tmp_path), "--duration=21", "--events=3", *options]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 0 and "6 videos" in capsys.readouterr().out
    assert len(list((tmp_path / "videos").iterdir())) == 6 and (tmp_path / "contact_sheet.png").stat().st_size > 1000
    assert len((tmp_path / "train.jsonl").read_text().splitlines()) == 9

    monkeypatch.setattr(sys, "argv", [*command, "--seed=1"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stop.value.code == 2 and "other settings" in capsys.readouterr().err
