import numpy as np
import pytest
import torch
from transformers import (
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEImageProcessorPil,
    VideoMAEModel,
    ViTConfig,
    ViTModel,
)

from shine_hf.encoders import video_encoder

from .videos import gray, write_video

TINY = {
    "image_size": 16, "patch_size": 8, "num_frames": 4, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
MODELS = {
    "videomae": lambda: VideoMAEModel(VideoMAEConfig(**TINY, tubelet_size=2)),
    "timesformer": lambda: TimesformerModel(TimesformerConfig(**TINY)),
}


@pytest.fixture(scope="module", params=sorted(MODELS))
def tiny_model(request, tmp_path_factory):
    """A randomly initialised video model with its image processor, saved in a folder."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    MODELS[request.param]().save_pretrained(folder)
    VideoMAEImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
        folder
    )
    return folder


def test_mean_of_the_last_hidden_state(tiny_model, tmp_path):
    encoder = video_encoder(f"auto:{tiny_model}")
    assert (encoder.dim, encoder.frames_per_clip, encoder.spec) == (16, 4, f"auto:{tiny_model},frames=4")
    clips = np.random.default_rng(0).integers(0, 255, (3, 4, 24, 32, 3), dtype=np.uint8)
    features = encoder.encode_clips(clips)
    assert features.shape == (3, 16) and features.dtype == np.float32
    pixels = VideoMAEImageProcessorPil.from_pretrained(tiny_model)(list(clips[2]), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = encoder.model.eval()(pixel_values=pixels.reshape(1, 4, 3, 16, 16)).last_hidden_state
    np.testing.assert_allclose(features[2], states[0].mean(0), atol=1e-5)
    # A video of five clips in batches of four.
    path = write_video(tmp_path / "a.mp4", [gray(10 * i) for i in range(20)], fps=4)
    assert encoder.encode_video(path, 1.0).shape == (5, 16)


def test_a_model_of_images_is_refused(tmp_path):
    settings = {name: value for name, value in TINY.items() if name != "num_frames"}
    ViTModel(ViTConfig(**settings)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"vit model.*not a video model"):
        video_encoder(f"auto:{tmp_path}")


def test_a_number_of_frames_that_the_model_does_not_take_is_named(tiny_model):
    encoder = video_encoder(f"auto:{tiny_model},frames=2")
    clips = np.zeros((1, 2, 16, 16, 3), np.uint8)
    if "timesformer" in str(tiny_model):
        assert encoder.encode_clips(clips).shape == (1, 16)
    else:
        with pytest.raises(ValueError, match="trained with 4 frames per clip and takes no other number"):
            encoder.encode_clips(clips)
