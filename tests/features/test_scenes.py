import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from shine_hf.features.base import FeatureStore, is_simulated
from shine_hf.features.scenes import SimulatedScenes
from shine_hf.features.simulated import content_words

from ..data.made_up import make_row

VERBS, OBJECTS = ("opens", "closes", "takes", "holds", "throws", "washes"), ("door", "book", "towel", "cup", "laptop")


def make_rows():
    """Return one video for each pair of a verb and an object; its moment is from 4 to 8 s of 20 s."""
    pairs = [(verb, noun) for verb in VERBS for noun in OBJECTS]
    return [
        make_row(index, vid=f"{verb}_{noun}", query=f"person {verb} the {noun}.", duration=20.0, relevant_windows=[[4.0, 8.0]])
        for index, (verb, noun) in enumerate(pairs)
    ]  # fmt: skip


def store(options="", rows=None, clip_length=1.0) -> SimulatedScenes:
    return FeatureStore.from_spec(f"scenes:{options}", make_rows() if rows is None else rows, clip_length)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def write_vectors(path, dim=50):
    """Write word vectors in which "door" is similar to "book", on top of a direction that all words share."""
    rng = np.random.default_rng(0)
    vectors = {word: rng.standard_normal(dim) for word in (*VERBS, *OBJECTS)}
    vectors["book"] = vectors["door"] + 0.4 * rng.standard_normal(dim)
    path.write_text("".join(f"{w} {' '.join(f'{x:.4f}' for x in v + 5)}\n" for w, v in vectors.items()))
    return path


def test_features_are_float32_with_one_row_per_clip():
    features = store("dim=32")["opens_door"]
    assert features.shape == (20, 32) and features.dtype == np.float32
    assert store().dim == 64 and len(store(clip_length=0.5)["opens_door"]) == 40
    assert len(store()) == 30 and "opens_door" in store() and "other" not in store()


def test_object_is_visible_in_every_clip_and_the_action_only_in_the_moment():
    scenes = store("noise=0,distractors=0,dim=256,object=2")
    features = scenes["opens_door"]
    outside = np.concatenate([features[:4], features[8:]])
    np.testing.assert_allclose(outside, np.tile(2 * scenes.look("door"), (16, 1)), rtol=1e-5)
    np.testing.assert_allclose(
        features[4:8] - outside[:4],
        np.tile(scenes.look("opens") + 2 * scenes.binding("door", "opens"), (4, 1)),
        rtol=1e-4,
        atol=1e-4,
    )


