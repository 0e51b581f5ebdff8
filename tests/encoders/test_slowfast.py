"""SlowFast R50 8x8 with random weights, in the shapes and names of the published checkpoints."""

import pickle

import httpx2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from shine_hf.encoders import video_encoder
from shine_hf.encoders.slowfast import SlowFast

from .videos import gray, write_video
from .weights import pytorchvideo_names


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = SlowFast().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(std=0.1)
    return network


@pytest.fixture(scope="module")
def weights(network, tmp_path_factory):
    """Save a file like those of PySlowFast."""
    path = tmp_path_factory.mktemp("slowfast") / "SLOWFAST_8x8_R50.pyth"
    state = network.state_dict() | {"head.projection.weight": torch.zeros(400, 2304)}
    torch.save({"epoch": 196, "model_state": state, "optimizer_state": {}, "cfg": "TRAIN:"}, path)
    return path


def test_network_matches_the_paper(network):
    state = network.state_dict()
    # PySlowFast's model zoo: 34.57 million parameters, of which the classifier has 2304 * 400 + 400.
    parameters = sum(parameter.numel() for parameter in network.parameters()) + 2304 * 400 + 400
    assert round(parameters / 1e6, 2) == 34.57
    for name, shape in {
        "s1.pathway0_stem.conv.weight": (64, 3, 1, 7, 7),
        "s1.pathway1_stem.conv.weight": (8, 3, 5, 7, 7),
        "s1_fuse.conv_f2s.weight": (16, 8, 7, 1, 1),
        "s2.pathway0_res0.branch1.weight": (256, 80, 1, 1, 1),
        "s2.pathway0_res0.branch2.a.weight": (64, 80, 1, 1, 1),
        "s3.pathway0_res0.branch1.weight": (512, 320, 1, 1, 1),
        "s4.pathway0_res5.branch2.a.weight": (256, 1024, 3, 1, 1),
        "s4_fuse.conv_f2s.weight": (256, 128, 7, 1, 1),
        "s5.pathway0_res0.branch2.b.weight": (512, 512, 1, 3, 3),
        "s5.pathway1_res2.branch2.c.weight": (256, 64, 1, 1, 1),
        "s5.pathway1_res0.branch1_bn.running_var": (256,),
    }.items():
        assert tuple(state[name].shape) == shape


def test_clip_features_equal_the_network_output(network, weights, tmp_path):
    encoder = video_encoder(f"slowfast:{weights}")
    assert (encoder.dim, encoder.frames_per_clip, encoder.spec) == (2304, 32, f"slowfast:{weights}")
    frames = [np.roll(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8), i, 0) for i in range(40)]
    features = encoder.encode_video(write_video(tmp_path / "a.mp4", frames, fps=20), 2.0)
    assert features.shape == (1, 2304) and features.dtype == np.float32
    (clips,) = next(iter(_batches(tmp_path / "a.mp4", encoder)))
    assert clips.shape == (1, 32, 224, 224, 3)
    pixels = (torch.from_numpy(clips).float() / 255 - 0.45) / 0.225
    with torch.no_grad():
        expected = network(pixels.permute(0, 4, 1, 2, 3))
    np.testing.assert_allclose(features, expected, atol=1e-4)


def _batches(path, encoder):
    from shine_hf.encoders.video_base import read_batches

    return read_batches(path, 2.0, encoder.parts)


def test_pytorchvideo_and_safetensors_weights_are_loaded(network, weights, tmp_path):
    torch.save({"model_state": pytorchvideo_names(network.state_dict())}, tmp_path / "pytorchvideo.pyth")
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, tmp_path / "a.safetensors")
    clips = np.random.default_rng(0).integers(0, 255, (1, 32, 224, 224, 3), dtype=np.uint8)
    expected = video_encoder(f"slowfast:{weights}").encode_clips(clips)
    for path in (tmp_path / "pytorchvideo.pyth", tmp_path / "a.safetensors"):
        np.testing.assert_array_equal(video_encoder(f"slowfast:{path}").encode_clips(clips), expected)


def test_other_files_are_rejected(tmp_path):
    torch.save({"model_state": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pyth")
    (tmp_path / "caffe2.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": np.zeros(1)}}, protocol=2))
    (tmp_path / "pointer.pyth").write_text("version https://git-lfs.github.com/spec/v1\n")
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html>Quota exceeded</html>")
    for name, kind, message in (
        ("other.pyth", ValueError, "does not contain the weights of SlowFast R50 8x8"),
        ("caffe2.pkl", ValueError, "Caffe2 files"),
        ("gone.pyth", FileNotFoundError, r"no file of SlowFast weights .*gone\.pyth\. Download .* slowfast:PATH"),
        ("pointer.pyth", ValueError, "Git LFS pointer"),
        ("page.safetensors", ValueError, "a web page"),
    ):
        with pytest.raises(kind, match=message):
            video_encoder(f"slowfast:{tmp_path / name}")


def test_hub_that_cannot_be_reached_is_an_error_of_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", refuse)
    with pytest.raises(FileNotFoundError, match="nor a readable repository on the Hub: Name or service not known"):
        video_encoder("slowfast:user/weights")


def test_short_gray_video_is_encoded(weights, tmp_path):
    """Encode a video of one shade that is shorter than a clip."""
    path = write_video(tmp_path / "short.mp4", [gray(90)] * 3, fps=4)
    assert video_encoder(f"slowfast:{weights}").encode_video(path, 2.0).shape == (1, 2304)
