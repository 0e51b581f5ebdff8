import json
import pickle

import numpy as np
import pytest
from datasets import load_dataset

from shine_hf.features.base import FeatureStore
from shine_hf.features.packed import PackedFeatures, pack_features


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {f"v{index}": rng.standard_normal((index + 2, 6)).astype(np.float32) for index in range(7)}


@pytest.fixture
def source(tmp_path, arrays):
    folder = tmp_path / "npy"
    folder.mkdir()
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array)
    return FeatureStore.from_spec(f"i3d:{folder}")


@pytest.fixture
def packed(tmp_path, source):
    pack_features(source, tmp_path / "packed", progress=False)
    return tmp_path / "packed"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_packed_features_equal_their_source(packed, arrays):
    store = FeatureStore.from_spec(f"packed:{packed}")
    assert store.dim == 6 and len(store) == 7 and list(store) == sorted(arrays) and "v3" in store and "x" not in store
    for key, array in arrays.items():
        np.testing.assert_array_equal(store[key], array)
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again["v5"], arrays["v5"])
    store.verify(progress=False)


def test_shards_are_byte_for_byte_reproducible(tmp_path, source, arrays, monkeypatch):
    monkeypatch.setattr("shine_hf.features.packed.MEGABYTE", 200)  # A shard holds 8 rows of 24 bytes.
    for name in ("one", "two"):
        summary = pack_features(source, tmp_path / name, shard_megabytes=1, progress=False)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    files = sorted(path.name for path in (tmp_path / "one").glob("*.arrow"))
    assert len(files) > 3 and summary.keys == 7 and summary.rows == sum(map(len, arrays.values()))
    store = PackedFeatures(tmp_path / "one")
    for key, array in arrays.items():
        np.testing.assert_array_equal(store[key], array)


def test_half_precision_halves_the_size_and_rejects_overflow(tmp_path, source, arrays):
    full, half = (
        pack_features(source, tmp_path / str(half), half_precision=half, progress=False) for half in (False, True)
    )
    assert half.bytes <= full.bytes - 400  # 35 rows of 6 numbers, each two bytes smaller.
    features = PackedFeatures(tmp_path / "True")["v6"]
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, arrays["v6"], rtol=1e-3, atol=1e-4)
    np.save(source.place / "huge.npy", np.full((2, 6), 1e6))
    with pytest.raises(ValueError, match=r"'huge' reach 1e\+06, which is too large for float16"):
        pack_features(source, tmp_path / "new", half_precision=True, progress=False)
    # No partial output is left, and a retry starts from scratch.
    assert not (tmp_path / "new").exists()
    (source.place / "huge.npy").unlink()
    pack_features(source, tmp_path / "new", half_precision=True, progress=False)
    assert content(tmp_path / "new") == content(tmp_path / "True")


def test_widths_of_joined_types_are_kept(tmp_path, source):
    both = FeatureStore.from_specs([source.spec, source.spec])
    pack_features(both, tmp_path / "both", progress=False)
    assert PackedFeatures(tmp_path / "both").dims == [6, 6]


def test_encoder_and_clip_length_are_kept(tmp_path, arrays):
    folder = tmp_path / "npz"
    folder.mkdir()
    np.savez(folder / "v.npz", features=arrays["v0"])
    (folder / "features.json").write_text('{"encoder": "pixels:size=8", "clip_length": 1.0}')
    pack_features(FeatureStore.from_spec(f"npz:{folder}"), tmp_path / "packed", progress=False)
    store = PackedFeatures(tmp_path / "packed")
    assert store.encoder == "pixels:size=8" and store.clip_length == 1.0


def test_all_missing_videos_are_listed(tmp_path, source):
    wanted = ["v1", "gone", "v2", "lost"]
    with pytest.raises(KeyError, match="no features of 2 of 4 keys: gone, lost"):
        pack_features(source, tmp_path / "packed", keys=wanted, progress=False)
    summary = pack_features(source, tmp_path / "packed", keys=wanted, allow_missing=True, progress=False)
    assert summary.missing == ["gone", "lost"] and list(PackedFeatures(tmp_path / "packed")) == ["v1", "v2"]
    with pytest.raises(KeyError, match=r"no features of 'gone' in packed:.*had none when the store was packed"):
        PackedFeatures(tmp_path / "packed")["gone"]
    with pytest.raises(KeyError, match="1 of 1 keys: gone"):
        pack_features(source, tmp_path / "none", keys=["gone"], allow_missing=True, progress=False)


def test_invalid_features_are_rejected_while_packing(tmp_path, source):
    np.save(source.place / "bad.npy", np.full((2, 6), np.nan))
    with pytest.raises(ValueError, match="'bad' contain NaN"):
        pack_features(source, tmp_path / "packed", progress=False)


def test_existing_folder_is_not_overwritten(packed, source):
    before = content(packed)
    with pytest.raises(FileExistsError, match="exists"):
        pack_features(source, packed, progress=False)
    assert content(packed) == before


def test_corrupt_shards_are_detected(packed):
    shard = packed / "features-00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"features-00000.arrow: its SHA-256 is .* the index says"):
        PackedFeatures(packed).verify(progress=False)
    shard.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"features-00000.arrow cannot be read"):
        PackedFeatures(packed)["v1"]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"features-00000.arrow is missing"):
        PackedFeatures(packed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "its format is 'other'"),
        ({"dims": [5]}, "dims do not add up"),
        ({"shards": [{"file": "../secret.arrow"}]}, "not a plain file name"),
        ({"dim": 3, "dims": [3]}, r"features of width 6, but the index says 3"),
    ],
)
def test_inconsistent_index_is_rejected(packed, change, message):
    index = json.loads((packed / "index.json").read_text())
    (packed / "index.json").write_text(json.dumps(index | change))
    with pytest.raises(ValueError, match=message):
        PackedFeatures(packed)["v1"]


def test_folder_without_an_index_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="was not written by `shine-hf features pack`"):
        PackedFeatures(tmp_path)


def test_missing_folder_or_repository_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of packed features"):
        PackedFeatures(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="neither a local path nor a readable dataset repository"):
        FeatureStore.from_spec("packed:someone/features")  # Tests run without a network.


def test_datasets_library_reads_the_shards(packed, arrays, tmp_path):
    rows = load_dataset("arrow", data_files=str(packed / "*.arrow"), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["key"] == sorted(arrays)
    np.testing.assert_array_equal(np.array(rows[3]["features"], np.float32), arrays["v3"])
