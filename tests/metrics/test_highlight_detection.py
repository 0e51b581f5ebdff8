"""Highlight metrics on small cases computed by hand."""

import numpy as np
import pytest

from shine_hf.metrics import highlight_detection_metrics


def grades_of(*clips):
    """Return the grades of one query by one annotator."""
    return np.array(clips, dtype=float)[None, :, None]


def test_perfect_order_scores_100():
    metrics = highlight_detection_metrics(np.array([[0.9, 0.5, 0.1, 0.0]]), grades_of(4, 3, 2, 0))
    assert metrics == dict.fromkeys(metrics, 100.0)


def test_precision_is_averaged_over_the_levels_of_recall():
    # Ranking: highlight, other, highlight -> precisions 1 and 2/3.
    metrics = highlight_detection_metrics(np.array([[3.0, 2.0, 1.0, 0.0]]), grades_of(4, 0, 4, 0))
    assert metrics["min-Fair-mAP"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert metrics["min-Fair-Hit1"] == 100


def test_tied_scores_are_ranked_together():
    metrics = highlight_detection_metrics(np.zeros((1, 4)), grades_of(0, 4, 0, 0))
    assert metrics["min-Fair-mAP"] == pytest.approx(25)
    assert metrics["min-Fair-Hit1"] == 0  # the first of several tied clips is the answer


def test_grade_threshold_defines_a_highlight():
    metrics = highlight_detection_metrics(np.array([[1.0, 0.0]]), grades_of(3, 4))
    assert metrics["min-Good-Hit1"] == 100 and metrics["min-VeryGood-Hit1"] == 0
    assert metrics["min-VeryGood-mAP"] == 50


def test_precision_is_averaged_over_annotators_and_one_is_enough_for_a_hit():
    grades = np.array([[[4, 0], [0, 4]]], dtype=float)
    metrics = highlight_detection_metrics(np.array([[1.0, 0.0]]), grades)
    assert metrics["min-VeryGood-mAP"] == 75 and metrics["min-VeryGood-Hit1"] == 100


def test_no_highlights_score_0_and_only_highlights_score_100():
    assert highlight_detection_metrics(np.array([[1.0, 0.0]]), grades_of(0, 1))["min-Fair-mAP"] == 0
    assert highlight_detection_metrics(np.array([[1.0, 0.0]]), grades_of(2, 2))["min-Fair-mAP"] == 100


def test_scores_are_padded_or_cut_to_the_clips():
    """Missing scores count as 0. A best clip past the end is a miss for HIT@1 and is cut for the precision."""
    grades = grades_of(0, 4, np.nan)
    assert highlight_detection_metrics(np.array([[-1.0]]), grades)["min-Fair-mAP"] == 100
    past_the_end = highlight_detection_metrics(np.array([[0.0, 1.0, 5.0, 9.0]]), grades)
    assert past_the_end["min-Fair-mAP"] == 100 and past_the_end["min-Fair-Hit1"] == 0


def test_padding_does_not_change_the_metrics():
    rng = np.random.default_rng(0)
    scores, grades = rng.normal(size=(20, 9)), rng.integers(0, 5, size=(20, 9, 3)).astype(float)
    padded = np.concatenate([scores, np.full((20, 4), np.nan)], axis=1)
    padded_grades = np.concatenate([grades, np.full((20, 2, 3), np.nan)], axis=1)
    assert highlight_detection_metrics(scores, grades) == highlight_detection_metrics(padded, padded_grades)


def test_random_scores_give_the_share_of_highlights():
    rng = np.random.default_rng(0)
    scores, grades = rng.normal(size=(400, 75)), rng.choice([0, 4], p=[0.7, 0.3], size=(400, 75, 1)).astype(float)
    metrics = highlight_detection_metrics(scores, grades)
    assert metrics["min-Fair-Hit1"] == pytest.approx(30, abs=6)
    assert 30 < metrics["min-Fair-mAP"] < 45  # interpolation uses the best precision at any higher recall


@pytest.mark.parametrize(
    ("scores", "grades", "message"),
    [
        (np.zeros(3), np.zeros((1, 3, 1)), "expected scores"),
        (np.zeros((2, 3)), np.zeros((1, 3, 1)), "expected scores"),
        (np.zeros((0, 3)), np.zeros((0, 3, 1)), "N > 0"),
        (np.full((1, 3), np.nan), np.zeros((1, 3, 1)), "at least one clip"),
        (np.zeros((1, 3)), np.full((1, 3, 1), np.nan), "at least one clip"),
    ],
)
def test_invalid_input_is_rejected(scores, grades, message):
    with pytest.raises(ValueError, match=message):
        highlight_detection_metrics(scores, grades)
