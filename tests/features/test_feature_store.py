import pickle

import h5py
import numpy as np
import pytest
from torch.utils.data import DataLoader

from shine_hf.features.base import FeatureStore


def features(length=5, dim=4, seed=0):
    return np.random.default_rng(seed).standard_normal((length, dim)).astype(np.float32)


@pytest.fixture(params=["i3d", "npz", "hdf5"])
def kind(request):
    return request.param


def write(root, kind, arrays):
    """Write `{key: array}` in one of the formats and return its spec."""
    if kind == "hdf5":
        path = root / "features.hdf5"
        with h5py.File(path, "w") as file:
            for key, array in arrays.items():
                file[key] = array
        return f"hdf5:{path}"
    folder = root / kind
    folder.mkdir(exist_ok=True)
    for key, array in arrays.items():
        if kind == "i3d":
            np.save(folder / f"{key}.npy", array)
        else:
            np.savez(folder / f"{key}.npz", features=array)
    return f"{kind}:{folder}"


def test_every_format_returns_the_same_features(tmp_path, kind):
    arrays = {
        "AB12": features(5),
        "v_-x.y": features(7, seed=1).astype(np.float64),
        "half": features(2).astype("float16"),
    }
    store = FeatureStore.from_spec(write(tmp_path, kind, arrays))
    assert store.dim == 4 and store.dims == [4] and len(store) == 3 and set(store) == set(arrays) == set(store.keys())
    for key, array in arrays.items():
        assert key in store and store[key].dtype == np.float32
        np.testing.assert_array_equal(store[key], array.astype(np.float32))
    assert "missing" not in store


