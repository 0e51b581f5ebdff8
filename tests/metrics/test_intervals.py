"""Intervals of a proportion on simulated data: coverage is nominal, even near 0 and 1 and with dependent queries."""

import numpy as np
import pytest

from shine_hf.metrics import share_interval

REPEATS = 400
# Two standard errors of a coverage of 0.95 over the repeats.
TOLERANCE = 2 * (0.95 * 0.05 / REPEATS) ** 0.5


def simulated(rng, share, sizes, dependence):
    """Draw outcomes of queries that hold with probability `share`, for videos of the given sizes and correlation `dependence`."""
    if dependence in (0, 1):
        of_video = np.full(len(sizes), share) if dependence == 0 else (rng.random(len(sizes)) < share).astype(float)
    else:
        strength = (1 - dependence) / dependence
        of_video = rng.beta(share * strength, (1 - share) * strength, len(sizes))
    videos = np.repeat(np.arange(len(sizes)), sizes)
    return rng.random(len(videos)) < of_video[videos], videos


def coverage(rng, share, make_sizes, dependence):
    covered, widths = 0, []
    for _ in range(REPEATS):
        low, high = share_interval(*simulated(rng, share, make_sizes(rng), dependence))
        covered += low <= share <= high
        widths.append(high - low)
    return covered / REPEATS, np.mean(widths)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("count", [5, 20, 200])
def test_independent_queries_have_nominal_coverage(share, count):
    found, width = coverage(np.random.default_rng(count), share, lambda rng: np.ones(count, dtype=int), 0)
    assert found >= 0.95 - TOLERANCE
    # At most as wide as the widest exact interval, and much narrower near 0 and 1.
    assert width < 2.5 * (share * (1 - share) / count) ** 0.5 * 1.96 + 3.7 / count


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize("dependence", [0, 0.3, 0.7, 1])
@pytest.mark.parametrize(
    "make_sizes",
    [
        lambda rng: np.full(8, 5),
        lambda rng: np.full(60, 4),
        lambda rng: rng.geometric(1 / 5, 100),
        lambda rng: np.append(np.ones(40, dtype=int), [30, 10]),
    ],
    ids=["8x5", "60x4", "uneven", "one_large"],
)
def test_dependent_queries_have_nominal_coverage(share, dependence, make_sizes):
    found, _ = coverage(np.random.default_rng(7), share, make_sizes, dependence)
    assert found >= 0.95 - TOLERANCE


def test_only_dependent_queries_widen_the_interval():
    rng = np.random.default_rng(0)
    holds, videos = simulated(rng, 0.8, np.full(300, 5), 1)
    low, high = share_interval(holds, videos)
    naive_low, naive_high = share_interval(holds)
    assert (high - low) / (naive_high - naive_low) == pytest.approx(5**0.5, rel=0.15)
    holds, videos = simulated(rng, 0.8, np.full(300, 5), 0)
    assert np.subtract(*share_interval(holds, videos)) == pytest.approx(np.subtract(*share_interval(holds)), rel=0.15)


@pytest.mark.parametrize(("held", "expected"), [(8, (0.631, 1)), (0, (0, 0.369))])
def test_all_or_none_gives_the_exact_interval(held, expected):
    assert share_interval(np.arange(8) < held) == pytest.approx(expected, abs=0.001)


def test_queries_of_a_single_video_give_a_wide_interval():
    low, high = share_interval(np.ones(50, dtype=bool), ["only"] * 50)
    assert low < 0.1 and high == 1


def test_higher_confidence_widens_the_interval():
    holds = np.arange(60) < 45
    (wide_low, wide_high), (low, high) = (share_interval(holds, confidence=value) for value in (0.99, 0.5))
    assert wide_low < low < 0.75 < high < wide_high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least one query"),
        (([True, False], ["a"]), "1 clusters for 2 queries"),
        (([True], None, 95), "confidence"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        share_interval(*arguments)
