"""Image and video models of transformers, as tiny random models of their real classes."""

import json

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel

from shine_hf.encoders import text_encoder, video_encoder

from .videos import gray, write_video

TINY = {
    "image_size": 16, "patch_size": 8, "num_frames": 4, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
TINY_IMAGE = {name: value for name, value in TINY.items() if name != "num_frames"}
TINY_TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60,
}  # fmt: skip
PLAIN = {
    "do_resize": True, "size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16},
    "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
}  # fmt: skip


def siglip():
    return transformers.SiglipConfig(text_config=TINY_TEXT, vision_config=TINY_IMAGE)


def siglip2():
    vision = {name: value for name, value in TINY_IMAGE.items() if name != "image_size"} | {"num_patches": 16}
    return transformers.Siglip2Config(text_config=TINY_TEXT, vision_config=vision)


def pe_video():
    video = {name: TINY[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads")}
    # The published model has a timm backbone, which needs torchvision; any image classifier can replace it.
    vision = transformers.ViTConfig(**TINY_IMAGE, num_labels=12)
    encoder = transformers.PeVideoEncoderConfig(**video, num_hidden_layers=1, head_dim=8, vision_config=vision)
    return transformers.PeVideoConfig(video_config=encoder, text_config=transformers.BertConfig(**TINY_TEXT))


def videoprism():
    vision = {name: value for name, value in TINY.items() if name not in ("patch_size", "num_hidden_layers")} | {
        "tubelet_size": [1, 8, 8], "num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1,
    }  # fmt: skip
    return transformers.VideoPrismConfig(vision_config=vision, text_config=TINY_TEXT)


def vjepa2():
    return transformers.VJEPA2Config(
        patch_size=8, crop_size=16, frames_per_clip=4, tubelet_size=2, hidden_size=24, num_attention_heads=2,
        num_hidden_layers=1, pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
        pred_num_mask_tokens=2,
    )  # fmt: skip


CONFIGS = {
    "videomae": lambda: transformers.VideoMAEConfig(**TINY, tubelet_size=2),
    "timesformer": lambda: transformers.TimesformerConfig(**TINY),
    "vivit": lambda: transformers.VivitConfig(**TINY, tubelet_size=[2, 8, 8]),
    "vjepa2": vjepa2,
    "videoprism": videoprism,
    "pe_video": pe_video,
    "siglip": siglip,
    "siglip2": siglip2,
    "dinov3": lambda: transformers.DINOv3ViTConfig(**TINY_IMAGE),
    "dinov2": lambda: transformers.Dinov2Config(**TINY_IMAGE),
    "vit": lambda: transformers.ViTConfig(**TINY_IMAGE),
}
VIDEO_MODELS = {"videomae", "timesformer", "vivit", "vjepa2", "videoprism", "pe_video"}
# Models with a video processor.
VIDEO_PROCESSORS = {"vjepa2", "videoprism", "pe_video"}


def save(name, folder):
    torch.manual_seed(0)
    AutoModel.from_config(CONFIGS[name]()).save_pretrained(folder)
    if name == "siglip2":
        transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    else:
        file = "video_preprocessor_config.json" if name in VIDEO_PROCESSORS else "preprocessor_config.json"
        (folder / file).write_text(json.dumps(PLAIN))
    return folder


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def saved_model(request, tmp_path_factory):
    return request.param, save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def tiny_model(saved_model, monkeypatch):
    name, _ = saved_model
    if name == "pe_video":
        # The reloaded configuration asks for timm, which needs torchvision.
        def load(folder, output_loading_info=False, **options):
            torch.manual_seed(0)
            model = AutoModel.from_config(pe_video()).eval()
            return (model, {"missing_keys": set()}) if output_loading_info else model

        monkeypatch.setattr(AutoModel, "from_pretrained", load)
    return saved_model


def prepared(clips):
    """Return 16 x 16 frames normalized as the settings say, `(N, F, 3, 16, 16)`; frames of this size are not scaled."""
    pixels = (torch.from_numpy(clips).float() / 255 - torch.tensor(PLAIN["image_mean"])) / torch.tensor(
        PLAIN["image_std"]
    )
    return pixels.movedim(-1, -3)


@torch.no_grad()
def expected_features(name, folder, clips):
    """Compute the features of the clips with the model's own class, by the documented rule."""
    model, pixels = AutoModel.from_pretrained(folder).eval(), prepared(clips)
    if name == "videoprism":
        return model.get_video_features(pixel_values_videos=pixels).pooler_output[:, 0]
    if name == "pe_video":
        return model(input_ids=torch.ones(1, 2, dtype=torch.long), pixel_values_videos=pixels).video_embeds
    if name == "vjepa2":
        return model(pixel_values_videos=pixels).last_hidden_state.mean(1)
    if name in VIDEO_MODELS:
        return model(pixel_values=pixels).last_hidden_state.mean(1)
    frames = pixels.flatten(0, 1)
    if name == "siglip":
        features = model.get_image_features(pixel_values=frames).pooler_output
    elif name == "siglip2":
        processor = transformers.Siglip2ImageProcessorPil.from_pretrained(folder)
        features = model.get_image_features(
            **processor([frame for clip in clips for frame in clip], return_tensors="pt")
        ).pooler_output
    else:
        features = model(pixel_values=frames).pooler_output
    return features.unflatten(0, clips.shape[:2]).mean(1)


def test_features_equal_those_of_the_model_class(tiny_model, tmp_path):
    name, folder = tiny_model
    encoder = video_encoder(f"auto:{folder}" + ("" if name in VIDEO_MODELS - {"pe_video"} else ",frames=4"))
    assert encoder.spec == f"auto:{folder},frames=4" and video_encoder(encoder.spec).spec == encoder.spec
    clips = np.random.default_rng(0).integers(0, 255, (3, 4, 16, 16, 3), dtype=np.uint8)
    features = encoder.encode_clips(clips)
    assert features.shape == (3, encoder.dim) and features.dtype == np.float32
    np.testing.assert_allclose(features, expected_features(name, folder, clips), atol=1e-5)
    # A video of another size: five clips in batches of four.
    path = write_video(tmp_path / "a.mp4", [gray(10 * i) for i in range(20)], fps=4)
    assert encoder.encode_video(path, 1.0).shape == (5, encoder.dim)


def test_default_frames_per_clip_match_the_model(tiny_model):
    name, folder = tiny_model
    expected = 16 if name == "pe_video" else 4 if name in VIDEO_MODELS else 1
    assert video_encoder(f"auto:{folder}").frames_per_clip == expected


@pytest.mark.parametrize("frames", [0, -1])
def test_number_of_frames_must_be_positive(frames):
    with pytest.raises(ValueError, match=f"auto: frames must be positive, got {frames}"):
        video_encoder(f"auto:any,frames={frames}")


@pytest.mark.parametrize("spec", ["clip:/gone/model", "auto:./gone", "auto:~gone/model,frames=2"])
def test_missing_model_folder_is_named(spec):
    where = spec.partition(":")[2].partition(",")[0]
    for encoder in (video_encoder, text_encoder):
        with pytest.raises(FileNotFoundError, match=f"no model folder {where}"):
            encoder(spec.partition(",")[0])


def test_text_model_is_rejected(tmp_path):
    transformers.BertModel(transformers.BertConfig(**TINY_TEXT)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"bert model, which accepts neither images nor videos"):
        video_encoder(f"auto:{tmp_path}")


def test_model_without_a_processor_is_rejected(tmp_path):
    transformers.ViTModel(transformers.ViTConfig(**TINY_IMAGE)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has none of .*preprocessor_config\.json"):
        video_encoder(f"auto:{tmp_path}")


def test_untrained_pooler_is_not_used(tmp_path):
    config = CONFIGS["vit"]()
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PLAIN))
    clips = np.random.default_rng(0).integers(0, 255, (2, 1, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model(prepared(clips).flatten(0, 1)).last_hidden_state.mean(1)
    np.testing.assert_allclose(video_encoder(f"auto:{tmp_path}").encode_clips(clips), expected, atol=1e-5)


def test_unsupported_number_of_frames_is_rejected(tmp_path):
    assert video_encoder(f"auto:{save('timesformer', tmp_path)},frames=2").frames_per_clip == 2
    with pytest.raises(ValueError, match="trained with 4 frames per clip and does not accept 2"):
        video_encoder(f"auto:{save('videomae', tmp_path)},frames=2")


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        ({"size": {"height": 16, "width": 16}, "do_center_crop": False}, None, (16, 16)),
        ({"size": 16, "crop_size": 16}, None, (16, 16)),
        ({"size": {"longest_edge": 16}}, "longest_edge", None),
    ],
)
def test_image_size_is_read_from_old_and_new_settings(tmp_path, settings, size, expected):
    folder = save("dinov3", tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps(PLAIN | settings))
    if expected is None:
        with pytest.raises(ValueError, match=size):
            video_encoder(f"auto:{folder}")
        return
    encoder = video_encoder(f"auto:{folder}")
    assert encoder.encode_clips(np.zeros((1, 1, 40, 60, 3), np.uint8)).shape == (1, 16)


def test_pixel_values_can_range_from_minus_one_to_one(tmp_path):
    """The processor of ViViT records an offset."""
    folder = save("vivit", tmp_path)
    changed = {"offset": True, "rescale_factor": 1 / 127.5, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(PLAIN | changed))
    pixels = video_encoder(f"auto:{folder}")._settings.normalize(np.full((1, 4, 16, 16, 3), 255, np.uint8), "cpu")
    assert pixels.unique().tolist() == pytest.approx([1.0])
