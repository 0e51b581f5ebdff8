import numpy as np

from shine_hf.encoders import video_encoder

from .videos import gray, write_video


def test_features_are_the_average_and_the_motion_energy():
    encoder = video_encoder("pixels:size=2,frames=3")
    clips = np.zeros((2, 3, 2, 2, 3), np.uint8)
    clips[1, 1, 0, 0, 2] = 255  # One pixel flashes blue in the second frame.
    features = encoder.encode_clips(clips)
    assert features.shape == (2, encoder.dim) == (2, 16) and features.dtype == np.float32
    still, motion = features[1, :12].reshape(2, 2, 3), features[1, 12:].reshape(2, 2)
    np.testing.assert_allclose(still[0, 0], [0, 0, 1 / 3], atol=1e-6)
    np.testing.assert_allclose(motion, [[1 / 3, 0], [0, 0]], atol=1e-6)
    assert (features[0, 12:] == 0).all()


def test_video_is_encoded_clip_by_clip(tmp_path):
    path = write_video(tmp_path / "a.mp4", [gray(0)] * 8 + [gray(255 * (i % 2)) for i in range(8)], fps=8)
    features = video_encoder("pixels:size=4,frames=8").encode_video(path, 1.0)
    assert features.shape == (2, 64)
    assert np.abs(features[0, 48:]).max() < 0.05 and features[1, 48:].min() > 0.9


def test_single_frame_has_no_motion():
    assert (
        video_encoder("pixels:size=2,frames=1").encode_clips(np.ones((1, 1, 2, 2, 3), np.uint8))[:, 12:] == 0
    ).all()


def test_spec_rebuilds_the_encoder():
    assert video_encoder("pixels:").spec == video_encoder(video_encoder("pixels:").spec).spec
