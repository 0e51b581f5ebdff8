import json
import logging

import numpy as np
import pytest

from shine_hf.data.arguments import DataArguments
from shine_hf.data.stores import video_store
from shine_hf.features.base import FeatureStore
from shine_hf.features.grid import TimeGrid, compare_with_annotations, require_matching_grids
from shine_hf.features.packed import PackedFeatures, pack_features


def npz_folder(root, name, clips, dim=4, **settings):
    """Write a folder of `.npz` files with `clips` rows per video, and settings if given."""
    folder = root / name
    folder.mkdir()
    for vid, rows in clips.items():
        np.savez(folder / f"{vid}.npz", features=np.ones((rows, dim), np.float32))
    if settings:
        (folder / "features.json").write_text(json.dumps({"encoder": f"{name}:", **settings}))
    return str(folder)


def row(vid, windows, duration=150.0, qid=None):
    return {"qid": qid or f"{vid}_0", "vid": vid, "duration": duration, "relevant_windows": windows}


def test_resampling_keeps_times():
    graded = TimeGrid(2.0, 75)
    saliency = np.zeros(75)
    saliency[16:26] = 9  # Rows for 32 to 52 s.
    fine = graded.resample(saliency, TimeGrid(1.0, 150))
    assert np.flatnonzero(fine).tolist() == list(range(32, 52)) and set(fine) == {0, 9}
    np.testing.assert_array_equal(TimeGrid(1.0, 150).resample(fine, graded), saliency)
    # A clip across a boundary gets the mean of what it covers.
    np.testing.assert_allclose(TimeGrid(2.0, 2).resample([0, 6], TimeGrid(3.0, 2)), [2, 6])
    np.testing.assert_allclose(TimeGrid(2.0, 2).resample([1, 3], TimeGrid(0.5, 10)), [1] * 4 + [3] * 4 + [0] * 2)


@pytest.mark.parametrize("num_clips", [0, 1, 3, 5])
def test_resampling_to_the_same_clip_length_is_exact(num_clips):
    values = np.random.default_rng(0).standard_normal(3)
    kept = TimeGrid(0.1, 3).resample(values, TimeGrid(0.1, num_clips))
    np.testing.assert_array_equal(kept, [*values, 0, 0][:num_clips])


def test_invalid_grids_are_rejected():
    for arguments in ((0.0, 3), (-1.0, 3), (float("nan"), 3), (1.0, -1)):
        with pytest.raises(ValueError, match="a time grid cannot have"):
            TimeGrid(*arguments)
    with pytest.raises(ValueError, match="each of the 3 clips, got an array of shape"):
        TimeGrid(1.0, 3).resample([1, 2], TimeGrid(2.0, 2))


def test_grid_covers_the_entire_video():
    assert [TimeGrid.of_video(seconds, 0.5).num_clips for seconds in (10.2, 10.0, 0.1)] == [21, 20, 1]
    assert TimeGrid(2.0, 75).fits(150) and TimeGrid(2.0, 74).fits(151.3) and not TimeGrid(2.0, 75).fits(75)


def test_stores_on_different_grids_cannot_be_joined(tmp_path):
    a, b = npz_folder(tmp_path, "a", {"v": 75, "w": 76}), npz_folder(tmp_path, "b", {"v": 150, "w": 75})
    store = FeatureStore.from_specs([a, b])
    assert store["w"].shape == (75, 8) and store.num_rows("w") == 75
    for read in (store.num_rows, store.__getitem__):
        with pytest.raises(
            ValueError, match=r"'v' do not share one time grid: 75 in .*a/v.npz, 150 in .*b/v.npz rows"
        ):
            read("v")


@pytest.mark.parametrize("position", [0, 1])
def test_joined_stores_keep_the_recorded_clip_length(tmp_path, position):
    recorded = npz_folder(tmp_path, "recorded", {"v": 10}, clip_length=1.0)
    specs = [npz_folder(tmp_path, "unknown", {"v": 10})]
    specs.insert(position, recorded)
    store = FeatureStore.from_specs(specs)
    assert store.clip_length == 1.0 and store.encoder is None
    assert store.encoders[position] == "recorded:" and store.public_spec.split("+")[position] == "recorded:"
    assert str(tmp_path) not in store.public_spec
    with pytest.raises(ValueError, match=r"clips of 1\.0 s, but clip_length is 2"):
        video_store(DataArguments(video_features=specs), {}, 2.0)
    pack_features(store, tmp_path / "packed", progress=False)
    packed = PackedFeatures(tmp_path / "packed")
    assert packed.clip_length == 1.0 and packed.encoders == store.encoders


