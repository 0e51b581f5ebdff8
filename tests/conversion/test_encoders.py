"""Converted public checkpoints record their encoders, so they can search a video file without further options."""

import argparse

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, pipeline

from shine_hf.cli import main
from shine_hf.conversion.checkpoints import load_original_checkpoint
from shine_hf.conversion.encoders import CLIP, SLOWFAST, feature_types
from shine_hf.encoders.slowfast import SlowFast
from shine_hf.features.base import FeatureStore

from ..encoders.videos import gray, write_video
from ..encoders.weights import pytorchvideo_names
from .originals import OPTIONS, original_names, qd_detr_names, save


def converted(tmp_path, video, text=512, **options):
    options = argparse.Namespace(**{**vars(OPTIONS), **options})
    path = save(tmp_path / "model.ckpt", original_names(video=video, text=text), options)
    return load_original_checkpoint(path, "moment_detr").config


def test_clip_only_checkpoints_record_the_clip_encoder_and_two_second_clips(tmp_path):
    torch.save(original_names(video=512, text=512), tmp_path / "bare.ckpt")
    bare = load_original_checkpoint(tmp_path / "bare.ckpt", "moment_detr").config
    for config in (converted(tmp_path, 512), converted(tmp_path, 512, v_feat_dirs=["features/clip_features"]), bare):
        assert config.video_encoder == CLIP == "clip:openai/clip-vit-base-patch32"
        assert config.text_encoder == CLIP and config.clip_length == 2 and config.video_feature_dims is None


def test_slowfast_and_clip_follow_the_order_of_the_feature_folders(tmp_path):
    config = converted(tmp_path, 2816)
    assert config.video_encoder == f"{SLOWFAST}+{CLIP}" and config.video_feature_dims == [2304, 512]
    folders = ["features\\clip_features", "/data/slowfast_features"]
    config = converted(tmp_path, 2816, v_feat_dirs=folders)
    assert config.video_encoder == f"{CLIP}+{SLOWFAST}" and config.video_feature_dims == [512, 2304]


def test_feature_folders_take_precedence_over_the_width(tmp_path):
    assert converted(tmp_path, 512, clip_length=1).clip_length == 1
    config = converted(tmp_path, 1024, clip_length=0.5, v_feat_dirs=["features/i3d_features"])
    assert config.video_encoder == "i3d:" and config.text_encoder == CLIP and config.clip_length == 0.5
    config = converted(tmp_path, 4096, v_feat_dirs=["anet/c3d_features"])
    assert config.video_encoder == "hdf5:"
    # Folders that are unknown or do not add up to the width are ignored.
    assert not feature_types(4096, {"v_feat_dirs": ["vgg"]})
    assert [kind.name for kind in feature_types(512, {"v_feat_dirs": ["slowfast", "clip"]})] == ["clip"]


def test_unknown_widths_record_no_encoder(tmp_path):
    config = converted(tmp_path, 10, text=6)
    assert config.video_encoder is None and config.text_encoder is None
    with_audio = converted(tmp_path, 512 + 2048, a_feat_dim=2048)
    assert with_audio.video_encoder is None


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """Save a random CLIP with the widths of ViT-B/32: 512 for images and tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=small | {"vocab_size": 8, "hidden_size": 512, "eos_token_id": 2},
        vision_config=small | {"hidden_size": 16, "image_size": 32, "patch_size": 16},
        projection_dim=512,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    words = {"[PAD]": 0, "[S]": 1, "[E]": 2, "[UNK]": 3, "a": 4, "door": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[S] $A [E]", special_tokens=[("[S]", 1), ("[E]", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[E]").save_pretrained(folder)
    return folder


def test_converted_checkpoint_finds_moments_in_a_video_file(tmp_path, tiny_clip, capsys):
    path = save(tmp_path / "model_best.ckpt", original_names(video=512, text=512))
    arguments = [
        "convert",
        "--checkpoint",
        str(path),
        "--architecture",
        "moment_detr",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    # The recorded encoder is on the Hub; use a local one of the same width.
    assert main([*arguments, "--video-encoder", f"clip:{tiny_clip}", "--text-encoder", f"clip:{tiny_clip}"]) == 0
    assert "clip_length 2" in capsys.readouterr().out
    film = write_video(tmp_path / "film.mp4", [gray(10 * level) for level in range(20)], fps=2)
    find = pipeline("video-moment-retrieval", model=str(tmp_path / "out"), device="cpu")
    result = find(video=str(film), query="a door", top_k=2)
    assert len(result["moments"]) == 2 and len(result["saliency"]) == 5 and result["clip_length"] == 2
    assert np.isfinite(result["saliency"]).all()


def test_slowfast_and_clip_checkpoint_searches_a_video_as_features_extract_encodes_it(tmp_path, tiny_clip, capsys):
    """With the weights of SlowFast in PyTorchVideo's layout."""
    torch.manual_seed(0)
    weights, checkpoint = tmp_path / "SLOWFAST_8x8_R50.pyth", tmp_path / "model_best.ckpt"
    torch.save({"model_state": pytorchvideo_names(SlowFast().state_dict())}, weights)
    options = argparse.Namespace(
        **{**vars(OPTIONS), "v_feat_dirs": ["features/clip_features", "features/slowfast_features"]}
    )
    save(checkpoint, qd_detr_names(video=2816, text=512), options)
    arguments = ["--checkpoint", str(checkpoint), "--architecture", "qd_detr", "--output-dir", str(tmp_path / "out")]
    assert main(["convert", *arguments, "--text-encoder", f"clip:{tiny_clip}"]) == 0
    assert f"video_encoder {CLIP}+{SLOWFAST}" in capsys.readouterr().out
    (tmp_path / "videos").mkdir()
    film = write_video(tmp_path / "videos" / "film.mp4", [gray(30 * level) for level in range(8)], fps=4)
    spec = f"clip:{tiny_clip}+slowfast:{weights}"
    extract = ["features", "extract", "--videos", str(tmp_path / "videos"), "--encoder", spec, "--clip-length", "2"]
    assert main([*extract, "--workers", "0", "--output", str(tmp_path / "features")]) == 0
    store = FeatureStore.from_spec(str(tmp_path / "features"))
    assert store.dims == [512, 2304] and store["film"].shape == (1, 2816)
    # The recorded encoders are on the Hub and in the working directory; here they are elsewhere.
    find = pipeline("video-moment-retrieval", model=str(tmp_path / "out"), device="cpu", video_encoder=spec)
    assert find(video=str(film), query="a door") == find(video=store["film"], query="a door")
