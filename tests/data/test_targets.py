import math

import numpy as np
import pytest
import torch

from shine_hf.data.targets import clip_windows, graded_saliency, margin_pairs, saliency_targets, span_targets
from shine_hf.modeling.spans import span_to_window


def targets(windows, num_clips=10, clip_length=0.5, **options):
    clipped = clip_windows(windows, num_clips, clip_length)
    return span_targets(clipped, num_clips, clip_length), saliency_targets(clipped, num_clips, clip_length, **options)


@pytest.mark.parametrize(
    ("window", "inside"),
    [
        ([1.0, 2.0], [2, 3]),  # The window ends on a clip edge: clip 4 is outside.
        ([1.0, 2.1], [2, 3, 4]),  # A partly covered clip counts.
        ([0.9, 2.0], [1, 2, 3]),
        ([1.1, 1.2], [2]),  # The window is shorter than a clip.
        ([4.9, 5.0], [9]),  # The last clip.
        ([4.6, 99.0], [9]),  # Ends after the video.
        ([0.0, 5.0], list(range(10))),  # The entire video.
        ([-2.0, 0.3], [0]),
    ],
)
def test_clips_overlapping_a_window_are_inside(window, inside):
    spans, saliency = targets([window])
    assert np.flatnonzero(saliency).tolist() == inside and set(saliency) <= {0.0, 1.0}
    assert spans.shape == (1, 2) and saliency.dtype == spans.dtype == np.float32
    assert spans[0, 0] - spans[0, 1] / 2 + 1e-6 >= 0 and spans[0, 0] + spans[0, 1] / 2 <= 1 + 1e-6


def test_rounding_does_not_add_the_next_clip():
    for clips in range(1, 200):
        # 0.1 has no exact binary form, so clips * 0.1 may fall on either side of the edge.
        _, saliency = targets([[0.0, clips * 0.1]], num_clips=200, clip_length=0.1)
        assert saliency.sum() == clips


def test_spans_decode_back_to_the_windows():
    windows = [[1.1, 2.3], [0.0, 5.0], [3.0, 9.0]]
    spans, _ = targets(windows)
    seconds = span_to_window(torch.from_numpy(spans)).numpy() * 5.0
    np.testing.assert_allclose(seconds, [[1.1, 2.3], [0, 5], [3, 5]], atol=1e-5)


def test_windows_outside_the_clips_are_dropped():
    for windows in ([], [[4.0, 3.0]], [[2.0, 2.0]], [[5.0, 7.0]]):
        spans, saliency = targets(windows)
        assert spans.shape == (0, 2) and saliency.shape == (10,) and not saliency.any()
    spans, saliency = targets([[7.0, 9.0], [1.0, 1.5]])
    assert len(spans) == 1 and np.flatnonzero(saliency).tolist() == [2]


def test_several_windows_are_merged_into_the_labels():
    _, saliency = targets([[0.0, 1.0], [3.0, 3.5]])
    assert np.flatnonzero(saliency).tolist() == [0, 1, 6]


@pytest.mark.parametrize("width", [0.3, 1.0, 2.0, 50.0])
@pytest.mark.parametrize("window", [[1.0, 3.0], [1.2, 3.4], [1.1, 1.2], [0.0, 5.0], [4.2, 9.0]])
def test_soft_boundaries_do_not_change_which_clips_are_inside(window, width):
    _, hard = targets([window])
    _, soft = targets([window], soft_boundary_seconds=width)
    np.testing.assert_array_equal(soft >= 0.5, hard == 1)
    assert soft.dtype == np.float32 and soft.min() >= 0 and soft.max() <= 1


def test_soft_boundaries_rise_linearly_over_their_width():
    _, soft = targets([[2.0, 4.0]], num_clips=12, soft_boundary_seconds=2.0)
    # Clip centers are at 0.25, 0.75, …: label = 0.5 + depth / 2.
    np.testing.assert_allclose(soft, [0, 0, 0.125, 0.375, 0.625, 0.875, 0.875, 0.625, 0.375, 0.125, 0, 0], atol=1e-6)
    assert not targets([], soft_boundary_seconds=2.0)[1].any()


def test_graded_saliency_is_summed_over_annotators():
    graded = ([0, 3, 9], [[1, 2, 3], [4, 4, 4], [1, 1, 1]])
    np.testing.assert_array_equal(graded_saliency(*graded, 5, 2.0), [6, 0, 0, 12, 0])
    assert not graded_saliency([], [], 5, 2.0).any()


@pytest.mark.parametrize("clip_length", [0.5, 1.0, 2.0, 4.0, 0.7])
def test_graded_saliency_uses_two_second_clips_for_any_model_clip_length(clip_length):
    clips = math.ceil(150 / clip_length)
    saliency = graded_saliency(range(16, 26), [[3, 2, 4]] * 10, clips, clip_length)
    inside = np.flatnonzero(saliency >= 0.5)
    assert abs(inside[0] * clip_length - 32) < clip_length
    assert abs((inside[-1] + 1) * clip_length - 52) < clip_length
    np.testing.assert_allclose(saliency.sum() * clip_length, 9 * 20, rtol=1e-5)


def test_margin_pairs_stay_inside_and_outside():
    inside = np.array([0, 0, 1, 1, 1, 0, 0, 0], dtype=bool)
    for seed in range(30):
        positive, negative = margin_pairs(inside, np.random.default_rng(seed))
        assert len(set(positive)) == len(set(negative)) == 2 and inside[positive].all() and not inside[negative].any()
    one = np.array([1, 0], dtype=bool)
    positive, negative = margin_pairs(one, np.random.default_rng(0))
    assert positive.tolist() == [0, 0] and negative.tolist() == [1, 1]
    for nothing_to_compare in (np.ones(4, dtype=bool), np.zeros(4, dtype=bool)):
        assert all((clips == -1).all() for clips in margin_pairs(nothing_to_compare, np.random.default_rng(0)))
