"""Conversion of original checkpoints to our models."""

import argparse
import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from shine_hf.cli import main
from shine_hf.conversion.checkpoints import convert_state_dict, load_original_checkpoint

from ..golden.reference import Golden
from .originals import OPTIONS, original_names, qd_detr_names, save

ORIGINAL_NAMES = {
    "qd_detr": "params_qd_detr_and_shine.json",
    "shine": "params_qd_detr_and_shine.json",
    "moment_detr": "params_moment_detr.json",
}


def test_sizes_are_read_from_weights_and_settings_from_options(tmp_path):
    model = load_original_checkpoint(save(tmp_path / "model.ckpt"), "moment_detr")
    config = model.config
    assert (config.video_dim, config.text_dim, config.hidden_size, config.num_queries) == (10, 6, 8, 5)
    assert (config.encoder_layers, config.decoder_layers, config.num_input_projections) == (1, 1, 1)
    assert (config.num_attention_heads, config.dropout, config.max_text_length, config.max_video_length) == (
        2,
        0.2,
        20,
        75,
    )
    assert config.saliency_loss_weight == 4.0 and config.clip_length == 2
    original = original_names()
    q, k, v = original["transformer.encoder.layers.0.self_attn.in_proj_weight"].chunk(3)
    attention = model.model.encoder[0].attention
    for ours, theirs in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v)):
        assert torch.equal(ours.weight, theirs)


@pytest.mark.parametrize("layers", [1, 2])
def test_qd_detr_checkpoint_is_converted(tmp_path, layers):
    path = save(tmp_path / "model.ckpt", qd_detr_names(layers=layers))
    config = load_original_checkpoint(path, "shine").config
    assert config.model_type == "qd_detr" and config.batch_coupled_text_mask is False
    assert (config.video_dim, config.text_dim, config.decoder_layers, config.text_to_video_layers) == (
        10,
        6,
        layers,
        layers,
    )


def test_bare_state_dict_and_data_parallel_prefix_are_accepted(tmp_path):
    state = {f"module.{name}": value for name, value in original_names().items()}
    torch.save(state, tmp_path / "weights.pt")
    model = load_original_checkpoint(tmp_path / "weights.pt", "moment_detr", num_attention_heads=4, clip_length=1.0)
    assert model.config.num_attention_heads == 4 and model.config.clip_length == 1.0


def test_audio_visual_channels_are_reordered(tmp_path):
    state = original_names()
    options = argparse.Namespace(**{**vars(OPTIONS), "a_feat_dim": 3})
    model = load_original_checkpoint(save(tmp_path / "av.ckpt", state, options), "moment_detr").eval()
    assert model.config.video_dim == 10  # 7 video channels, 3 audio channels, and 2 endpoint features
    features = torch.randn(1, 4, 10)
    ours = model.model.video_projection(torch.cat([features, torch.full((1, 4, 2), 0.5)], dim=-1))
    theirs = torch.cat([features[..., :7], torch.full((1, 4, 2), 0.5), features[..., 7:]], dim=-1)
    normed = torch.nn.functional.layer_norm(
        theirs, (12,), state["input_vid_proj.0.LayerNorm.weight"], state["input_vid_proj.0.LayerNorm.bias"]
    )
    want = normed @ state["input_vid_proj.0.net.1.weight"].T + state["input_vid_proj.0.net.1.bias"]
    torch.testing.assert_close(ours, want)


def test_non_checkpoints_are_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_original_checkpoint(tmp_path / "none.ckpt", "qd_detr")
    with pytest.raises(ValueError, match="unknown architecture"):
        convert_state_dict({}, "detr")
    with pytest.raises(ValueError, match=r"not entries of a qd_detr checkpoint: backbone\.conv"):
        convert_state_dict({"backbone.conv": torch.zeros(1)}, "qd_detr")
    state = original_names()
    del state["saliency_proj.weight"]
    with pytest.raises(ValueError, match=r"saliency_head\.weight"):
        load_original_checkpoint(save(tmp_path / "half.ckpt", state), "moment_detr")
    for content, message in (("", "is empty"), ("version https://git-lfs.github.com/spec/v1", "Git LFS pointer")):
        (tmp_path / "text.ckpt").write_text(content)
        with pytest.raises(ValueError, match=rf"text\.ckpt was not loaded: .*{message}"):
            load_original_checkpoint(tmp_path / "text.ckpt", "qd_detr")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="was not loaded"):
        load_original_checkpoint(tmp_path / "text.ckpt", "qd_detr")


