"""Build the wheel, install it into an empty environment, and run the README with it."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from .conftest import REPOSITORY
from .docs.test_pages import blocks_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY]
    subprocess.run(build, check=True)
    return next(folder.glob("shine_hf-*.whl"))


def test_wheel_contains_data_files_and_licenses(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "License-Expression: MIT AND CC-BY-SA-4.0" in metadata
    for ending in ("licenses/LICENSE", "licenses/LICENSES/CC-BY-SA-4.0.txt", "shine_hf/py.typed"):
        assert any(name.endswith(ending) for name in names), ending
    packaged = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "shine_hf").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packaged <= set(names), packaged - set(names)


@pytest.mark.timeout(1800)
def test_readme_runs_in_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    requirement = f"shine-hf[video,plots] @ {wheel.as_uri()}"
    install = [programs / "python", "-m", "pip", "install", "--quiet", "--constraint", REPOSITORY / "constraints.txt"]
    subprocess.run([*install, requirement], check=True)
    # As on a user's machine: the checkout cannot be imported, and nothing is written outside the folder.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
    workspace = tmp_path / "workspace"
    workspace.mkdir()

    def run(*words: object) -> str:
        return subprocess.run(words, check=True, cwd=workspace, env=environment, capture_output=True, text=True).stdout

    assert run(programs / "shine-hf", "--version").startswith("shine-hf ")
    small = ["--train-videos", "8", "--test-videos", "3", "--max-steps", "1"]
    run(programs / "shine-hf", "demo", "--output-dir", "demo", *small)
    for name, target in (("OUT", "demo/qd_detr_shine_seed0"), ("FEATURES", "demo/features"), ("train.jsonl", "demo/train.jsonl")):  # fmt: skip
        (workspace / name).symlink_to(target)
    (workspace / "kitchen.mp4").symlink_to(next((workspace / "demo" / "videos").glob("*.mp4")))
    code = "\n".join(block.code for block in blocks_of(REPOSITORY / "README.md") if block.language == "python")
    printed = run(programs / "python", "-c", code)
    assert "start=" in printed and "'start':" in printed  # the outputs of the retriever and the pipeline
