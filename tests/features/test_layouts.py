"""Public feature layouts: made-up files with the same names and shapes, read from a plain path."""

import os
import pickle
import shutil
import tarfile

import h5py
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

from shine_hf.features.base import FeatureStore
from shine_hf.features.inspection import inspect_store
from shine_hf.features.packed import pack_features
from shine_hf.features.text import TextFeatures

RNG = np.random.default_rng(0)


def numbers(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def write_npy(name, array):
    return lambda folder: np.save(folder / f"{name}.npy", array)


def write_npz(name, **arrays):
    return lambda folder: np.savez(folder / f"{name}.npz", **arrays)


def write_pt(name, content):
    return lambda folder: torch.save(content, folder / f"{name}.pt")


def write_hdf5(file, content):
    def write(folder):
        with h5py.File(folder / file, "w") as opened:
            for name, array in content.items():
                opened[name] = array

    return write


CLIP, SLOWFAST, I3D, C3D = numbers(75, 512), numbers(75, 2304), numbers(61, 1024), numbers(9, 500)
INTERN, STREAMS, LAYERS = numbers(75, 768), [numbers(20, 8), numbers(20, 8)], numbers(5, 4, 50, 32, dtype=np.float16)
TOKENS, WORDS_OF_LAYERS = numbers(12, 512), numbers(7, 4, 64, dtype=np.float16)

# Folder, its content, the key, the expected features, and what `inspect` reports.
VIDEO = {
    "moment_detr clip_features": ("clip_features", [write_npz("vid_60.0_210.0", features=CLIP)], "vid_60.0_210.0", CLIP, "npz"),
    "slowfast, float64": ("slowfast", [write_npz("v", features=SLOWFAST.astype(np.float64))], "v", SLOWFAST, "npz"),
    "InternVideo2, a tensor": ("internvideo2", [write_pt("v", torch.from_numpy(INTERN))], "v", INTERN, "pt"),
    "InternVideo2, a dictionary": ("iv2", [write_pt("v", {"features": torch.from_numpy(INTERN), "fps": 2.0})], "v", INTERN, "pt"),
    "bfloat16 tensor": ("bf16", [write_pt("v", torch.ones(3, 8).bfloat16())], "v", np.ones((3, 8)), "pt"),
    "NumPy array in a .pt": ("pt_array", [write_pt("v", {"features": INTERN})], "v", INTERN, "features of shape"),
    "sparse tensor": ("sparse", [write_pt("v", torch.eye(8).to_sparse())], "v", np.eye(8), "pt"),
    "8-bit floats": ("float8", [write_pt("v", torch.ones(3, 8).to(torch.float8_e5m2))], "v", np.ones((3, 8)), "pt"),
    "an unknown name next to numbers": (
        "unknown", [write_npz("v", resnet=I3D, fps=2.0, times=np.arange(61))], "v", I3D, "resnet of shape"
    ),
    "tensor with a gradient": ("gradient", [write_pt("v", torch.ones(3, 8, requires_grad=True))], "v", np.ones((3, 8)), "pt"),
    "TVSum in two streams": (
        "tvsum", [write_npy("v_rgb", STREAMS[0]), write_npy("v_opt", STREAMS[1])], "v", np.concatenate(STREAMS, axis=1), "npy"
    ),
    "two streams, the second named flow": (
        "flow", [write_npy("v_rgb", STREAMS[0]), write_npy("v_flow", STREAMS[1])], "v", np.concatenate(STREAMS, axis=1), "npy"
    ),
    "VSLNet I3D": ("i3d", [write_npy("AO8RW", I3D)], "AO8RW", I3D, "npy"),
    "R2-Tuning": ("clip_b32_vid_k4", [write_npy("v", LAYERS)], "v", LAYERS[:, -1, 0], "first token of the last of 4 layers"),
    "one video of R2-Tuning": ("clip_b32_vid_k4", [write_npy("v", LAYERS[:1])], "v", LAYERS[:1, -1, 0], "first token of the last"),
    "MS-2D-TAN": ("c3d", [write_hdf5("sub_activitynet_v1-3.c3d.hdf5", {"v_x/c3d_features": C3D})], "v_x", C3D, "a group per key"),
    "MESM, UniVTG": ("h5py", [write_hdf5("vid_slowfast.hdf5", {"v": SLOWFAST})], "v", SLOWFAST, "a dataset per key"),
    "the only dataset of a group": ("any", [write_hdf5("features.h5", {"v/anything": C3D})], "v", C3D, "anything of shape (9, 500)"),
    "a group with times": (
        "times", [write_hdf5("features.hdf", {"v/resnet": C3D, "v/times": np.arange(9)})], "v", C3D, "resnet of shape (9, 500)"
    ),
    "a batch axis": ("batch", [write_npy("v", I3D[None])], "v", I3D, "squeezed from (1, 61, 1024)"),
    "an axis in the middle": ("middle", [write_npy("v", I3D[:, None])], "v", I3D, "squeezed from (61, 1, 1024)"),
    "axes of space at the end": ("space", [write_npy("v", I3D[:, :, None, None])], "v", I3D, "squeezed from (61, 1024, 1, 1)"),
    "axes of space before": ("space2", [write_npy("v", I3D[:, None, None])], "v", I3D, "squeezed from (61, 1, 1, 1024)"),
    "arr_0": ("arr", [lambda folder: np.savez(folder / "v.npz", I3D)], "v", I3D, "arr_0 of shape"),
    "Fortran order": ("fortran", [write_npy("v", np.asfortranarray(I3D))], "v", I3D, "npy"),
    "half precision": ("half", [write_npy("v", I3D.astype(np.float16))], "v", I3D.astype(np.float16), "float16"),
    "one level down": ("outer", [lambda folder: (folder / "inner").mkdir(), lambda folder: np.save(folder / "inner/v.npy", I3D)], "v", I3D, "npy"),
    "other files": ("other", [write_npy("v", I3D), lambda folder: (folder / "README.md").write_text("I3D")], "v", I3D, "npy"),
    "hidden files of macOS": (
        "macos", [write_npy("v", I3D), lambda folder: (folder / "._v.npy").write_bytes(b"Mac OS X")], "v", I3D, "npy"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VIDEO)
def test_public_video_feature_layouts_are_read(tmp_path, name):
    folder, writers, key, expected, words = VIDEO[name]
    (tmp_path / folder).mkdir()
    for write in writers:
        write(tmp_path / folder)
    store = FeatureStore.from_spec(str(tmp_path / folder))
    assert list(store) == [key] and key in store and store.num_rows(key) == len(expected)
    read = store[key]
    assert read.dtype == np.float32 and read.flags.c_contiguous and store.dim == expected.shape[1]
    np.testing.assert_array_equal(read, expected.astype(np.float32))
    facts = inspect_store(store, {key: 2.0 * len(expected)})[0]
    assert words in " ".join(facts.values()) and facts["seconds per row"].startswith("2 from the durations")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store))[key], read)