def test_stores_with_different_recorded_grids_are_rejected_at_once(tmp_path):
    specs = [npz_folder(tmp_path, name, {"v": 10}, clip_length=s) for name, s in (("one", 1.0), ("two", 2.0))]
    with pytest.raises(ValueError, match=r"different time grids: .*one has clips of 1 s, .*two has .* 2 s"):
        FeatureStore.from_specs(specs)


def test_joined_encoder_is_known_if_every_part_records_its_encoder(tmp_path):
    specs = [npz_folder(tmp_path, name, {"v": 10}, clip_length=1.0) for name in ("one", "two")]
    store = FeatureStore.from_specs(specs)
    assert store.encoder == "one:+two:" and store.clip_length == 1.0
    pack_features(store, tmp_path / "packed", progress=False)
    assert PackedFeatures(tmp_path / "packed").encoder == "one:+two:"


def test_clip_length_that_hides_part_of_each_video_is_rejected(tmp_path):
    """75 rows for 150 s, read as half-second clips, hide three quarters of each video."""
    store = FeatureStore.from_spec(npz_folder(tmp_path, "f", {f"v{i}": 75 for i in range(30)}))
    rows = [row(f"v{i}", [[5.0 * i, 5.0 * i + 4]]) for i in range(30)]
    report = compare_with_annotations(store, rows, 0.5)
    assert len(report.differing) == report.videos == 30 and report.differing[0] == ("v0", 75, 150.0)
    assert len(report.lost) == 22 and report.windows == 30 and report.lost[0] == ("v8_0", [40.0, 44.0])
    with pytest.raises(
        ValueError, match=r"train, .*f: the clips of 30 of 30 videos do not cover .*seem to be 2 s long"
    ):
        require_matching_grids(store, {"train": rows}, 0.5)
    require_matching_grids(store, {"train": rows}, 2.0)


def test_few_mismatches_warn_and_many_are_rejected(tmp_path, caplog):
    clips = {f"v{i}": 75 for i in range(40)} | {"v0": 40}
    store = FeatureStore.from_spec(npz_folder(tmp_path, "f", clips))
    rows = [row(f"v{i}", [[100.0, 140.0]]) for i in range(40)]
    with caplog.at_level(logging.WARNING):
        require_matching_grids(store, {"test": rows}, 2.0)
    assert (
        "1 of 40 videos do not cover" in caplog.text
        and "no clip covers 1 of 40 windows (qid v0_0: 100-140 s)" in caplog.text
    )
    # Videos that the model cuts lose their windows too.
    with pytest.raises(ValueError, match="no clip covers 40 of 40 windows"):
        require_matching_grids(store, {"test": rows}, 2.0, max_clips=40)
    with pytest.raises(ValueError, match=r"1 of 41 videos have no features \(gone\)"):
        require_matching_grids(store, {"test": [*rows, row("gone", [[1, 2]])]}, 2.0)


def test_windows_outside_their_video_are_not_blamed_on_the_features(tmp_path):
    store = FeatureStore.from_spec(npz_folder(tmp_path, "f", {"v": 75}))
    odd = [[160.0, 170.0], [5.0, 5.0], [9.0, 3.0], [-5.0, -1.0]]
    report = compare_with_annotations(store, [row("v", odd), row("v", [], qid="none")], 2.0)
    assert not report.problems() and report.windows == 0


@pytest.mark.parametrize("kind", ["npz", "npy", "pt", "hdf5", "packed", "tar"])
def test_lengths_are_read_without_the_features(tmp_path, kind, monkeypatch):
    import tarfile

    import h5py
    import torch

    array = np.ones((1, 7, 3), np.float16)
    folder = tmp_path / "features"
    folder.mkdir()
    spec = str(folder)
    if kind == "hdf5":
        with h5py.File(folder / "f.h5", "w") as file:
            file["v"] = array
    elif kind == "pt":
        torch.save({"features": torch.from_numpy(array)}, folder / "v.pt")
    elif kind == "npy":
        np.save(folder / "v.npy", array)
    else:
        np.savez(folder / "v.npz", features=array)
    if kind == "packed":
        pack_features(FeatureStore.from_spec(spec), tmp_path / "packed", progress=False)
        spec = str(tmp_path / "packed")
    elif kind == "tar":
        with tarfile.open(tmp_path / "f.tar", "w") as tar:
            tar.add(folder, "features")
        spec = str(tmp_path / "f.tar")
    store = FeatureStore.from_spec(spec)
    monkeypatch.setattr(type(store), "_read", None)
    mapped, load = [], torch.load
    monkeypatch.setattr(
        torch, "load", lambda *args, **options: mapped.append(options["mmap"]) or load(*args, **options)
    )
    assert store.num_rows("v") == 7 and store.dim == 3 and all(mapped)
