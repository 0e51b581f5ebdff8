"""The GPU benchmark, run with tiny sizes on the CPU."""

import json

import pytest
import torch

from benchmarks.gpu import checks
from benchmarks.gpu.__main__ import main, run_study, write_part
from benchmarks.gpu.steps import REFERENCE


@pytest.mark.slow
def test_every_part_writes_its_results(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--device", "cpu", "--tiny", "--steps", "8", "--workers", "0"]
    assert main(arguments) == 0, capsys.readouterr().out
    found = {path.stem: json.loads(path.read_text())["found"] for path in tmp_path.glob("*.json")}
    assert set(found) == {"machine", "checks", "steps", "schedule"}
    assert len(found["checks"]) == 5 and set(found["checks"].values()) == {"ok"}
    steps = found["steps"]
    assert steps[REFERENCE]["times as fast as the reference style"] == 1
    assert steps["ours, float32"]["operators per step"] < steps[REFERENCE]["operators per step"]
    assert found["schedule"]["steps"] == 6 and found["schedule"]["minutes of 51,800 steps"] > 0


def test_mismatch_between_devices_is_reported(monkeypatch, tmp_path):
    """Simulate a device that computes another loss."""
    losses = iter([1.0, 1.1])
    monkeypatch.setattr(
        checks, "our_loss", lambda model, *_: sum(p.sum() for p in model.parameters()) * 0 + next(losses)
    )
    monkeypatch.setattr(checks, "MODELS", {"qd_detr": checks.MODELS["qd_detr"]})
    monkeypatch.setattr(checks, "check_trainer", lambda *_: None)
    found = checks.run_checks("cpu", tmp_path)
    assert found["qd_detr as on the CPU"].startswith("AssertionError") and found["trainer learns and resumes"] == "ok"


def test_failed_part_records_its_error(tmp_path):
    def fails():
        raise RuntimeError("out of memory")

    assert write_part(tmp_path, "steps", fails) is False
    assert "out of memory" in json.loads((tmp_path / "steps.json").read_text())["found"]["error"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_reported(tmp_path, capsys):
    assert main(["--output", str(tmp_path)]) == 2
    assert "there is no GPU" in capsys.readouterr().err


def test_study_failure_is_logged(tmp_path):
    found = run_study("no_such_study", tmp_path, 2, tmp_path, until=0.0, overrides=[])
    assert found["finished runs"] == 0 and "no study 'no_such_study'" in (tmp_path / "study.log").read_text()
