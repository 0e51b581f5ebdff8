"""Original checkpoints in, our models out."""

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

ORIGINAL_NAMES = {
    "qd_detr": "params_qd_detr_and_shine.json",
    "shine": "params_qd_detr_and_shine.json",
    "moment_detr": "params_moment_detr.json",
}


def original_names(hidden=8, text=6, video=10) -> dict[str, torch.Tensor]:
    """A small state dict in the original names of one encoder and one decoder layer of Moment-DETR."""
    size, inner = hidden, 2 * hidden
    shapes = {}

    def linear(name, rows, columns):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(name, width=size):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (width,), (width,)

    def attention(name):
        shapes[f"{name}.in_proj_weight"], shapes[f"{name}.in_proj_bias"] = (3 * size, size), (3 * size,)
        linear(f"{name}.out_proj", size, size)

    for stack, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "multihead_attn"])):
        layer = f"transformer.{stack}.layers.0"
        for name in attentions:
            attention(f"{layer}.{name}")
        linear(f"{layer}.linear1", inner, size)
        linear(f"{layer}.linear2", size, inner)
        for index in range(1, len(attentions) + 2):
            norm(f"{layer}.norm{index}")
    norm("transformer.decoder.norm")
    for index, rows in enumerate([size, size, 2]):
        linear(f"span_embed.layers.{index}", rows, size)
    linear("class_embed", 2, size)
    linear("saliency_proj", 1, size)
    shapes["query_embed.weight"] = (5, size)
    shapes["txt_position_embed.position_embeddings.weight"] = (4, size)
    for kind, width in (("txt", text), ("vid", video + 2)):
        norm(f"input_{kind}_proj.0.LayerNorm", width)
        linear(f"input_{kind}_proj.0.net.1", size, width)
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}


OPTIONS = argparse.Namespace(
    nheads=2, dropout=0.2, input_dropout=0.4, max_q_l=20, max_v_l=75, ctx_mode="video_tef", clip_length=2, span_loss_coef=10,
    eos_coef=0.1, lw_saliency=4.0, no_norm_vfeat=False, no_norm_tfeat=False, a_feat_dim=0, results_dir="somewhere",
)  # fmt: skip


def save(path, state=None, options=OPTIONS):
    torch.save({"model": state or original_names(), "opt": options, "epoch": 7, "optimizer": {"state": {}}}, path)
    return path


def test_sizes_come_from_the_weights_and_settings_from_the_options(tmp_path):
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


def test_a_state_dict_alone_and_a_data_parallel_prefix(tmp_path):
    state = {f"module.{name}": value for name, value in original_names().items()}
    torch.save(state, tmp_path / "weights.pt")
    model = load_original_checkpoint(tmp_path / "weights.pt", "moment_detr", num_attention_heads=4, clip_length=1.0)
    assert model.config.num_attention_heads == 4 and model.config.clip_length == 1.0


def test_audio_visual_checkpoints_get_their_channels_in_our_order(tmp_path):
    state = original_names()
    options = argparse.Namespace(**{**vars(OPTIONS), "a_feat_dim": 3})
    model = load_original_checkpoint(save(tmp_path / "av.ckpt", state, options), "moment_detr").eval()
    assert model.config.video_dim == 10  # 7 of video, 3 of audio, and 2 endpoint features on top
    features = torch.randn(1, 4, 10)
    ours = model.model.video_projection(torch.cat([features, torch.full((1, 4, 2), 0.5)], dim=-1))
    theirs = torch.cat([features[..., :7], torch.full((1, 4, 2), 0.5), features[..., 7:]], dim=-1)
    normed = torch.nn.functional.layer_norm(
        theirs, (12,), state["input_vid_proj.0.LayerNorm.weight"], state["input_vid_proj.0.LayerNorm.bias"]
    )
    want = normed @ state["input_vid_proj.0.net.1.weight"].T + state["input_vid_proj.0.net.1.bias"]
    torch.testing.assert_close(ours, want)


def test_what_is_no_checkpoint_is_refused(tmp_path):
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
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="was not loaded"):
        load_original_checkpoint(tmp_path / "text.ckpt", "qd_detr")


def test_command_line_writes_a_folder_that_needs_no_shine_hf(tmp_path):
    """Safetensors, new names, and loadable by `AutoModel` from the code in the folder alone, in a fresh process."""
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


def test_errors_on_the_command_line_are_one_line(tmp_path, capsys):
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
def test_converted_originals_give_the_golden_outputs(shared, tmp_path, architecture):
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
