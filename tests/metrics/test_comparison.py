"""The paired bootstrap: what it must find, what it must leave open, and that it resamples videos and runs."""

import numpy as np
import pytest

from shine_hf.metrics import paired_bootstrap


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_difference_on_every_query_is_found_whatever_the_queries_are_like(rng):
    baseline = 100 * rng.random((3, 200))
    found = paired_bootstrap(baseline + 2, baseline)
    assert found.mean == pytest.approx(2) and 0 < found.low < 2 < found.high < 4
    assert found.share_above_zero > 0.95


def test_models_that_never_differ_are_not_proven_equal():
    """With 1 difference in 20 queries expected, 8 queries without any say little; resampling them alone gave the point 0."""
    hits = np.full((1, 8), 100.0)
    found = paired_bootstrap(hits, hits)
    assert found.mean == 0 and found.low < -5 and found.high > 5


@pytest.mark.parametrize(("gained", "lost"), [(0.05, 0.0), (0.1, 0.02), (0.3, 0.1), (0.02, 0.02)])
@pytest.mark.parametrize("videos", [20, 100])
def test_the_interval_of_rare_differences_covers_the_truth(rng, gained, lost, videos):
    covered = 0
    for seed in range(200):
        of_video = rng.choice([100.0, -100.0, 0.0], p=[gained, lost, 1 - gained - lost], size=videos)
        difference = np.repeat(of_video, 3)[None]  # Three queries of each video with one fate.
        baseline = np.where(difference < 0, 100.0, 0.0)
        both_hit = rng.random(baseline.shape) < 0.5
        baseline = np.where((difference == 0) & both_hit, 100.0, baseline)
        found = paired_bootstrap(
            baseline + difference, baseline, clusters=np.repeat(np.arange(videos), 3), resamples=300, seed=seed
        )
        covered += found.low <= 100 * (gained - lost) <= found.high
    assert covered / 200 >= 0.92


@pytest.mark.parametrize("runs", [2, 3, 5])
@pytest.mark.parametrize("between_runs", [0.3, 3.0])
def test_the_interval_covers_the_truth_as_often_as_it_says(rng, runs, between_runs):
    covered = 0
    for seed in range(300):
        noise = rng.standard_normal((runs, 60)) + between_runs * rng.standard_normal((runs, 1))
        found = paired_bootstrap(noise + 1, np.zeros_like(noise), resamples=300, seed=seed)
        covered += found.low <= 1 <= found.high
    # Of two runs one resample in two has twice the same: there percentiles are coarse.
    assert covered / 300 >= (0.92 if runs > 2 else 0.85)


def test_the_interval_of_like_runs_is_no_wider_than_the_videos_make_it(rng):
    values = np.repeat(rng.standard_normal((1, 200)), 5, axis=0)
    found = paired_bootstrap(values, np.zeros_like(values))
    assert found.high - found.low == pytest.approx(2 * 1.96 / 200**0.5, rel=0.15)


def test_queries_of_one_video_count_as_one_observation(rng):
    per_video = rng.standard_normal((1, 20))
    values = np.repeat(per_video, 50, axis=1)
    clusters = np.repeat(np.arange(20), 50)
    by_query, by_video = (paired_bootstrap(values, np.zeros_like(values), clusters=c) for c in (None, clusters))
    assert by_query.mean == pytest.approx(by_video.mean)
    assert by_video.high - by_video.low > 4 * (by_query.high - by_query.low)


def test_runs_that_disagree_widen_the_interval():
    values = np.repeat([[-5.0], [0.0], [11.0]], 100, axis=1)
    found = paired_bootstrap(values, np.zeros_like(values))
    assert found.mean == pytest.approx(2) and found.low < 0 < found.high


def test_queries_without_a_figure_are_left_out_on_both_sides():
    values, baseline = np.array([[1.0, np.nan, 3.0]]), np.array([[0.0, 5.0, np.nan]])
    assert paired_bootstrap(values, baseline).mean == 1


@pytest.mark.parametrize(
    ("values", "baseline", "more", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), {}, "one shape"),
        (np.zeros(3), np.zeros(3), {}, "one shape"),
        (np.full((1, 2), np.nan), np.zeros((1, 2)), {}, "no query"),
        (np.zeros((1, 2)), np.zeros((1, 2)), {"clusters": ["a"]}, "1 clusters for 2 queries"),
        (np.zeros((1, 2)), np.zeros((1, 2)), {"confidence": 1.0}, "confidence"),
    ],
)
def test_what_cannot_be_compared_is_refused(values, baseline, more, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(values, baseline, **more)
