"""Behavior shared by all video encoders."""

import numpy as np
import pytest

from shine_hf.encoders import video_base, video_encoder
from shine_hf.encoders.video_source import VideoFrames

from .videos import gray, write_video


def test_large_frames_are_encoded_in_smaller_batches(monkeypatch):
    frames = VideoFrames([gray(index, 4, 4) for index in range(7)], fps=1)
    encoder = video_encoder("pixels:size=4,frames=2")
    encoder.batch_clips = 4
    for bytes_at_once, sizes in ((1_000, [4, 3]), (2 * 96, [2, 2, 2, 1]), (1, [1] * 7)):
        monkeypatch.setattr(video_base, "MAX_BATCH_BYTES", bytes_at_once)
        batches = [batch for (batch,) in video_base.read_batches(frames, 1.0, [encoder])]
        assert [len(batch) for batch in batches] == sizes
        assert np.concatenate(batches)[:, 0, 0, 0, 0].tolist() == list(range(7))


@pytest.fixture
def path(tmp_path):
    return write_video(tmp_path / "a.mp4", [gray(20 * index) for index in range(11)], fps=4)


def test_joined_encoders_share_one_time_grid(path, monkeypatch):
    specs = ["pixels:size=4,frames=2", "pixels:size=2,frames=4"]
    joint = video_encoder("+".join(specs))
    assert joint.spec == "+".join(specs) and joint.dims == [64, 16] and joint.dim == 80
    decoded = []
    opened = video_base.read_samples
    monkeypatch.setattr(video_base, "read_samples", lambda *args: decoded.append(args) or opened(*args))
    found = joint.encode_video(path, 1.0)
    assert len(decoded) == 1
    parts = [video_encoder(spec).encode_video(path, 1.0) for spec in specs]
    np.testing.assert_array_equal(found, np.concatenate(parts, axis=1))


def test_clip_exists_only_where_every_encoder_has_one(tmp_path):
    # At 2.25 s, the video contains the first of four sampling times of the third clip, but not the only one at `frames=1`.
    path = write_video(tmp_path / "rest.mp4", [gray(20 * index) for index in range(9)], fps=4)
    for spec, clips in (("pixels:frames=4", 3), ("pixels:frames=1", 2), ("pixels:frames=4+pixels:frames=1", 2)):
        assert len(video_encoder(spec).encode_video(path, 1.0)) == clips


def test_joined_encoders_read_different_frames():
    with pytest.raises(TypeError, match="encode_video or encode_batch"):
        video_encoder("pixels:+pixels:size=2").encode_clips(np.zeros((1, 4, 20, 20, 3), np.uint8))
