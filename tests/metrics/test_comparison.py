"""The paired bootstrap: detected differences, interval coverage, and resampling of videos and runs."""

import numpy as np
import pytest

from shine_hf.metrics import paired_bootstrap


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_constant_difference_is_found_for_any_query_difficulty(rng):
    baseline = 100 * rng.random((3, 200))
    found = paired_bootstrap(baseline + 2, baseline)
    assert found.mean == pytest.approx(2) and 0 < found.low < 2 < found.high < 4
    assert found.share_above_zero > 0.95


def test_few_queries_without_differences_do_not_prove_equality():
    """If 1 query in 20 differs, 8 queries without a difference prove little; plain resampling gave an interval of width 0."""
    hits = np.full((1, 8), 100.0)
    found = paired_bootstrap(hits, hits)
    assert found.mean == 0 and found.low < -5 and found.high > 5


@pytest.mark.parametrize(("gained", "lost"), [(0.05, 0.0), (0.1, 0.02), (0.3, 0.1), (0.02, 0.02)])
@pytest.mark.parametrize("videos", [20, 100])
def test_interval_of_rare_differences_covers_the_truth(rng, gained, lost, videos):
    covered = 0
    for seed in range(200):
        of_video = rng.choice([100.0, -100.0, 0.0], p=[gained, lost, 1 - gained - lost], size=videos)
        difference = np.repeat(of_video, 3)[None]  # All three queries of a video have the same outcome.
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
def test_interval_has_its_nominal_coverage(rng, runs, between_runs):
    covered = 0
    for seed in range(300):
        noise = rng.standard_normal((runs, 60)) + between_runs * rng.standard_normal((runs, 1))
        found = paired_bootstrap(noise + 1, np.zeros_like(noise), resamples=300, seed=seed)
        covered += found.low <= 1 <= found.high
    # With two runs, half of the resamples hold one run twice, so percentiles are coarse.
    assert covered / 300 >= (0.92 if runs > 2 else 0.85)


def test_identical_runs_do_not_widen_the_interval(rng):
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


def test_disagreeing_runs_widen_the_interval():
    values = np.repeat([[-5.0], [0.0], [11.0]], 100, axis=1)
    found = paired_bootstrap(values, np.zeros_like(values))
    assert found.mean == pytest.approx(2) and found.low < 0 < found.high


def test_queries_without_a_value_are_dropped_on_both_sides():
    values, baseline = np.array([[1.0, np.nan, 3.0]]), np.array([[0.0, 5.0, np.nan]])
    assert paired_bootstrap(values, baseline).mean == 1


@pytest.mark.parametrize(
    ("values", "baseline", "more", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), {}, "the same shape"),
        (np.zeros(3), np.zeros(3), {}, "the same shape"),
        (np.full((1, 2), np.nan), np.zeros((1, 2)), {}, "no query"),
        (np.zeros((1, 2)), np.zeros((1, 2)), {"clusters": ["a"]}, "1 clusters for 2 queries"),
        (np.zeros((1, 2)), np.zeros((1, 2)), {"confidence": 1.0}, "confidence"),
    ],
)
def test_invalid_comparisons_are_rejected(values, baseline, more, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(values, baseline, **more)