def test_missing_features_error_names_the_public_source(tmp_path, kind):
    store = FeatureStore.from_spec(write(tmp_path, kind, {"here": features()}))
    with pytest.raises(KeyError, match="no features of 'gone'") as error:
        store["gone"]
    assert str(tmp_path) in str(error.value) and "github.com/26hzhang/VSLNet" in str(error.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (np.zeros((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.array([[b"words"] * 4]), r"type .*S5"),
        (np.array([[0.0, 1, 2, 3], [np.nan, 1, 2, 3]]), "NaN or infinite numbers in row 1"),
        (np.array([[np.inf, 1, 2, 3], [0, 1, 2, 3]]), "NaN or infinite numbers in row 0"),
        (features(dim=6), "6 channels, the others have 4"),
    ],
)
def test_invalid_features_are_rejected_with_their_key(tmp_path, kind, array, message):
    store = FeatureStore.from_spec(write(tmp_path, kind, {"a_good": features(), "bad": array}))
    assert len(store["a_good"]) == 5
    with pytest.raises(ValueError, match=message) as error:
        store["bad"]
    assert "'bad'" in str(error.value) and str(tmp_path) in str(error.value)


def test_batch_axis_is_squeezed_and_pooled_vectors_get_an_axis(tmp_path, kind):
    store = FeatureStore.from_spec(write(tmp_path, kind, {"batch": features()[None], "pooled": features()[0]}))
    assert store["batch"].shape == (5, 4) and store["pooled"].shape == (1, 4)


@pytest.mark.parametrize("key", ["../outside", "/etc/outside", "inner/../../outside", "inner/outside", "a\0b", ""])
def test_keys_cannot_escape_the_folder(tmp_path, kind, key):
    np.save(tmp_path / "outside.npy", features())
    np.savez(tmp_path / "outside.npz", features=features())
    store = FeatureStore.from_spec(write(tmp_path, kind, {"inside": features()}))
    with pytest.raises((ValueError, KeyError), match=r"plain file name|no features of|null"):
        store[key]


@pytest.mark.parametrize("kind", ["i3d", "npz"])
def test_links_cannot_escape_the_folder(tmp_path, kind):
    suffix = {"i3d": "npy", "npz": "npz"}[kind]
    outside = tmp_path / "outside"
    outside.mkdir()
    write(outside, kind, {"secret": features()})
    spec = write(tmp_path, kind, {"inside": features()})
    folder = tmp_path / kind
    (folder / f"link.{suffix}").symlink_to(outside / kind / f"secret.{suffix}")
    (folder / f"alias.{suffix}").symlink_to(folder / f"inside.{suffix}")
    store = FeatureStore.from_spec(spec)
    with pytest.raises(ValueError, match="'link' is not a plain file name"):
        store["link"]
    # Links within the folder and links to the folder itself are allowed.
    np.testing.assert_array_equal(store["alias"], store["inside"])
    (tmp_path / "elsewhere").symlink_to(folder)
    assert "inside" in FeatureStore.from_spec(f"{kind}:{tmp_path / 'elsewhere'}")


@pytest.mark.parametrize("kind", ["i3d", "npz"])
def test_pickles_are_never_loaded(tmp_path, kind):
    store = FeatureStore.from_spec(write(tmp_path, kind, {"objects": np.array([{"a": 1}], dtype=object)}))
    with pytest.raises(ValueError, match=r"objects\.np. cannot be read.*Python objects, which are never loaded"):
        store["objects"]


def test_broken_files_are_rejected_with_their_name(tmp_path):
    for kind, name in (("i3d", "cut.npy"), ("npz", "cut.npz")):
        spec = write(tmp_path, kind, {})
        (tmp_path / kind / name).write_bytes(b"PK\x03\x04 cut off")
        with pytest.raises(ValueError, match=r"cut\.np. cannot be read"):
            FeatureStore.from_spec(spec)["cut"]
    (tmp_path / "cut.hdf5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cut.hdf5 cannot be read"):
        FeatureStore.from_spec(f"hdf5:{tmp_path / 'cut.hdf5'}")["cut"]


def test_arrays_are_found_inside_npz_and_hdf5_groups(tmp_path):
    tokens, pooled = features(6), features(1)[0]
    np.savez(tmp_path / "q1.npz", pooler_output=pooled, last_hidden_state=tokens)
    np.savez(tmp_path / "q2.npz", pooler_output=pooled)
    np.savez(tmp_path / "q3.npz", embeddings=tokens, frames=tokens)
    np.savez(tmp_path / "q4.npz", embeddings=tokens)
    store = FeatureStore.from_spec(f"npz:{tmp_path}")
    assert store["q1"].shape == (6, 4) and store["q2"].shape == (1, 4)
    with pytest.raises(
        ValueError, match=r"q3.npz.*it contains embeddings, frames, but none of features, last_hidden_state"
    ):
        store["q3"]
    assert store["q4"].shape == (6, 4)
    with h5py.File(tmp_path / "c3d.hdf5", "w") as file:
        file["v_1/c3d_features"] = tokens
        file["v_2/other"], file["v_2/another"] = tokens, tokens
        file["v_3/other"] = tokens
    store = FeatureStore.from_spec(f"hdf5:{tmp_path / 'c3d.hdf5'}")
    assert store["v_1"].shape == store["v_3"].shape == (6, 4)
    with pytest.raises(ValueError, match="the group 'v_2' contains another, other"):
        store["v_2"]
    assert "v_1/c3d_features" not in store and "." not in store


def test_missing_paths_and_unknown_kinds_are_rejected(tmp_path):
    for spec in (f"i3d:{tmp_path}/gone", f"npz:{tmp_path}/gone", f"hdf5:{tmp_path}/gone.hdf5"):
        with pytest.raises(FileNotFoundError, match="gone"):
            FeatureStore.from_spec(spec)
    with pytest.raises(ValueError, match=r"unknown feature store 'i2d:x'.*i3d"):
        FeatureStore.from_spec("i2d:x")
    with pytest.raises(ValueError, match="pass the rows of all splits"):
        FeatureStore.from_spec("simulated:")
    with pytest.raises(FileNotFoundError, match="contains no features"):
        FeatureStore.from_spec(f"i3d:{tmp_path}").dim  # noqa: B018


def test_joined_stores_are_cut_to_the_shortest(tmp_path):
    folder = tmp_path / "a+b"  # A plus sign in a path is not a separator.
    folder.mkdir()
    first, second = {"x": features(5), "y": features(4)}, {"x": features(6, dim=3, seed=1)}
    spec = f"{write(folder, 'i3d', first)}+{write(folder, 'hdf5', second)}"
    store = FeatureStore.from_spec(spec)
    assert store.dim == 7 and store.dims == [4, 3] and list(store) == ["x"] and "y" not in store
    np.testing.assert_array_equal(store["x"], np.concatenate([first["x"], second["x"][:5]], axis=1))
    same = FeatureStore.from_specs(spec.split("+h")[0:1] + [f"h{spec.split('+h')[1]}"])
    np.testing.assert_array_equal(same["x"], store["x"])
    with pytest.raises(KeyError, match=r"no features of .y. in .*hdf5"):
        store["y"]


def test_stores_work_in_worker_processes_and_can_be_pickled(tmp_path, kind):
    arrays = {f"v{index}": features(3, seed=index) for index in range(6)}
    store = FeatureStore.from_spec(write(tmp_path, kind, arrays))
    assert store.dim == 4  # Open the file in this process first.
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store))["v3"], arrays["v3"])

    class Items:
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return store[f"v{index}"]

    loaded = list(DataLoader(Items(), batch_size=None, num_workers=2))
    for index, array in enumerate(loaded):
        np.testing.assert_array_equal(array, arrays[f"v{index}"])


def test_folder_records_the_encoder_that_wrote_it(tmp_path):
    np.savez(tmp_path / "v.npz", features=np.ones((2, 3), np.float32))
    assert FeatureStore.from_spec(f"npz:{tmp_path}").encoder is None
    (tmp_path / "features.json").write_text('{"encoder": "pixels:size=8,frames=2", "clip_length": 1.0}')
    store = FeatureStore.from_spec(f"npz:{tmp_path}")
    assert store.encoder == "pixels:size=8,frames=2" and store.clip_length == 1.0 and list(store) == ["v"]
    (tmp_path / "features.json").write_text("{}")
    with pytest.raises(ValueError, match=r"features\.json must contain encoder"):
        FeatureStore.from_spec(f"npz:{tmp_path}")
