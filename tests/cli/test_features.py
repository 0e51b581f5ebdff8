import h5py
import numpy as np
import pytest

from shine_hf.cli import main
from shine_hf.encoders import video_encoder
from shine_hf.features.base import FeatureStore
from tests.data.made_up import make_row, make_rows, write_jsonl
from tests.encoders.videos import gray, write_video


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "npy"
    folder.mkdir()
    for index in range(3):
        np.save(folder / f"video{index}.npy", np.full((4, 8), index, dtype=np.float32))
    return folder


@pytest.fixture
def annotations(tmp_path):
    return write_jsonl(tmp_path / "own.jsonl", make_rows(4))  # video0 and video1


def test_pack_and_check_all_features(tmp_path, folder, capsys):
    output = tmp_path / "packed"
    assert main(["features", "pack", "--features", f"i3d:{folder}", "--output", str(output), "--half-precision"]) == 0
    assert "3 keys, 12 x 8" in capsys.readouterr().out
    np.testing.assert_array_equal(FeatureStore.from_spec(f"packed:{output}")["video2"], np.full((4, 8), 2.0))
    assert main(["features", "check", "--features", f"packed:{output}"]) == 0
    assert "0 errors" in capsys.readouterr().out


def test_pack_only_the_videos_of_a_dataset(tmp_path, folder, annotations, capsys):
    command = ["features", "pack", "--features", f"i3d:{folder}", "--dataset", str(annotations), "--output"]
    assert main([*command, str(tmp_path / "complete")]) == 0
    assert list(FeatureStore.from_spec(f"packed:{tmp_path / 'complete'}")) == ["video0", "video1"]
    (folder / "video1.npy").unlink()
    assert main([*command, str(tmp_path / "refused")]) == 2
    assert "no features of 1 of 2 keys: video1" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "partial"), "--allow-missing"]) == 0
    assert "without features (1): video1" in capsys.readouterr().out


def test_check_reports_every_fault(folder, annotations, capsys):
    np.save(folder / "video0.npy", np.full((4, 8), np.nan))
    (folder / "video1.npy").unlink()
    assert main(["features", "check", "--features", f"i3d:{folder}", "--dataset", str(annotations)]) == 1
    printed = capsys.readouterr().out
    assert "2 keys, 2 errors" in printed and "'video0' contain NaN" in printed and "no features of 'video1'" in printed


def test_extract_lists_unreadable_videos(tmp_path, capsys):
    write_video(tmp_path / "good.mp4", [gray(shade) for shade in range(8)])
    (tmp_path / "bad.mp4").write_text("no video")
    command = ["features", "extract", "--videos", str(tmp_path), "--encoder", "pixels:size=4", "--output"]
    assert main([*command, str(tmp_path / "features"), "--clip-length", "0.5"]) == 1
    output = capsys.readouterr().out
    assert "features of 1 of 2 videos" in output and f"not read: {tmp_path / 'bad.mp4'}" in output
    (tmp_path / "bad.mp4").unlink()
    assert main([*command, str(tmp_path / "features"), "--clip-length", "0.5"]) == 0
    assert FeatureStore.from_spec(f"npz:{tmp_path / 'features'}")["good"].shape == (
        4,
        video_encoder("pixels:size=4").dim,
    )
    for seconds in ("0", "-1", "nan", "inf"):
        assert main([*command, str(tmp_path / "none"), "--clip-length", seconds]) == 2
        assert "must be positive" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_check_compares_clips_with_durations_and_windows(tmp_path, folder, capsys):
    rows = [make_row(i, vid=f"video{i}", duration=8.0, relevant_windows=[[5.0, 7.5]]) for i in range(3)]
    command = [
        "features",
        "check",
        "--features",
        str(folder),
        "--dataset",
        str(write_jsonl(tmp_path / "a.jsonl", rows)),
    ]
    # 4 rows for 8 s: 2-second clips.
    assert main(command) == 0
    assert "seconds per row: 2 from the durations" in capsys.readouterr().out
    assert main([*command, "--clip-length", "2"]) == 0
    capsys.readouterr()
    assert main([*command, "--clip-length", "0.5"]) == 1
    printed = capsys.readouterr().out
    assert (
        "the clips of 3 of 3 videos do not cover their durations (video0: 4 clips x 0.5 s = 2 s, but the video is 8 s long"
        in printed
    )
    assert "no clip covers 3 of 3 windows" in printed and "0 errors" in printed
    assert main([*command, "--clip-length", "-1"]) == 2


def test_empty_stores_are_errors(tmp_path, capsys):
    with h5py.File(tmp_path / "empty.hdf5", "w"):
        pass
    for action in (["inspect"], ["check", "--features"]):
        assert main(["features", *action, str(tmp_path / "empty.hdf5")]) == 2
        assert "empty.hdf5 contains no features" in capsys.readouterr().err


def test_inspect_describes_the_store(tmp_path, folder, capsys):
    rows = [make_row(0, vid="video0", duration=8.0, relevant_windows=[[5.0, 7.5]])]
    assert main(["features", "inspect", str(folder), "--dataset", str(write_jsonl(tmp_path / "a.jsonl", rows))]) == 0
    facts = dict(line.split(":", 1) for line in capsys.readouterr().out.strip().splitlines())
    assert facts["layout"].strip() == "a folder, one {key}.npy per key" and facts["width"].strip() == "8"
    assert facts["keys"].strip() == "3 (video0, video1, video2)" and facts["type"].strip() == "float32"
    assert facts["rows per key"].strip() == "4 to 4, median 4" and facts["seconds per row"].strip().startswith(
        "2 from"
    )
    assert main(["features", "inspect", str(tmp_path / "gone")]) == 2
    assert "no features at" in capsys.readouterr().err