def test_objects_of_all_events_of_a_video_persist():
    scenes = store("noise=0,word=0,pair=0,dim=256")
    _, (_, _, distractor) = scenes.events("opens_door")
    nouns = {"door", *(set(content_words(distractor)) & set(OBJECTS))}
    expected = sum(map(scenes.look, sorted(nouns))) / len(nouns) ** 0.5
    np.testing.assert_allclose(scenes["opens_door"], np.tile(expected, (20, 1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
def test_distractors_share_a_word_with_the_query_but_lack_another_and_lie_outside_its_moment(count):
    scenes = store(f"distractors={count}")
    for row in make_rows():
        annotated, *distractors = scenes.events(row["vid"])
        assert annotated == (4.0, 8.0, row["query"]) and len(distractors) == count
        for start, end, query in distractors:
            assert 0 <= start < end <= 20 and (end <= 4 or start >= 8)
            assert end - start == pytest.approx(4.0)
            assert len(set(content_words(query)) & set(content_words(row["query"]))) == 1


def test_distractors_contain_no_query_of_their_video():
    rows = [*make_rows(), make_row(99, vid="opens_door", query="person closes the door.", duration=20.0, relevant_windows=[[0.0, 2.0]])]  # fmt: skip
    for seed in range(20):
        scenes = store(f"seed={seed}", rows)
        assert len(scenes.events("opens_door")) == 4
        others = [query for _, _, query in scenes.events("opens_door")[2:]]
        assert not {"person opens the door.", "person closes the door."} & set(others)


def test_distractors_are_found_only_where_there_is_room_and_something_similar():
    long = make_row(0, vid="long", query="person opens the door.", duration=20.0, relevant_windows=[[1.0, 19.0]])
    alone = make_row(1, vid="alone", query="dog barks.", duration=20.0, relevant_windows=[[1.0, 3.0]])
    several = make_row(2, vid="s", query="person opens the cup.", duration=20.0, relevant_windows=[[0, 6], [9, 14]])
    scenes = store(rows=[*make_rows(), long, alone, several])
    assert [len(scenes.events(vid)) for vid in ("long", "alone", "s")] == [1, 1, 3]
    for seed in range(20):
        start, end, _ = store(f"seed={seed}", [*make_rows(), several]).events("s")[-1]
        assert end - start >= 3 and (6 <= start < end <= 9 or start >= 14)


def test_words_that_mean_the_same_look_alike(tmp_path):
    scenes = store(f"vectors={write_vectors(tmp_path / 'vectors.txt')},dim=512")
    assert cosine(scenes.look("door"), scenes.look("book")) > 0.8
    assert abs(cosine(scenes.look("door"), scenes.look("laptop"))) < 0.5
    assert cosine(scenes.binding("opens", "door"), scenes.binding("opens", "book")) > 0.8
    assert abs(cosine(scenes.binding("opens", "door"), scenes.binding("takes", "laptop"))) < 0.4


def test_without_a_file_inflections_look_alike():
    rows = [make_row(i, vid=f"v{i}", query=f"person {verb}.") for i, verb in enumerate(("opens", "opened", "takes"))]
    scenes = store("dim=512", rows)
    assert cosine(scenes.look("opens"), scenes.look("opened")) > 0.4
    assert abs(cosine(scenes.look("opens"), scenes.look("takes"))) < 0.25


def test_binding_of_an_unseen_pair_follows_from_its_words(tmp_path):
    """With vectors of 3 numbers each word is a combination of 3 others, and a bilinear map follows from those 3 x 3 pairs."""
    unseen = "washes", "laptop"
    rows = [row for row in make_rows() if row["vid"] != "washes_laptop"]
    scenes = store(f"vectors={write_vectors(tmp_path / 'vectors.txt', dim=3)}", rows)
    verbs, objects = VERBS[:3], OBJECTS[:3]
    of_verb, of_object = (
        np.linalg.solve(np.stack([scenes.word_vector(word) for word in known]).T, scenes.word_vector(new))
        for known, new in zip((verbs, objects), unseen)
    )
    seen = np.stack([[scenes.binding(verb, noun) for noun in objects] for verb in verbs])
    np.testing.assert_allclose(scenes.binding(*unseen), np.einsum("a,b,abd->d", of_verb, of_object, seen), rtol=1e-6)
    np.testing.assert_array_equal(scenes.binding(*unseen), scenes.binding(*unseen[::-1]))


def test_word_that_the_file_lacks_looks_like_nothing_else(tmp_path):
    rows = [*make_rows(), make_row(99, vid="v", query="person waters the orchid.")]
    scenes = store(f"vectors={write_vectors(tmp_path / 'vectors.txt')},dim=512", rows)
    assert np.linalg.norm(scenes.word_vector("orchid")) == pytest.approx(1)
    assert max(abs(cosine(scenes.look("orchid"), scenes.look(word))) for word in (*OBJECTS, "waters")) < 0.6
    assert np.isfinite(scenes["v"]).all()


def test_features_depend_on_annotations_and_seed_but_not_on_order_or_duplicates():
    rows = make_rows()
    scenes, again = store(rows=rows), store(rows=[*rows[::-1], rows[0]][1:] + [rows[-1]])
    for vid in ("opens_door", "washes_laptop"):
        np.testing.assert_array_equal(scenes[vid], again[vid])
        np.testing.assert_array_equal(scenes[vid], scenes[vid])
        assert not np.array_equal(scenes[vid], store("seed=1", rows)[vid])


def test_features_are_the_same_in_another_process():
    code = (
        "import hashlib; from tests.features.test_scenes import store; "
        "print(hashlib.sha256(store()['opens_door'].tobytes()).hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)}  # fmt: skip
    assert runs == {hashlib.sha256(store()["opens_door"].tobytes()).hexdigest() + "\n"}


def test_spec_rebuilds_the_store_and_the_public_one_hides_the_path(tmp_path):
    made = store(f"vectors={write_vectors(tmp_path / 'vectors.txt')},dim=8,noise=1.5,seed=4,distractors=2")
    np.testing.assert_array_equal(made["opens_door"], store(made.spec.removeprefix("scenes:"))["opens_door"])
    assert str(tmp_path) in made.spec and "=vectors.txt,dim=8" in made.public_spec and str(tmp_path) not in made.public_spec  # fmt: skip
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(made))["opens_door"], made["opens_door"])


@pytest.mark.parametrize(
    "options, message",
    [
        ("loud=3", "has no option 'loud=3'"),
        ("dim=many", "option dim: 'many'"),
        ("dim=0", "dim must be positive, got 0"),
        ("noise=-1", "noise must not be negative, got -1"),
        ("object=nan", "object must not be negative, got nan"),
        ("pair=inf", "pair must not be negative"),
        ("distractors=-1", "distractors must not be negative"),
        ("distractors=1.5", "option distractors: '1.5'"),
        ("seed=-1", "seed must not be negative"),
        ("vocabulary=words.txt", "vocabulary needs vectors=FILE"),
        ("vectors=", "vectors is empty"),
    ],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=f"scenes: .*{message}"):
        store(options)


def test_missing_rows_files_and_videos_are_named(tmp_path):
    with pytest.raises(ValueError, match="scenes: features are computed from annotations"):
        FeatureStore.from_spec("scenes:")
    with pytest.raises(FileNotFoundError, match=r"no file of word vectors .*missing\.txt"):
        store(f"vectors={tmp_path / 'missing.txt'}")
    with pytest.raises(KeyError, match="scenes: there is no annotation of 'other'"):
        store()["other"]


def test_both_worlds_count_as_simulated_also_as_a_part():
    assert (
        is_simulated(["scenes:"])
        and is_simulated(["npz:DIR", "simulated:dim=8"])
        and is_simulated(["npz:DIR+scenes:"])
    )
    assert not is_simulated(["npz:scenes"]) and not is_simulated(["simulated_videos"]) and not is_simulated([])


@pytest.mark.parametrize("query", ["they are there.", "person laughs.", "in and out.", "..."])
def test_queries_with_few_words_have_features(query):
    rows = [
        *make_rows(),
        make_row(99, vid="v", query=query, duration=10.0, relevant_windows=[[5, 3], [2, 2], [1, 99]]),
    ]
    assert np.isfinite(store("noise=0", rows)["v"]).all() and store("noise=0", rows)["v"].any()


def test_empty_query_and_odd_windows_do_not_fail():
    row = make_row(99, vid="v", duration=10.0, relevant_windows=[[5.0, 3.0], [2.0, 2.0]])
    assert len(store(rows=[row])["v"]) == 10
    assert len(store(rows=[])) == 0