IN_TAR = [name for name, (_, _, _, _, words) in VIDEO.items() if name != "one level down" and "per key" not in words]


@pytest.mark.parametrize(
    "name", [name for name in IN_TAR if name not in ("the only dataset of a group", "a group with times")]
)
def test_layouts_are_read_from_a_plain_tar(tmp_path, name):
    folder, writers, key, expected, _ = VIDEO[name]
    (tmp_path / folder).mkdir()
    for write in writers:
        write(tmp_path / folder)
    path = tmp_path / f"{folder}.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / folder, f"features/{folder}")
    store = FeatureStore.from_spec(str(path))
    np.testing.assert_array_equal(store[key], expected.astype(np.float32))
    assert list(store) == [key] and "gone" not in store
    with pytest.raises(KeyError, match=r"no features of 'gone'.*tar:features/.*gone"):
        store["gone"]


TEXT = {
    "moment_detr": ("clip_text_features", [write_npz("qid9769", last_hidden_state=TOKENS, pooler_output=TOKENS[0])], TOKENS),
    "pooled": ("pooled", [write_npz("qid9769", pooler_output=TOKENS[0])], TOKENS[:1]),
    "TACoS, UniVTG": ("txt_clip", [write_npz("9769", last_hidden_state=TOKENS)], TOKENS),
    "FlashVTG": ("llama", [write_pt("qid9769", torch.from_numpy(TOKENS))], TOKENS),
    "R2-Tuning": ("clip_b32_txt_k4", [write_npy("9769", WORDS_OF_LAYERS)], WORDS_OF_LAYERS[:, -1]),
    "UniVTG HDF5": ("h5py", [write_hdf5("txt_clip.hdf5", {"9769/last_hidden_state": TOKENS})], TOKENS),
    "tokens of a video": ("token", [write_npz("v", token=TOKENS)], TOKENS),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXT)
