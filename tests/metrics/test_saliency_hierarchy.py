"""The saliency order: which links count, ties, absent levels, and intervals."""

import numpy as np
import pytest

from shine_hf.metrics import saliency_hierarchy, saliency_order, share_interval

ABSENT = np.nan
LINKS = ("positive>level1", "level1>level2", "level2>level3", "level3>irrelevant")


def test_links_and_full_chain_are_counted():
    levels = [
        [5, 4, 3, 2, 1],
        [5, 4, 3, 2, 2.5],  # the last link fails
        [3, 4, 3, 2, 1],  # the first
        [5, 4, 1, 2, 1.5],  # the link from level 1 to 2 holds, from 2 to 3 fails
    ]
    metrics = saliency_order(np.array(levels))
    assert list(metrics) == [*LINKS, "chain"]
    assert metrics == {**dict(zip(LINKS, (75, 100, 75, 75))), "chain": 25}


def test_tie_counts_as_a_failure():
    """A model that ignores the query must not look like one that orders half of the pairs."""
    assert set(saliency_order(np.ones((10, 5))).values()) == {0}


def test_absent_level_is_skipped_and_its_neighbors_are_compared():
    right = saliency_order(np.array([[5, ABSENT, 3, 2, 1]]))
    assert right == {"level2>level3": 100, "level3>irrelevant": 100, "chain": 100}
    assert saliency_order(np.array([[3, ABSENT, 5, 2, 1]]))["chain"] == 0
    assert saliency_order(np.array([[5, ABSENT, ABSENT, ABSENT, 6]])) == {"chain": 0}


def test_link_counts_only_if_both_ends_exist():
    levels = np.array([[2, 1, 0], [2, ABSENT, 0], [1, 2, 0]])
    assert saliency_order(levels) == {"positive>level1": 50, "level1>irrelevant": 100, "chain": pytest.approx(200 / 3)}


def test_rows_without_negatives_do_not_count():
    levels = np.array([[2, 1], [2, ABSENT], [ABSENT, 1]])
    assert saliency_order(levels) == {"positive>irrelevant": 100, "chain": 100}
    assert saliency_order(np.array([[1.0], [2.0]])) == {}
    assert saliency_order(np.zeros((0, 5))) == {}


def test_infinite_scores_are_compared():
    assert saliency_order(np.array([[0.0, -np.inf]]))["chain"] == 100


def test_intervals_use_only_the_rows_that_count():
    rng = np.random.default_rng(0)
    levels = rng.normal(size=(200, 3)) + [0.5, 0, -0.5]
    levels[rng.random((200, 3)) < [0, 0.1, 0.1]] = ABSENT
    videos = rng.integers(40, size=200)
    metrics = saliency_order(levels, clusters=videos, confidence=0.9)
    counts = ~np.isnan(levels[:, 1])
    expected = share_interval(levels[counts, 0] > levels[counts, 1], videos[counts], 0.9)
    assert (metrics["positive>level1_low"], metrics["positive>level1_high"]) == pytest.approx(
        [100 * bound for bound in expected]
    )
    for name in ("positive>level1", "level1>irrelevant", "chain"):
        assert metrics[f"{name}_low"] < metrics[name] < metrics[f"{name}_high"]


def test_order_that_always_holds_still_has_an_interval():
    metrics = saliency_order(np.tile([2.0, 1.0], (8, 1)), confidence=0.95)
    assert metrics["chain"] == metrics["chain_high"] == 100
    assert 50 < metrics["chain_low"] < 70


def test_hierarchy_uses_only_clips_inside_the_moment():
    saliency = np.array([[9.0, 1, 1, np.nan]])
    negatives = np.array([[[0, 0.5, 0.5, np.nan], [0, 2, 2, np.nan]]])
    inside = np.array([[False, True, True, False]])
    assert saliency_hierarchy(saliency, negatives, inside, confidence=None) == {
        "positive>level1": 100,
        "level1>irrelevant": 0,
        "chain": 0,
    }
    assert saliency_hierarchy(saliency, negatives, ~inside & [True, True, True, False], confidence=None)["chain"] == 0


def test_hierarchy_compares_mean_saliency():
    rng = np.random.default_rng(3)
    saliency, negatives, inside = rng.normal(size=(50, 9)), rng.normal(size=(50, 4, 9)), rng.random((50, 9)) < 0.5
    inside[:, 0] = True
    present = rng.random((50, 4)) < 0.8
    negatives[~present] = np.inf  # scores of an absent negative are ignored
    levels = np.full((50, 5), ABSENT)
    for row in range(50):
        levels[row, 0] = saliency[row, inside[row]].mean()
        for level in np.flatnonzero(present[row]):
            levels[row, level + 1] = negatives[row, level, inside[row]].mean()
    metrics = saliency_hierarchy(saliency, negatives, inside, negative_mask=present)
    assert metrics == saliency_order(levels, confidence=0.95)
    assert {"chain", "chain_low", "chain_high", *LINKS} <= set(metrics)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3,), (3, 2, 4), (3, 4)), "expected saliency"),
        (((3, 4), (3, 4), (3, 4)), "expected saliency"),
        (((3, 4), (3, 2, 4), (3, 5)), "expected saliency"),
        (((3, 4), (3, 2, 5), (3, 4)), "do not match"),
        (((3, 4), (2, 2, 4), (3, 4)), "do not match"),
    ],
)
def test_invalid_shapes_are_rejected(shapes, message):
    with pytest.raises(ValueError, match=message):
        saliency_hierarchy(*map(np.ones, shapes))


def test_invalid_values_are_rejected():
    saliency, negatives, inside = np.zeros((3, 4)), np.zeros((3, 2, 4)), np.ones((3, 4), dtype=bool)
    with pytest.raises(ValueError, match=r"expected negative_mask \(3, 2\)"):
        saliency_hierarchy(saliency, negatives, inside, negative_mask=np.ones((3, 3)))
    with pytest.raises(ValueError, match="confidence"):
        saliency_hierarchy(saliency, negatives, inside, confidence=95)
    with pytest.raises(ValueError, match="expected levels"):
        saliency_order(np.zeros(5))
    with pytest.raises(ValueError, match="2 clusters for 3 queries"):
        saliency_order(np.zeros((3, 2)), clusters=["a", "b"])
    inside[1] = False
    with pytest.raises(ValueError, match="row 1: no clip inside"):
        saliency_hierarchy(saliency, negatives, inside)
    inside[1], negatives[2, 1, 3] = True, np.nan
    with pytest.raises(ValueError, match=r"row 2: .* not a finite number"):
        saliency_hierarchy(saliency, negatives, inside)