def test_command_line_writes_a_folder_that_needs_no_shine_hf(tmp_path):
    """Write safetensors with the new names that `AutoModel` loads in a fresh process from the code in the folder."""
    save(tmp_path / "model.ckpt")
    output = tmp_path / "converted"
    arguments = [
        "convert",
        "--checkpoint",
        str(tmp_path / "model.ckpt"),
        "--architecture",
        "moment_detr",
        "--output-dir",
        str(output),
    ]
    assert main(arguments) == 0
    with safe_open(output / "model.safetensors", "pt") as weights:
        assert "model.encoder.0.attention.q_proj.weight" in weights.keys()  # noqa: SIM118
    assert not [path for path in output.iterdir() if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    script = (
        "import sys; sys.modules['shine_hf'] = None\n"
        "import torch; from transformers import AutoModel\n"
        f"model = AutoModel.from_pretrained({str(output)!r}, trust_remote_code=True)\n"
        "torch.manual_seed(0)\n"
        "mask = torch.ones(1, 4); out = model(torch.ones(1, 4, 10), mask, torch.ones(1, 3, 6), torch.ones(1, 3))\n"
        "print(type(model).__module__.split('.')[0], out.pred_spans.sum().item())"
    )
    environment = {"HF_HOME": str(tmp_path / "hub"), "PATH": "", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    module, total = run.stdout.split()[-2:]
    model = load_original_checkpoint(tmp_path / "model.ckpt", "moment_detr")
    mask = torch.ones(1, 4)
    want = model(torch.ones(1, 4, 10), mask, torch.ones(1, 3, 6), torch.ones(1, 3)).pred_spans.sum().item()
    assert module == "transformers_modules" and float(total) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize(
    ("architecture", "more", "message"),
    [
        ("qd_detr", [], "model.ckpt is not a qd_detr checkpoint: size mismatch for model.anchor_logits"),
        ("moment_detr", ["--clip-length", "-1"], "model.ckpt: clip_length must be positive, got -1.0"),
        ("moment_detr", ["--video-feature-dims", "2304", "500"], "[2304, 500] do not add up to video_dim=10"),
        ("moment_detr", ["--video-encoder", "clipp:x"], "--video-encoder: 'clipp:x' is none of pixels:, clip:, auto:, slowfast:"),
        ("moment_detr", ["--text-encoder", "slowfast:x"], "--text-encoder: 'slowfast:x' is none of words:, clip:, auto:, vectors:"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_errors_of_one_line(tmp_path, capsys, architecture, more, message):
    path = save(tmp_path / "model.ckpt")
    arguments = ["--checkpoint", str(path), "--architecture", architecture, "--output-dir", str(tmp_path / "out")]
    assert main(["convert", *arguments, *more]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1 and not (tmp_path / "out").exists()


def test_command_line_errors_are_one_line(tmp_path, capsys):
    arguments = [
        "convert",
        "--checkpoint",
        str(tmp_path / "x"),
        "--architecture",
        "qd_detr",
        "--output-dir",
        str(tmp_path / "y"),
    ]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("shine-hf convert: error: no checkpoint at")


@pytest.mark.parametrize("architecture", ["qd_detr", "shine", "moment_detr"])
def test_converted_checkpoints_reproduce_the_golden_outputs(shared, tmp_path, architecture):
    golden = Golden.load(shared / "golden", f"{architecture}_ragged")
    options = argparse.Namespace(nheads=8, ctx_mode="video_tef", clip_length=0.5, max_v_l=-1)
    names = json.loads((shared / "golden" / ORIGINAL_NAMES[architecture]).read_text())
    assert {name for name, _ in names} == set(golden.state())
    torch.save({"model": golden.state(), "opt": options}, tmp_path / "original.ckpt")
    model = load_original_checkpoint(tmp_path / "original.ckpt", architecture)
    inputs = golden.inputs(golden.doc["inputs"])
    output = model(**inputs)
    torch.testing.assert_close(output.pred_spans, golden.tensors["fixed.eval.pred_spans"], atol=2e-5, rtol=0)
    torch.testing.assert_close(output.saliency_scores, golden.tensors["fixed.eval.saliency_scores"], atol=2e-5, rtol=0)