def test_public_text_feature_layouts_are_read(tmp_path, name):
    folder, writers, expected = TEXT[name]
    (tmp_path / folder).mkdir()
    for write in writers:
        write(tmp_path / folder)
    texts = TextFeatures.from_spec(str(tmp_path / folder))
    texts.prepare([{"qid": "9769", "vid": "v", "query": "a query"}])
    np.testing.assert_array_equal(texts(query="a query", qid="9769"), expected.astype(np.float32))
    assert texts.dim == expected.shape[1]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numbers(8, 7, 7, 16), r"shape \(8, 7, 7, 16\).*not clear which of these axes is which"),
        (numbers(8, 3, 16), r"shape \(8, 3, 16\).*not clear which of these axes is which"),
        (numbers(8, 1, 1), r"shape \(8, 1, 1\)"),
        (numbers(0, 16), r"shape \(0, 16\); expected at least one row"),
        (np.zeros((), np.float32), r"shape \(\)"),
        (np.full((3, 16), np.nan), "NaN or infinite numbers in row 0"),
        (np.full((3, 16), 1e300), "NaN or infinite numbers in row 0"),
        (numbers(16, 5), "5 channels, the others have 16; they seem to be transposed"),
        (np.ones((3, 16), complex), "type complex128"),
        (np.array([["words"] * 16]), "type <U5|type .S1"),
    ],
)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_ambiguous_or_broken_features_are_rejected(tmp_path, kind, array, message):
    for name, content in (("a", numbers(5, 16)), ("bad", array)):
        (write_npy(name, content) if kind == "npy" else write_npz(name, features=content))(tmp_path)
    store = FeatureStore.from_spec(str(tmp_path))
    with pytest.raises(ValueError, match=message) as error:
        store["bad"]
    assert f"bad.{kind}" in str(error.value) and "'bad'" in str(error.value)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("/tmp/shine_hf_was_here",)


def test_pickles_run_no_code(tmp_path):
    for name, content in (("npy", np.array([Malicious()], dtype=object)), ("pt", Malicious())):
        folder = tmp_path / name
        folder.mkdir()
        if name == "npy":
            np.save(folder / "v.npy", content, allow_pickle=True)
        else:
            torch.save(content, folder / "v.pt")
        with pytest.raises(ValueError, match=rf"v\.{name} cannot be read"):
            FeatureStore.from_spec(str(folder))["v"]
    assert not os.path.exists("/tmp/shine_hf_was_here")
    torch.save({"scores": [1, 2]}, tmp_path / "pt" / "v.pt")
    with pytest.raises(ValueError, match=r"v\.pt cannot be read: it contains nothing, but none of features"):
        FeatureStore.from_spec(str(tmp_path / "pt"))["v"]


