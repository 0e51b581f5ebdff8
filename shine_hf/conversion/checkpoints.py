"""Original Moment-DETR, QD-DETR and SHINE checkpoints -> shine_hf models."""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path

import torch

# SHINE changes the training of QD-DETR, not the network: the parameters have the same names and shapes.
ARCHITECTURES = ("moment_detr", "qd_detr", "shine")

# Entries that no forward pass of the original models reads: the trainable text positions (`use_txt_pos` is off everywhere), a
# projection that only the data-parallel wrapper of Moment-DETR's pre-training used, and the loss's class weights.
_UNUSED = re.compile(r"^(txt_position_embed\.|contrastive_align_projection_vid\.|empty_weight$)")

# The joint q/k/v matrices of torch's attention, split into three.
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


# Original option -> field of our configuration. Sizes are read off the weights instead.
_OPTIONS = {
    "nheads": "num_attention_heads",
    "input_dropout": "input_dropout",
    "dropout": "dropout",
    "max_q_l": "max_text_length",
    "clip_length": "clip_length",
    "aux_loss": "auxiliary_loss",
    "span_loss_coef": "span_loss_weight",
    "giou_loss_coef": "giou_loss_weight",
    "label_loss_coef": "label_loss_weight",
    "lw_saliency": "saliency_loss_weight",
    "eos_coef": "background_weight",
    "set_cost_span": "matcher_span_cost",
    "set_cost_giou": "matcher_giou_cost",
    "set_cost_class": "matcher_class_cost",
    "saliency_margin": "saliency_margin",
}


def load_original_checkpoint(path: str | Path, architecture: str, **overrides):
    """The `…ForMomentRetrieval` model of an original checkpoint.

    Sizes and depths are read off the weights, the other settings from the checkpoint's own options where they are there.

    Args:
        path: A checkpoint of jayleicn/moment_detr, wjun0830/QD-DETR (video or audio-visual) or zxccade/SHINE: a pickle with the entries
            `model` and `opt`, or a state dict alone.
        architecture: One of `moment_detr`, `qd_detr`, `shine`.
        overrides: Fields of the configuration that the checkpoint does not tell, or tells wrongly: `clip_length`,
            `video_feature_dims` (widths of the concatenated feature types, audio last), `batch_coupled_text_mask`, …

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is no such checkpoint, or whose pickle holds anything but tensors, plain values and argparse options (it
            is not executed).
    """
    from ..modeling import MomentDetrConfig, MomentDetrForMomentRetrieval, QDDetrConfig, QDDetrForMomentRetrieval

    state_dict, options = _read_checkpoint(Path(path))
    if architecture == "moment_detr":
        config_class, model_class = MomentDetrConfig, MomentDetrForMomentRetrieval
    else:
        config_class, model_class = QDDetrConfig, QDDetrForMomentRetrieval
    use_tef = overrides.get("use_tef", "tef" in options.get("ctx_mode", "video_tef"))
    audio_dim = options.get("a_feat_dim") or 0
    converted = convert_state_dict(state_dict, architecture, audio_dim=audio_dim if use_tef else 0)
    fields = {**_sizes(converted, use_tef), **_settings(options, converted), **overrides}
    model = model_class(config_class(**fields))
    missing, unexpected = model.load_state_dict(converted, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"{path} is no {architecture} checkpoint: it lacks {', '.join(missing[:3]) or 'nothing'} and has "
            f"{', '.join(unexpected[:3]) or 'nothing'} beyond it"
        )
    return model.eval()


