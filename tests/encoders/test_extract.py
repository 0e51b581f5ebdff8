"""Feature extraction from a folder of videos: complete, resumable, and equal to what inference computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shine_hf.encoders import extract, video_encoder
from shine_hf.encoders.extract import extract_features
from shine_hf.encoders.folders import find_videos
from shine_hf.encoders.pixels import PixelEncoder
from shine_hf.features.base import FeatureStore

from ..conftest import REPOSITORY
from .videos import gray, write_video

SPEC = "pixels:size=4,frames=2"


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    for index, name in enumerate(["a.mp4", "b.mkv", "more/c.MP4"]):
        write_video(folder / name, [gray(30 * index + shade) for shade in range(8 + index)])
    (folder / "notes.txt").write_text("not a video")
    return folder


def test_extracted_features_equal_those_of_inference(videos, tmp_path):
    found = find_videos(videos)
    assert [path.name for path in found] == ["a.mp4", "b.mkv", "c.MP4"]
    assert extract_features(found, tmp_path / "features", SPEC, clip_length=0.5, workers=2, progress=False) == []
    store = FeatureStore.from_spec(f"npz:{tmp_path / 'features'}")
    assert sorted(store) == ["a", "b", "c"]
    for path in found:
        np.testing.assert_array_equal(store[path.stem], video_encoder(SPEC).encode_video(path, 0.5))
    assert json.loads((tmp_path / "features" / "features.json").read_text()) == {
        "encoder": SPEC,
        "clip_length": 0.5,
    }


@pytest.mark.parametrize("workers", [0, 1, 2, 8])
def test_number_of_decoding_processes_does_not_change_the_features(videos, tmp_path, workers):
    """Use several batches per video, which interleave."""
    encoder = video_encoder(SPEC)
    encoder.batch_clips = 1
    (videos / "broken.mp4").write_bytes(b"no video at all")
    listed = extract_features(find_videos(videos), tmp_path / "f", encoder, 0.5, workers=workers, progress=False)
    assert [path.name for path, _ in listed] == ["broken.mp4"]
    store = FeatureStore.from_spec(f"npz:{tmp_path / 'f'}")
    for path in find_videos(videos):
        if path.stem != "broken":
            np.testing.assert_array_equal(store[path.stem], video_encoder(SPEC).encode_video(path, 0.5))


def test_joined_encoders_are_recorded_with_their_widths(videos, tmp_path):
    spec = f"{SPEC}+pixels:size=2,frames=1"
    assert extract_features(find_videos(videos), tmp_path / "f", spec, 0.5, workers=0, progress=False) == []
    assert json.loads((tmp_path / "f" / "features.json").read_text()) == {
        "encoder": spec, "clip_length": 0.5, "dims": [64, 16],
    }  # fmt: skip
    store = FeatureStore.from_spec(f"npz:{tmp_path / 'f'}")
    # Each part is normalized separately.
    assert (store.dims, store.dim, store.encoder, store.encoders) == ([64, 16], 80, spec, spec.split("+"))
    np.testing.assert_array_equal(store["a"], video_encoder(spec).encode_video(videos / "a.mp4", 0.5))


def test_interrupted_run_resumes_where_it_stopped(videos, tmp_path, monkeypatch):
    encoded, encode = [], PixelEncoder.encode_batch

    def stop_at_the_second(self, batch):
        if len(encoded) == 1:
            raise KeyboardInterrupt
        encoded.append(len(batch[0]))
        return encode(self, batch)

    monkeypatch.setattr(PixelEncoder, "encode_batch", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        extract_features(find_videos(videos), tmp_path / "features", SPEC, clip_length=0.5, progress=False)
    assert len(list((tmp_path / "features").glob("*.npz"))) == 1
    monkeypatch.setattr(PixelEncoder, "encode_batch", lambda self, batch: encoded.append(0) or encode(self, batch))
    assert extract_features(find_videos(videos), tmp_path / "features", SPEC, clip_length=0.5, progress=False) == []
    assert len(encoded) == 3 and len(list((tmp_path / "features").glob("*.npz"))) == 3
    assert not list((tmp_path / "features").glob(".*"))


def test_processes_split_one_list_of_videos(videos, tmp_path, monkeypatch):
    class Second:
        """Act as the second of two processes; the first one writes its file as early as possible."""

        process_index, num_processes, is_main_process, device = 1, 2, False, "cpu"

        def __init__(self, cpu):
            self.waits = 0

        def wait_for_everyone(self):
            self.waits += 1
            if self.waits == 2:
                (tmp_path / "features").mkdir()
                (tmp_path / "features" / "first.npz").touch()

    monkeypatch.setattr("accelerate.PartialState", Second)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda items: items)
    by_size = sorted(find_videos(videos), key=lambda path: path.stat().st_size, reverse=True)
    extract_features(find_videos(videos), tmp_path / "features", SPEC, clip_length=0.5, progress=False)
    written = sorted(path.stem for path in (tmp_path / "features").glob("*.npz"))
    assert written == sorted(["first", by_size[1].stem])


def test_progress_bar_counts_the_videos_of_all_processes(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(extract, "_COUNT_SECONDS", 0.0)
    extract_features(find_videos(videos), tmp_path / "features", SPEC, clip_length=0.5, workers=0)
    shown = capsys.readouterr().err
    assert "Encoding videos: 100%" in shown and "3/3" in shown


def test_unreadable_videos_are_listed_and_retried(videos, tmp_path):
    (videos / "broken.mp4").write_bytes(b"no video at all")
    (videos / "empty.mp4").touch()
    listed = extract_features(find_videos(videos), tmp_path / "features", SPEC, clip_length=0.5, progress=False)
    assert [path.name for path, _ in listed] == ["broken.mp4", "empty.mp4"]
    assert "empty (0 bytes)" in listed[1][1]
    write_video(videos / "empty.mp4", [gray(9)])
    listed = extract_features(find_videos(videos), tmp_path / "features", SPEC, clip_length=0.5, progress=False)
    assert [path.name for path, _ in listed] == ["broken.mp4"]
    assert len(FeatureStore.from_spec(f"npz:{tmp_path / 'features'}")) == 4


@pytest.mark.parametrize("spec,clip_length", [("pixels:size=5,frames=2", 0.5), (SPEC, 1.0)])
def test_one_folder_does_not_mix_settings(videos, tmp_path, spec, clip_length):
    extract_features(find_videos(videos), tmp_path / "features", SPEC, clip_length=0.5, progress=False)
    with pytest.raises(ValueError, match="contains features computed with"):
        extract_features(find_videos(videos), tmp_path / "features", spec, clip_length, progress=False)


def test_video_names_must_be_unique(videos, tmp_path):
    write_video(videos / "more" / "a.mkv", [gray(9)])
    with pytest.raises(ValueError, match=r"share the file a\.npz"):
        extract_features(find_videos(videos), tmp_path / "features", SPEC, clip_length=0.5)


def test_full_disk_is_not_reported_as_an_unreadable_video(videos, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        extract_features(find_videos(videos), tmp_path / "features", SPEC, clip_length=0.5, progress=False)


def test_videos_are_found_by_suffix_without_hidden_files(tmp_path):
    names = ["a.3g2", "b.asf", "c.f4v", "d.VOB", "e.ogv", "f.rm", "._a.mp4", "notes.txt"]
    for name in names:
        (tmp_path / name).touch()
    assert [path.name for path in find_videos(tmp_path)] == names[:6]


def test_missing_or_empty_video_folder_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of videos"):
        find_videos(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no video files"):
        find_videos(tmp_path)


# The first process is killed when both have written a video.
KILLED_RUN = """
import os, signal, sys, time
from pathlib import Path
from shine_hf.cli import main
from shine_hf.encoders import extract