def test_ambiguous_paths_are_rejected(tmp_path):
    for name in ("clip_features", "slowfast_features"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "v.npz", features=CLIP)
    with pytest.raises(ValueError, match=r"several feature stores \(clip_features, slowfast_features\)"):
        FeatureStore.from_spec(str(tmp_path))
    np.save(tmp_path / "clip_features" / "v.npy", CLIP)
    with pytest.raises(ValueError, match=r"several kinds \(1 \.npy, 1 \.npz\).*write npy:.* or npz:"):
        FeatureStore.from_spec(str(tmp_path / "clip_features"))
    assert FeatureStore.from_spec(f"npz:{tmp_path / 'clip_features'}").dim == 512
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty contains no features: expected \.npy, \.npz"):
        FeatureStore.from_spec(str(tmp_path / "empty"))
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match=r"notes\.txt is not a feature store"):
        FeatureStore.from_spec(str(tmp_path / "notes.txt"))
    with pytest.raises(FileNotFoundError, match="no features at"):
        FeatureStore.from_spec(str(tmp_path / "gone"))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".hdf5"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"it is empty \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer .*git lfs pull"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "it is a web page"),
        (b"PK\x03\x04 the start of an archive", "cannot be read: ."),
    ],
)  # fmt: skip
def test_unreadable_files_are_explained(tmp_path, suffix, content, reason):
    (tmp_path / f"v{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        FeatureStore.from_spec(str(tmp_path))["v"]
    assert f"v{suffix}" in str(error.value) and "unsafely" not in str(error.value) and "\x1b" not in str(error.value)


def test_arrays_of_unknown_names_are_listed(tmp_path):
    np.savez(tmp_path / "v.npz", rgb=CLIP, flow=CLIP)
    with pytest.raises(ValueError, match=r"v\.npz .* contains rgb, flow, but none of features, .*one of these names"):
        FeatureStore.from_spec(str(tmp_path))["v"]


@pytest.mark.parametrize("name", ["features.tar.gz", "features.tgz", "features.zip"])
def test_compressed_archives_must_be_unpacked_and_may_then_stay(tmp_path, name):
    np.save(tmp_path / "v.npy", I3D)
    folder = tmp_path / "downloads"
    folder.mkdir()
    shutil.make_archive(str(folder / "features"), "zip" if name.endswith("zip") else "gztar", tmp_path, "v.npy")
    if name.endswith("tgz"):
        (folder / "features.tar.gz").rename(folder / name)
    for spec in (folder, folder / name):
        with pytest.raises(ValueError, match=rf"{name} is compressed.*unpack it and pass the folder"):
            FeatureStore.from_spec(str(spec))
    shutil.unpack_archive(folder / name, folder / "features", format="zip" if name.endswith("zip") else "gztar")
    np.testing.assert_array_equal(FeatureStore.from_spec(str(folder))["v"], I3D)


def test_compressed_tar_with_the_suffix_of_a_plain_one_is_rejected(tmp_path):
    np.save(tmp_path / "v.npy", I3D)
    with tarfile.open(tmp_path / "features.tar", "w:gz") as tar:
        tar.add(tmp_path / "v.npy", "features/v.npy")
    with pytest.raises(ValueError, match=r"not an uncompressed tar.*`tar xf features\.tar`"):
        FeatureStore.from_spec(str(tmp_path / "features.tar"))


def test_layers_are_known_from_the_folder_in_a_tar(tmp_path):
    np.save(tmp_path / "9769.npy", WORDS_OF_LAYERS)
    with tarfile.open(tmp_path / "qvhighlights.tar", "w") as tar:
        tar.add(tmp_path / "9769.npy", "qvhighlights/clip_b32_txt_k4/9769.npy")
    texts = TextFeatures.from_spec(str(tmp_path / "qvhighlights.tar"))
    np.testing.assert_array_equal(texts(query="q", qid="9769"), WORDS_OF_LAYERS[:, -1].astype(np.float32))


def test_tar_of_several_folders_is_rejected(tmp_path):
    np.save(tmp_path / "v.npy", I3D)
    with tarfile.open(tmp_path / "features.tar", "w") as tar:
        for name in ("clip", "slowfast"):
            tar.add(tmp_path / "v.npy", f"{name}/v.npy")
    with pytest.raises(ValueError, match=r"several folders of features \(clip, slowfast\)"):
        FeatureStore.from_spec(str(tmp_path / "features.tar"))


@pytest.fixture
def repository(hub, online):
    """Create a dataset repository with clip features, a tar of them, and text features."""
    api = HfApi(endpoint=hub.endpoint, token=os.environ["HF_TOKEN"])
    api.create_repo("shine/field", repo_type="dataset")

    def upload(folder, where=""):
        api.upload_folder(repo_id="shine/field", repo_type="dataset", folder_path=folder, path_in_repo=where)

    return upload


def test_features_are_read_from_a_dataset_repository(tmp_path, repository):
    for name in ("video", "text"):
        (tmp_path / name).mkdir()
    np.savez(tmp_path / "video" / "v.npz", features=CLIP)
    np.savez(tmp_path / "text" / "qid1.npz", last_hidden_state=TOKENS)
    repository(tmp_path / "video", "qvhighlights/clip_features")
    store = FeatureStore.from_spec("shine/field")
    np.testing.assert_array_equal(store["v"], CLIP)
    assert store.spec == "npz:shine/field"
    repository(tmp_path / "text", "qvhighlights/clip_text_features")
    with pytest.raises(ValueError, match=r"several feature stores \(clip_features, clip_text_features\)"):
        FeatureStore.from_spec("shine/field@main")
    folder = "shine/field/qvhighlights/clip_features"
    for spec in (folder, f"npz:{folder}@main", f"hf://datasets/{folder}"):
        np.testing.assert_array_equal(FeatureStore.from_spec(spec)["v"], CLIP)
    texts = TextFeatures.from_spec("shine/field/qvhighlights/clip_text_features")
    np.testing.assert_array_equal(texts(query="q", qid="1"), TOKENS)
    with pytest.raises(
        FileNotFoundError, match="'shine/gone' is neither a local path nor a readable dataset repository"
    ):
        FeatureStore.from_spec("shine/gone")


def test_every_way_to_name_a_place_on_the_hub(tmp_path, repository):
    for name in ("clip", "streams"):
        (tmp_path / name).mkdir()
    np.savez(tmp_path / "clip" / "v.npz", features=CLIP)
    np.save(tmp_path / "streams" / "v_rgb.npy", STREAMS[0])
    np.save(tmp_path / "streams" / "v_opt.npy", STREAMS[1])
    repository(tmp_path / "clip", "clip")
    for spec in (
        "npz:shine/field",
        "hf://datasets/shine/field@main/clip",
        "https://huggingface.co/datasets/shine/field",
        "https://huggingface.co/datasets/shine/field/tree/main/clip/",
    ):
        np.testing.assert_array_equal(FeatureStore.from_spec(spec)["v"], CLIP)
    repository(tmp_path / "streams", "streams")
    facts = inspect_store(FeatureStore.from_spec("shine/field/streams"))
    assert [part["features"] for part in facts] == ["npy:shine/field/streams"] * 2
    with pytest.raises(FileNotFoundError, match=r"shine/field has no vgg: it contains .*clip/v\.npz"):
        FeatureStore.from_spec("shine/field/vgg")


def test_compressed_archives_on_the_hub_must_be_unpacked(tmp_path, repository):
    (tmp_path / "upload").mkdir()
    (tmp_path / "upload" / "features.tar.gz").write_bytes(b"compressed")
    repository(tmp_path / "upload")
    with pytest.raises(
        FileNotFoundError, match=r"has no features: it contains .*features\.tar\.gz; download and unpack"
    ):
        FeatureStore.from_spec("shine/field")


def test_forced_kinds_look_into_the_only_subfolder(tmp_path):
    (tmp_path / "charades" / "i3d").mkdir(parents=True)
    np.save(tmp_path / "charades" / "i3d" / "v.npy", I3D)
    with h5py.File(tmp_path / "charades" / "c3d.hdf5", "w") as file:
        file["v"] = C3D
    pack_features(FeatureStore.from_spec(f"i3d:{tmp_path}"), tmp_path / "charades" / "packed")
    for kind, expected in (("i3d", I3D), ("npy", I3D), ("hdf5", C3D), ("packed", I3D)):
        np.testing.assert_array_equal(FeatureStore.from_spec(f"{kind}:{tmp_path}")["v"], expected)
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more" / "v.npy", I3D)
    with pytest.raises(ValueError, match=r"several feature stores \(charades/i3d, more\)"):
        FeatureStore.from_spec(f"i3d:{tmp_path}")


def test_features_are_read_from_a_tar_on_the_hub(tmp_path, repository):
    (tmp_path / "upload").mkdir()
    np.save(tmp_path / "v.npy", I3D)
    with tarfile.open(tmp_path / "upload" / "features.tar", "w") as tar:
        tar.add(tmp_path / "v.npy", "features/v.npy")
    repository(tmp_path / "upload")
    for spec in ("shine/field", "shine/field/features.tar"):
        np.testing.assert_array_equal(FeatureStore.from_spec(spec)["v"], I3D)
