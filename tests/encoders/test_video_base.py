"""What all encoders of video share."""

import numpy as np

from shine_hf.encoders import video_base


def test_large_frames_are_encoded_in_smaller_batches(monkeypatch):
    clips = [np.full((2, 4, 4, 3), index, np.uint8) for index in range(7)]
    for bytes_at_once, sizes in ((1_000, [4, 3]), (2 * clips[0].nbytes, [2, 2, 2, 1]), (1, [1] * 7)):
        monkeypatch.setattr(video_base, "MAX_BATCH_BYTES", bytes_at_once)
        batches = list(video_base._batches(iter(clips), 4))
        assert [len(batch) for batch in batches] == sizes
        np.testing.assert_array_equal(np.concatenate(batches), np.stack(clips))
