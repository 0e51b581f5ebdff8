"""Convert the parameter names of the original code to those of this package."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

# SHINE changes the training of QD-DETR, not the network: the parameters have the same names and shapes.
ARCHITECTURES = ("moment_detr", "qd_detr", "shine")

# Entries that no forward pass of the original models reads: the trainable text positions (`use_txt_pos` is off everywhere), a
# projection that only the data-parallel wrapper of Moment-DETR's pre-training used, and the loss's class weights.
_UNUSED = re.compile(r"^(txt_position_embed\.|contrastive_align_projection_vid\.|empty_weight$)")

# The joint q/k/v matrices of torch's attention, which are split into three.
_JOINT_PROJECTION = re.compile(r"in_proj_(weight|bias)$")

# (pattern in the original name, replacement), all applied in order.
_ENCODER_RULES = (
    (r"^transformer\.t2v_encoder\.layers\.", "model.text_to_video."),
    (r"^transformer\.encoder\.layers\.", "model.encoder."),
    (r"^transformer\.decoder\.", "model.decoder."),
    (r"^(model\.(?:text_to_video|encoder)\.\d+)\.self_attn\.", r"\1.attention."),
    (r"^(model\.(?:text_to_video|encoder)\.\d+)\.norm1\.", r"\1.attention_norm."),
    (r"^(model\.(?:text_to_video|encoder)\.\d+)\.norm2\.", r"\1.output_norm."),
    (r"\.linear1\.", ".feed_forward.linear_in."),
    (r"\.linear2\.", ".feed_forward.linear_out."),
    (r"\.activation\.", ".feed_forward.activation."),
    (r"\.out_proj\.", ".o_proj."),
)
_DECODER_RULES = (
    (r"\.sa_(q|k)content_proj\.", r".self_attention.\1_content_proj."),
    (r"\.sa_(q|k)pos_proj\.", r".self_attention.\1_position_proj."),
    (r"\.sa_v_proj\.", ".self_attention.v_proj."),
    (r"\.ca_(q|k)content_proj\.", r".cross_attention.\1_content_proj."),
    (r"\.ca_(q|k)pos_proj\.", r".cross_attention.\1_position_proj."),
    (r"\.ca_qpos_sine_proj\.", ".cross_attention.q_anchor_proj."),
    (r"\.ca_v_proj\.", ".cross_attention.v_proj."),
    (r"^(model\.decoder\.layers\.\d+)\.self_attn\.", r"\1.self_attention."),
    (r"^(model\.decoder\.layers\.\d+)\.(?:cross_attn|multihead_attn)\.", r"\1.cross_attention."),
    (r"^(model\.decoder\.layers\.\d+)\.norm1\.", r"\1.self_attention_norm."),
    (r"^(model\.decoder\.layers\.\d+)\.norm2\.", r"\1.cross_attention_norm."),
    (r"^(model\.decoder\.layers\.\d+)\.norm3\.", r"\1.output_norm."),
    (r"^model\.decoder\.query_scale\.", "model.decoder.content_scale_head."),
    (r"^model\.decoder\.ref_point_head\.", "model.decoder.position_head."),
    (r"^model\.decoder\.ref_anchor_head\.", "model.decoder.width_scale_head."),
    (r"^model\.decoder\.bbox_embed\.", "model.decoder.refinement_head."),
)
_HEAD_RULES = (
    (r"^input_vid_proj\.(\d+)\.LayerNorm\.", r"model.video_projection.norms.\1."),
    (r"^input_vid_proj\.(\d+)\.net\.1\.", r"model.video_projection.linears.\1."),
    (r"^input_txt_proj\.(\d+)\.LayerNorm\.", r"model.text_projection.norms.\1."),
    (r"^input_txt_proj\.(\d+)\.net\.1\.", r"model.text_projection.linears.\1."),
    (r"^global_rep_token$", "model.global_token"),
    (r"^global_rep_pos$", "model.global_position"),
    (r"^span_embed\.", "span_head."),
    (r"^class_embed\.", "class_head."),
    (r"^saliency_proj\.", "saliency_head."),
    (r"^saliency_proj1\.", "saliency_clip_head."),
    (r"^saliency_proj2\.", "saliency_global_head."),
    (r"^contrastive_align_projection_query\.", "contrastive_query_head."),
    (r"^contrastive_align_projection_txt\.", "contrastive_text_head."),
)


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], architecture: str, audio_dim: int = 0
) -> dict[str, torch.Tensor]:
    """Rename (and split) the entries of an original state dict to those of the `…ForMomentRetrieval` model.

    Args:
        state_dict: Original names -> tensors, as in the `"model"` entry of a checkpoint of jayleicn/moment_detr,
            wjun0830/QD-DETR or zxccade/SHINE; a `module.` prefix of data-parallel training is dropped.
        architecture: One of `moment_detr`, `qd_detr`, `shine` (the same network as `qd_detr`).
        audio_dim: Width of the audio features of an audio-visual checkpoint with endpoint features. The original puts them
            after the endpoint features, which come last here.

    Returns:
        New names -> tensors. Entries that the original models never use are dropped.

    Raises:
        ValueError: for an unknown architecture, or names that do not belong to it.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; choose one of {', '.join(ARCHITECTURES)}")
    queries = "model.query_vectors" if architecture == "moment_detr" else "model.anchor_logits"
    rules = (*_ENCODER_RULES, *_DECODER_RULES, *_HEAD_RULES, (r"^query_embed\.weight$", queries))
    layers = depth(state_dict, "transformer.decoder.layers.")

    converted, unknown = {}, []
    for original, tensor in state_dict.items():
        name = original.removeprefix("module.")
        if _UNUSED.match(name) or (layers == 1 and _only_for_several_layers(name)):
            continue
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if match := _JOINT_PROJECTION.search(new):
            for projection, part in zip("qkv", tensor.chunk(3)):
                converted[f"{new[: match.start()]}{projection}_proj.{match[1]}"] = part.clone()
        elif new == name:
            unknown.append(original)
        else:
            converted[new] = tensor
    if unknown:
        raise ValueError(f"not entries of a {architecture} checkpoint: {', '.join(sorted(unknown)[:5])}")
    if audio_dim:
        for name in ("norms.0.weight", "norms.0.bias", "linears.0.weight"):
            video, endpoints, audio = _split_channels(converted[f"model.video_projection.{name}"], audio_dim)
            converted[f"model.video_projection.{name}"] = torch.cat([video, audio, endpoints], dim=-1)
    return converted


def _split_channels(weight: torch.Tensor, audio_dim: int) -> tuple[torch.Tensor, ...]:
    """Split the input channels of the first projection into video, the two endpoint features, and audio."""
    return weight.split([weight.shape[-1] - 2 - audio_dim, 2, audio_dim], dim=-1)


def _only_for_several_layers(name: str) -> bool:
    """Return whether a weight belongs to the heads between decoder layers, which the public code's one-layer decoder has but never uses."""
    return name.startswith(("transformer.decoder.query_scale.", "transformer.decoder.bbox_embed."))


def depth(state_dict: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Return the number of layers under `prefix`."""
    indices = [
        int(name.removeprefix("module.")[len(prefix) :].split(".")[0])
        for name in state_dict
        if name.removeprefix("module.").startswith(prefix)
    ]
    return max(indices, default=-1) + 1