encode_share = extract._encode_share

def stop_after_the_first(videos, *args):
    for index, finished in enumerate(encode_share(videos, *args)):
        if index == 1 and os.environ["RANK"] == "0":
            while len(list(Path(sys.argv[-1]).glob("*.npz"))) < 2:
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        yield finished

extract._encode_share = stop_after_the_first
sys.exit(main())
"""


def test_accelerate_launch_shares_the_videos_and_resumes_after_a_kill(videos, tmp_path):
    (videos / "broken.mp4").write_bytes(b"no video at all")
    output, script = tmp_path / "features", tmp_path / "killed_run.py"
    script.write_text(KILLED_RUN)
    arguments = ["features", "extract", "--videos", str(videos), "--encoder", SPEC, "--clip-length", "0.5"]
    arguments += ["--workers", "0", "--output", str(output)]
    killed = _launch(str(script), *arguments)
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr, killed.stderr
    first = {path.name: path.stat().st_mtime_ns for path in output.glob("*.npz")}
    assert len(first) == 2
    # As in docs/encoders.md. The exit status is that of the main process, which lists the videos of both.
    resumed = _launch("--no_python", str(Path(sys.executable).with_name("shine-hf")), *arguments)
    assert f"{output}: features of 3 of 4 videos" in resumed.stdout, resumed.stderr
    assert resumed.stdout.count("not read:") == 1 and "broken.mp4" in resumed.stdout and resumed.returncode == 1
    store = FeatureStore.from_spec(str(output))
    assert sorted(store) == ["a", "b", "c"]
    assert all((output / name).stat().st_mtime_ns == written for name, written in first.items())
    for path in find_videos(videos):
        if path.stem != "broken":
            np.testing.assert_array_equal(store[path.stem], video_encoder(SPEC).encode_video(path, 0.5))


def _launch(*arguments: str) -> subprocess.CompletedProcess:
    """Run `accelerate launch` with two processes on CPU."""
    config = REPOSITORY / "shine_hf" / "accelerate_configs" / "cpu.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
