"""The new name of each entry of an original checkpoint. Many have the same shape, so a swap would load without an error."""

import argparse

import pytest
import torch

from shine_hf.conversion.checkpoints import convert_state_dict, load_original_checkpoint

from .originals import OPTIONS, original_names, qd_detr_names, save

# Original -> new, without `.weight` and `.bias`.
LAYER = """
linear1 feed_forward.linear_in
linear2 feed_forward.linear_out
"""
ENCODER_LAYER = (
    LAYER
    + """
self_attn.out_proj attention.o_proj
norm1 attention_norm
norm2 output_norm
"""
)
DECODER_LAYER = (
    LAYER
    + """
self_attn.out_proj self_attention.o_proj
norm1 self_attention_norm
norm2 cross_attention_norm
norm3 output_norm
"""
)
QD_DETR_DECODER_LAYER = (
    DECODER_LAYER
    + """
activation feed_forward.activation
cross_attn.out_proj cross_attention.o_proj
sa_qcontent_proj self_attention.q_content_proj
sa_qpos_proj self_attention.q_position_proj
sa_kcontent_proj self_attention.k_content_proj
sa_kpos_proj self_attention.k_position_proj
sa_v_proj self_attention.v_proj
ca_qcontent_proj cross_attention.q_content_proj
ca_kcontent_proj cross_attention.k_content_proj
ca_kpos_proj cross_attention.k_position_proj
ca_v_proj cross_attention.v_proj
ca_qpos_sine_proj cross_attention.q_anchor_proj
"""
)
REST = """
transformer.decoder.norm model.decoder.norm
span_embed.layers.0 span_head.layers.0
span_embed.layers.1 span_head.layers.1
span_embed.layers.2 span_head.layers.2
class_embed class_head
input_txt_proj.0.LayerNorm model.text_projection.norms.0
input_txt_proj.0.net.1 model.text_projection.linears.0
input_vid_proj.0.LayerNorm model.video_projection.norms.0
input_vid_proj.0.net.1 model.video_projection.linears.0
"""
QD_DETR_REST = (
    REST
    + """
transformer.decoder.query_scale.layers.0 model.decoder.content_scale_head.layers.0
transformer.decoder.query_scale.layers.1 model.decoder.content_scale_head.layers.1
transformer.decoder.ref_point_head.layers.0 model.decoder.position_head.layers.0
transformer.decoder.ref_point_head.layers.1 model.decoder.position_head.layers.1
transformer.decoder.ref_anchor_head.layers.0 model.decoder.width_scale_head.layers.0
transformer.decoder.ref_anchor_head.layers.1 model.decoder.width_scale_head.layers.1
transformer.decoder.bbox_embed.layers.0 model.decoder.refinement_head.layers.0
transformer.decoder.bbox_embed.layers.1 model.decoder.refinement_head.layers.1
transformer.decoder.bbox_embed.layers.2 model.decoder.refinement_head.layers.2
transformer.decoder.layers.0.ca_qpos_proj model.decoder.layers.0.cross_attention.q_position_proj
saliency_proj1 saliency_clip_head
saliency_proj2 saliency_global_head
"""
)


def pairs(text: str, original: str = "", new: str = "") -> dict[str, str]:
    return {original + a: new + b for a, b in (line.split() for line in text.split("\n") if line)}


def qd_detr_table() -> tuple[dict[str, str], dict[str, str]]:
    table, joint = pairs(QD_DETR_REST), {}
    for layer in range(2):
        for stack, ours in (("t2v_encoder", "model.text_to_video"), ("encoder", "model.encoder")):
            here, there = f"transformer.{stack}.layers.{layer}.", f"{ours}.{layer}."
            table |= pairs(ENCODER_LAYER + "activation feed_forward.activation\n", here, there)
            joint[f"{here}self_attn.in_proj"] = f"{there}attention"
        decoder = f"decoder.layers.{layer}."
        table |= pairs(QD_DETR_DECODER_LAYER, f"transformer.{decoder}", f"model.{decoder}")
    return table, joint