def _read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """State dict and options of a checkpoint, without running any code that a pickle may hold."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        refused = re.search(r"(?:GLOBAL|Unsupported class|global) ([\w.]+)", str(error))
        raise ValueError(
            f"{path} is not loaded: "
            + (f"its pickle wants to use {refused[1]}, and " if refused else "")
            + "only tensors, plain values and argparse options are accepted from a pickle"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    options = content.get("opt", {})
    options = vars(options) if isinstance(options, argparse.Namespace) else options
    state_dict = content.get("model", content)
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError(f"{path} has no state dict under `model`; its entries are {', '.join(map(str, content))}")
    return state_dict, options if isinstance(options, dict) else {}


def _sizes(converted: dict[str, torch.Tensor], use_tef: bool) -> dict:
    """The fields of the configuration that the shapes of converted weights tell.

    Raises:
        ValueError: where a weight that every model has is missing.
    """
    try:
        video_in = converted["model.video_projection.linears.0.weight"].shape[1]
        queries = converted.get("model.query_vectors", converted.get("model.anchor_logits"))
        sizes = {
            "video_dim": video_in - (2 if use_tef else 0),
            "use_tef": use_tef,
            "text_dim": converted["model.text_projection.linears.0.weight"].shape[1],
            "hidden_size": converted["class_head.weight"].shape[1],
            "intermediate_size": converted["model.encoder.0.feed_forward.linear_in.weight"].shape[0],
            "num_queries": queries.shape[0],
            "num_input_projections": _depth(converted, "model.video_projection.linears."),
            "encoder_layers": _depth(converted, "model.encoder."),
            "decoder_layers": _depth(converted, "model.decoder.layers."),
        }
    except (KeyError, AttributeError) as error:
        raise ValueError(f"no checkpoint of these models: {error} is missing") from error
    if layers := _depth(converted, "model.text_to_video."):
        sizes["text_to_video_layers"] = layers
    return sizes


def _settings(options: dict, converted: dict[str, torch.Tensor]) -> dict:
    """The fields of the configuration that the checkpoint's options tell."""
    fields = {ours: options[theirs] for theirs, ours in _OPTIONS.items() if options.get(theirs) is not None}
    if (options.get("max_v_l") or -1) > 0:
        fields["max_video_length"] = options["max_v_l"]
    if options.get("no_norm_vfeat") is not None:
        if options["no_norm_vfeat"] != options.get("no_norm_tfeat", options["no_norm_vfeat"]):
            raise ValueError(
                "the checkpoint normalises video and text features differently, which this library does not do"
            )
        fields["normalize_features"] = not options["no_norm_vfeat"]
    if "contrastive_query_head.weight" in converted:
        fields["contrastive_loss_weight"] = options.get("contrastive_align_loss_coef") or 0.02
        fields["contrastive_size"] = converted["contrastive_query_head.weight"].shape[0]
    return fields


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], architecture: str, audio_dim: int = 0
) -> dict[str, torch.Tensor]:
    """Rename (and split) the entries of an original state dict to those of the `…ForMomentRetrieval` model.

    Args:
        state_dict: Original names -> tensors, as in the `"model"` entry of a checkpoint of jayleicn/moment_detr,
            wjun0830/QD-DETR or zxccade/SHINE; a `module.` prefix of data-parallel training is dropped.
        architecture: One of `moment_detr`, `qd_detr`, `shine` (the same network as `qd_detr`).
        audio_dim: Width of the audio features of an audio-visual checkpoint with endpoint features. The original puts them behind the
            endpoint features, which come last here.

    Returns:
        New names -> tensors. Entries that the original models never use are dropped.

    Raises:
        ValueError: for an unknown architecture, or names that do not belong to it.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}; choose one of {', '.join(ARCHITECTURES)}")
    queries = "model.query_vectors" if architecture == "moment_detr" else "model.anchor_logits"
    rules = (*_ENCODER_RULES, *_DECODER_RULES, *_HEAD_RULES, (r"^query_embed\.weight$", queries))
    layers = _depth(state_dict, "transformer.decoder.layers.")

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
    """The input channels of the first projection: video, the two endpoint features, audio."""
    return weight.split([weight.shape[-1] - 2 - audio_dim, 2, audio_dim], dim=-1)


def _only_for_several_layers(name: str) -> bool:
    """The heads between decoder layers, which a decoder of one layer owns in the public code but never uses."""
    return name.startswith(("transformer.decoder.query_scale.", "transformer.decoder.bbox_embed."))


def _depth(state_dict, prefix: str) -> int:
    """How many layers stand under `prefix`."""
    indices = [
        int(name.removeprefix("module.")[len(prefix) :].split(".")[0])
        for name in state_dict
        if name.removeprefix("module.").startswith(prefix)
    ]
    return max(indices, default=-1) + 1
