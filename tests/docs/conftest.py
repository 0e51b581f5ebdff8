"""A folder with everything that the code blocks of the docs use: a small trained model, a video, features and rows."""

import shutil

import pytest

from shine_hf.cli import main


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    demo = tmp_path_factory.mktemp("demo")
    assert (
        main(["demo", "--output-dir", str(demo), "--train-videos", "8", "--test-videos", "3", "--max-steps", "1"]) == 0
    )
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "OUT").symlink_to(demo / "qd_detr_shine_seed0", target_is_directory=True)
    (folder / "FEATURES").symlink_to(demo / "features", target_is_directory=True)
    (folder / "VIDEOS").symlink_to(demo / "videos", target_is_directory=True)
    shutil.copy(next((demo / "videos").glob("*.mp4")), folder / "kitchen.mp4")
    shutil.copy(demo / "train.jsonl", folder / "train.jsonl")
    shutil.copy(demo / "novel_composition.jsonl", folder / "test.jsonl")
    return folder