def moment_detr_table() -> tuple[dict[str, str], dict[str, str]]:
    encoder, decoder = ("transformer.encoder.layers.0.", "model.encoder.0."), "decoder.layers.0."
    table = pairs(REST) | pairs(ENCODER_LAYER, *encoder) | {"saliency_proj": "saliency_head"}
    table |= pairs(
        DECODER_LAYER + "multihead_attn.out_proj cross_attention.o_proj", f"transformer.{decoder}", f"model.{decoder}"
    )
    joint = {
        f"{encoder[0]}self_attn.in_proj": f"{encoder[1]}attention",
        f"transformer.{decoder}self_attn.in_proj": f"model.{decoder}self_attention",
        f"transformer.{decoder}multihead_attn.in_proj": f"model.{decoder}cross_attention",
    }
    return table, joint


@pytest.mark.parametrize(
    ("architecture", "state", "tables", "unpaired"),
    [
        ("moment_detr", original_names(), moment_detr_table(), {"query_embed.weight": "model.query_vectors"}),
        (
            "qd_detr",
            qd_detr_names(layers=2),
            qd_detr_table(),
            {
                "query_embed.weight": "model.anchor_logits",
                "global_rep_token": "model.global_token",
                "global_rep_pos": "model.global_position",
            },
        ),
    ],
)
def test_each_entry_gets_its_new_name(architecture, state, tables, unpaired):
    (table, joint), want = tables, {}
    for original, new in table.items():
        for kind in ("weight", "bias"):
            if f"{original}.{kind}" in state:
                want[f"{new}.{kind}"] = state[f"{original}.{kind}"]
    for original, new in joint.items():
        for kind in ("weight", "bias"):
            parts = state[f"{original}_{kind}"].chunk(3)
            want |= {f"{new}.{name}_proj.{kind}": part for name, part in zip("qkv", parts)}
    want |= {new: state[original] for original, new in unpaired.items()}
    got = convert_state_dict(state, architecture)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


def test_each_option_sets_its_config_field(tmp_path):
    options = {
        "nheads": 4, "input_dropout": 0.31, "dropout": 0.12, "max_q_l": 21, "max_v_l": 76, "clip_length": 1.5, "aux_loss": False,
        "span_loss_coef": 11, "giou_loss_coef": 2, "label_loss_coef": 5, "lw_saliency": 3, "eos_coef": 0.2, "set_cost_span": 12,
        "set_cost_giou": 6, "set_cost_class": 7, "saliency_margin": 0.3, "no_norm_vfeat": True, "no_norm_tfeat": True,
    }  # fmt: skip
    want = {
        "num_attention_heads": 4, "input_dropout": 0.31, "dropout": 0.12, "max_text_length": 21, "max_video_length": 76,
        "clip_length": 1.5, "auxiliary_loss": False, "span_loss_weight": 11, "giou_loss_weight": 2, "label_loss_weight": 5,
        "saliency_loss_weight": 3, "background_weight": 0.2, "matcher_span_cost": 12, "matcher_giou_cost": 6, "matcher_class_cost": 7,
        "saliency_margin": 0.3, "normalize_features": False,
    }  # fmt: skip
    path = save(tmp_path / "model.ckpt", options=argparse.Namespace(**vars(OPTIONS) | options))
    config = load_original_checkpoint(path, "moment_detr").config
    assert {name: getattr(config, name) for name in want} == want


@pytest.mark.parametrize(("option", "field"), [(-1, None), (0, None), (None, None), (50, 50)])
def test_nonpositive_length_means_no_limit(tmp_path, option, field):
    options = argparse.Namespace(**vars(OPTIONS) | {"max_v_l": option})
    path = save(tmp_path / "model.ckpt", options=options)
    assert load_original_checkpoint(path, "moment_detr").config.max_video_length == field
