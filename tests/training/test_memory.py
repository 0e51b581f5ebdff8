"""Freed memory is kept where it helps: in the training of a recipe on a CPU."""

import subprocess
import sys

import pytest

from shine_hf.training import run
from shine_hf.training.recipe import parse_recipe

PAGE_FAULTS = """
import resource, sys, torch
from shine_hf.training.memory import keep_freed_memory
for keep in (True, False):
    if not keep_freed_memory(keep):
        sys.exit(3)
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_pages_are_asked_for_once():
    result = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True)
    if result.returncode == 3:
        pytest.skip("no glibc here")
    kept, given_back = map(int, result.stdout.split())
    assert kept < given_back / 3


class Built(Exception):
    pass


@pytest.mark.parametrize(
    ("options", "keeps"),
    [
        (["--do_train", "true"], True),
        (["--do_train", "true", "--keep_freed_memory", "false"], False),
        (["--do_train", "false"], False),
    ],
)
def test_a_training_on_a_cpu_keeps_it_unless_told_otherwise(options, keeps, tmp_path, monkeypatch):
    def stop_here(recipe):
        raise Built

    calls = []
    monkeypatch.setattr(run, "keep_freed_memory", lambda: calls.append(True))
    monkeypatch.setattr(run, "build_trainer", stop_here)
    recipe = parse_recipe(
        ["--config", "charades_cg_qd_detr_shine", "--video_features", "simulated:", "--output_dir", str(tmp_path)]
        + ["--use_cpu", "true", *options]
    )
    with pytest.raises(Built):
        run.run_recipe(recipe)
    assert bool(calls) is keeps
