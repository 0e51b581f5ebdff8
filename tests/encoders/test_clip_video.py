import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from shine_hf.encoders import is_video_encoder_spec, video_encoder

from .videos import gray, write_video


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A randomly initialised CLIP with its image processor, saved in a folder."""
    folder = tmp_path_factory.mktemp("clip")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=small | {"vocab_size": 60},
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_mean_of_the_image_features_of_a_clip(tiny_clip, tmp_path):
    rng = np.random.default_rng(0)
    clips = rng.integers(0, 255, (3, 2, 40, 56, 3), dtype=np.uint8)
    encoder = video_encoder(f"clip:{tiny_clip},frames=2")
    features = encoder.encode_clips(clips)
    assert features.shape == (3, encoder.dim) == (3, 12) and features.dtype == np.float32
    model, processor = CLIPModel.from_pretrained(tiny_clip).eval(), CLIPImageProcessorPil.from_pretrained(tiny_clip)
    with torch.no_grad():
        images = [
            model.get_image_features(**processor(frame, return_tensors="pt")).pooler_output[0] for frame in clips[1]
        ]
    np.testing.assert_allclose(features[1], torch.stack(images).mean(0), atol=1e-5)


def test_a_video_of_several_batches(tiny_clip, tmp_path):
    path = write_video(tmp_path / "a.mp4", [gray(12 * i) for i in range(20)], fps=4)
    encoder = video_encoder(f"clip:{tiny_clip},frames=2")
    whole = encoder.encode_video(path, 1.0)
    encoder.batch_clips = 2
    assert whole.shape == (5, 12)
    np.testing.assert_allclose(encoder.encode_video(path, 1.0, progress=True), whole, atol=1e-5)
    assert not np.allclose(whole[0], whole[-1])


def test_the_specification_rebuilds_the_encoder(tiny_clip):
    assert video_encoder(f"clip:{tiny_clip}").spec == f"clip:{tiny_clip},frames=2"
    encoder = video_encoder(f"clip:{tiny_clip},frames=3")
    assert encoder.frames_per_clip == 3 and video_encoder(encoder.spec).spec == encoder.spec


def test_specifications_that_name_no_encoder():
    assert is_video_encoder_spec("clip:x") and is_video_encoder_spec("pixels:") and not is_video_encoder_spec("i3d:x")
    for spec, message in (
        ("i3d:folder", "unknown video encoder"),
        ("pixels:width=3", "no option 'width=3'"),
        ("pixels:size=0", "must be positive"),
        ("auto:", "needs the name of a model"),
        ("clip:x,frames=two", "'two' is not a int"),
    ):
        with pytest.raises(ValueError, match=message):
            video_encoder(spec)
