"""Moment retrieval metrics on small cases computed by hand."""

import numpy as np
import pytest

from shine_hf.metrics import moment_retrieval_metrics, temporal_iou

NONE = [np.nan, np.nan]


def test_iou_of_known_windows():
    windows = np.array([[0, 10], [0, 10], [0, 10], [0, 10], [3, 3], NONE])
    others = np.array([[0, 10], [5, 15], [10, 20], [2, 4], [3, 3], [0, 1]])
    np.testing.assert_allclose(temporal_iou(windows, others), [1, 1 / 3, 0, 0.2, 0, np.nan])


def test_iou_broadcasts():
    iou = temporal_iou(np.zeros((4, 3, 1, 2)) + [0, 2], np.zeros((4, 1, 5, 2)) + [1, 3])
    assert iou.shape == (4, 3, 5)
    np.testing.assert_allclose(iou, 1 / 3)


def test_metrics_of_two_queries():
    moments = np.array(
        [
            [[0, 10, 0.9], [20, 30, 0.8]],  # IoU 1 with the only window
            [[0, 5, 0.9], [0, 10, 0.8]],  # IoU 1/2, then 1
        ]
    )
    windows = np.array([[[0, 10]], [[0, 10]]])
    metrics = moment_retrieval_metrics(moments, windows)
    assert metrics["R1@0.3"] == metrics["R1@0.5"] == metrics["R5@0.7"] == 100
    assert metrics["R1@0.7"] == 50
    assert metrics["mIoU"] == 75
    # At 0.5 both queries hit at rank 1; above that, the second hits at rank 2: precision 1/2.
    assert metrics["mAP@0.5"] == 100 and metrics["mAP@0.75"] == 75
    assert metrics["mAP"] == pytest.approx((100 + 9 * 75) / 10)


def test_recall_uses_the_given_order_and_precision_the_scores():
    moments = np.array([[[20, 30, 0.1], [0, 10, 0.9]]])
    metrics = moment_retrieval_metrics(moments, np.array([[[0, 10]]]))
    assert metrics["R1@0.3"] == 0 and metrics["mIoU"] == 0 and metrics["R5@0.7"] == 100
    assert metrics["mAP"] == 100


def test_best_matching_window_counts_in_any_position():
    windows = np.array([[[50, 60], [0, 10], NONE]])
    assert moment_retrieval_metrics(np.array([[[0, 10, 1.0]]]), windows)["mIoU"] == 100


def test_window_is_matched_only_once():
    """Predict the same moment twice: one hit and one false positive, and one of two windows is found."""
    moments = np.array([[[0, 10, 0.9], [0, 10, 0.8], [50, 60, 0.7]]])
    windows = np.array([[[0, 10], [50, 60]]])
    # Precision 1 up to a recall of 1/2, then 2/3.
    assert moment_retrieval_metrics(moments, windows)["mAP@0.5"] == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))


def test_prediction_falls_back_to_the_next_best_unmatched_window():
    moments = np.array([[[0, 10, 0.9], [0, 10, 0.8]]])
    windows = np.array([[[0, 10], [0, 8]]])  # IoU 1 and 0.8
    metrics = moment_retrieval_metrics(moments, windows, every_threshold=True)
    assert metrics["mAP@0.8"] == 100 and metrics["mAP@0.85"] == 50


def test_only_the_first_ten_predictions_count():
    wrong = [[20, 30, 0.5]] * 10
    moments, windows = np.array([[*wrong, [0, 10, 0.9]]]), np.array([[[0, 10]]])
    assert moment_retrieval_metrics(moments, windows)["mAP"] == 0
    assert moment_retrieval_metrics(moments[:, 1:], windows)["mAP"] == 100


@pytest.mark.parametrize("num_predictions", [0, 2])
def test_query_without_predictions_is_a_miss(num_predictions):
    moments = np.full((1, num_predictions, 3), np.nan)
    assert set(moment_retrieval_metrics(moments, np.array([[[0, 10]]])).values()) == {0.0}


def test_padding_does_not_change_the_metrics():
    rng = np.random.default_rng(0)
    moments = np.concatenate([np.sort(rng.random((40, 6, 2))), rng.random((40, 6, 1))], axis=2)
    windows = np.sort(rng.random((40, 3, 2)))
    padded_moments = np.concatenate([moments, np.full((40, 4, 3), np.nan)], axis=1)
    padded_windows = np.concatenate([windows, np.full((40, 2, 2), np.nan)], axis=1)
    assert moment_retrieval_metrics(moments, windows) == moment_retrieval_metrics(padded_moments, padded_windows)


def test_time_unit_does_not_change_the_metrics():
    rng = np.random.default_rng(1)
    moments = np.concatenate([np.sort(rng.random((50, 5, 2))), rng.random((50, 5, 1))], axis=2)
    windows = np.sort(rng.random((50, 2, 2)))
    # A power of two, so that nothing rounds differently.
    assert moment_retrieval_metrics(moments, windows) == moment_retrieval_metrics(moments * [64, 64, 1], windows * 64)


def test_thresholds_can_be_chosen():
    moments, windows = np.array([[[0, 6, 1.0]]]), np.array([[[0, 10]]])
    few, all_of_them = (moment_retrieval_metrics(moments, windows, every_threshold=flag) for flag in (False, True))
    assert few.items() <= all_of_them.items()
    assert [name for name, value in all_of_them.items() if name.startswith("R1@") and value] == [
        "R1@0.3",
        "R1@0.5",
        "R1@0.55",
        "R1@0.6",
    ]
    assert "R1@0.95" in all_of_them and "mAP@0.95" in all_of_them and "R1@0.95" not in few


@pytest.mark.parametrize(
    ("moments", "windows", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 1, 2)), "expected moments"),
        (np.zeros((2, 3, 2)), np.zeros((2, 1, 2)), "expected moments"),
        (np.zeros((2, 3, 3)), np.zeros((1, 1, 2)), "2 and 1"),
        (np.zeros((0, 3, 3)), np.zeros((0, 1, 2)), "at least one"),
    ],
)
def test_invalid_shapes_are_rejected(moments, windows, message):
    with pytest.raises(ValueError, match=message):
        moment_retrieval_metrics(moments, windows)
