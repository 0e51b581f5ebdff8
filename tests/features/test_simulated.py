import numpy as np
import pytest

from shine_hf.features.base import FeatureStore

from ..data.made_up import make_row


def store(options="", rows=None, clip_length=0.5):
    return FeatureStore.from_spec(f"simulated:{options}", rows or [make_row(0)], clip_length)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_default_features_have_i3d_width_and_cover_the_entire_video():
    rows = [
        make_row(0, vid="long", duration=10.2),
        make_row(1, vid="even", duration=10.0),
        make_row(2, vid="short", duration=0.1),
    ]
    features = store(rows=rows)
    assert features.dim == 1024 and features["long"].dtype == np.float32
    # A partly covered clip counts; 10.0 s is exactly 20 clips.
    assert [len(features[vid]) for vid in ("long", "even", "short")] == [21, 20, 1]
    assert list(features) == ["long", "even", "short"] and len(features) == 3 and "other" not in features
    assert len(store(rows=rows, clip_length=1.0)["long"]) == 11


def test_event_changes_only_its_clips():
    row = make_row(0, query="person opens the door.", duration=10.0, relevant_windows=[[2.0, 4.25]])
    features = store("noise=0,dim=256", [row])[row["vid"]]
    strength = np.linalg.norm(features, axis=1)
    assert (strength[:4] == 0).all() and (strength[9:] == 0).all()
    np.testing.assert_allclose(strength[4:8], strength[4], rtol=1e-5)
    assert strength[8] == pytest.approx(strength[4] / 2, rel=1e-4)  # Half covered.
    # The word (1) and the pair (1) have nearly orthogonal directions.
    assert strength[4] == pytest.approx((2 * 256) ** 0.5, rel=0.35)


def test_strength_options_scale_words_pairs_and_noise():
    row = make_row(0)
    rows = [row]
    silent = store("word=0,pair=0,noise=2,dim=512", rows)[row["vid"]]
    assert silent.std() == pytest.approx(2, rel=0.02) and abs(silent.mean()) < 0.1
    only_words, only_pair = (
        store(f"{options},noise=0,dim=64", rows)[row["vid"]][3] for options in ("pair=0", "word=0")
    )
    both = store("noise=0,dim=64", rows)[row["vid"]][3]
    np.testing.assert_allclose(only_words + only_pair, both, atol=1e-5)
    np.testing.assert_allclose(store("word=2,pair=0,noise=0,dim=64", rows)[row["vid"]][3], 2 * only_words, rtol=1e-5)


def test_inflections_share_a_word_direction_but_each_pair_is_distinct():
    queries = ["person opens the door.", "person opened the door.", "person cooks some soup."]
    rows = [make_row(i, vid=f"v{i}", query=q, relevant_windows=[[0.0, 5.0]]) for i, q in enumerate(queries)]
    words, pairs = store("noise=0,pair=0", rows), store("noise=0,word=0", rows)
    assert cosine(words["v0"][2], words["v1"][2]) > 0.6
    assert abs(cosine(words["v0"][2], words["v2"][2])) < 0.3
    assert abs(cosine(pairs["v0"][2], pairs["v1"][2])) < 0.2


def test_events_overlap_by_their_common_pairs():
    queries = ["person opens the wooden door.", "person opens the door slowly.", "wooden cupboard opens slowly."]
    rows = [make_row(i, vid=f"v{i}", query=q, relevant_windows=[[0.0, 5.0]]) for i, q in enumerate(queries)]
    pairs = store("noise=0,word=0", rows)
    # Each has three pairs: "door opens" is in the first two; the last shares two words with both, and one pair with each.
    first, second, third = (pairs[f"v{i}"][2] for i in range(3))
    assert cosine(first, second) == pytest.approx(1 / 3, abs=0.12)
    alone = store("noise=0,word=0", [make_row(0, vid="v", query="they laugh.", relevant_windows=[[0.0, 5.0]])])["v"][2]
    assert np.linalg.norm(alone) == pytest.approx(np.linalg.norm(third), rel=0.15)


def test_video_depends_only_on_its_own_annotations_and_the_seed():
    rows = [make_row(index) for index in range(6)]
    forwards, backwards = store(rows=rows), store(rows=rows[::-1])
    for vid in ("video0", "video2"):
        np.testing.assert_array_equal(forwards[vid], backwards[vid])
        np.testing.assert_array_equal(forwards[vid], store(rows=[row for row in rows if row["vid"] == vid])[vid])
    assert not np.array_equal(store("seed=1", rows)["video0"], forwards["video0"])
    # Both queries of the video matter.
    one = store("noise=0", rows[:1])["video0"]
    assert not np.array_equal(one, store("noise=0", rows[:2])["video0"][: len(one)])


def test_odd_windows_and_empty_queries_are_ignored():
    rows = [
        make_row(0, vid="v", relevant_windows=[[5.0, 3.0], [2.0, 2.0], [90.0, 99.0]]),
        make_row(1, vid="w", query="they are there.", relevant_windows=[[0.0, 99.0]]),
    ]
    features = store("noise=0", rows)
    assert not features["v"].any() and features["w"].any() and np.isfinite(features["w"]).all()


@pytest.mark.parametrize("options", ["loud=3", "dim=many", "dim=0", "noise=-1", "noise"])
def test_invalid_options_are_rejected(options):
    with pytest.raises(ValueError, match="simulated:"):
        store(options)


def test_video_without_annotation_is_an_error():
    with pytest.raises(KeyError, match="there is no annotation of 'other'"):
        store()["other"]


def test_spec_rebuilds_the_store():
    made = store("dim=32,noise=1.5,seed=4")
    again = FeatureStore.from_spec(made.spec, [make_row(0)], 0.5)
    np.testing.assert_array_equal(made["video0"], again["video0"])
