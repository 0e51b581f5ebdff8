"""Convert original Moment-DETR, QD-DETR and SHINE checkpoints to shine_hf models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError

from .encoders import encoder_settings
from .names import ARCHITECTURES, convert_state_dict, depth
from .reading import read_checkpoint

if TYPE_CHECKING:
    from ..modeling import MomentDetrForMomentRetrieval, QDDetrForMomentRetrieval

__all__ = ["ARCHITECTURES", "convert_state_dict", "load_original_checkpoint"]

# Original option -> field of our configuration. Sizes are inferred from the weights instead.
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


def load_original_checkpoint(
    path: str | Path, architecture: str, **overrides: Any
) -> QDDetrForMomentRetrieval | MomentDetrForMomentRetrieval:
    """Return the `…ForMomentRetrieval` model of an original checkpoint, in evaluation mode.

    Sizes and depths are inferred from the weights; the other settings come from the checkpoint's options, if it has any. If the features of
    the checkpoint are known (CLIP, SlowFast with CLIP), the configuration records the encoders that compute them.

    Args:
        path: A checkpoint of jayleicn/moment_detr, wjun0830/QD-DETR (video or audio-visual), zxccade/SHINE or line/lighthouse: a pickle
            with the entries `model` and `opt`, or a bare state dict.
        architecture: One of `moment_detr`, `qd_detr`, `shine`.
        overrides: Fields of the configuration that are missing or wrong in the checkpoint: `clip_length`, `video_encoder`,
            `video_feature_dims` (widths of the concatenated feature types, audio last), `batch_coupled_text_mask`, …

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not such a checkpoint, or its pickle calls a function (which is never run).
    """
    from ..modeling import MomentDetrConfig, MomentDetrForMomentRetrieval, QDDetrConfig, QDDetrForMomentRetrieval

    state_dict, options = read_checkpoint(Path(path))
    if architecture == "moment_detr":
        config_class, model_class = MomentDetrConfig, MomentDetrForMomentRetrieval
    else:
        config_class, model_class = QDDetrConfig, QDDetrForMomentRetrieval
    use_tef = overrides.get("use_tef", "tef" in options.get("ctx_mode", "video_tef"))
    audio_dim = options.get("a_feat_dim") or 0
    converted = convert_state_dict(state_dict, architecture, audio_dim=audio_dim if use_tef else 0)
    sizes = _sizes(converted, use_tef)
    encoders = encoder_settings(sizes["video_dim"], sizes["text_dim"], options)
    try:
        model = model_class(config_class(**{**sizes, **encoders, **_settings(options, converted), **overrides}))
    except StrictDataclassError as error:
        raise ValueError(f"{path}: {error.__cause__ or error}") from error
    try:
        missing, unexpected = model.load_state_dict(converted, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} is not a {architecture} checkpoint: {reason}") from error
    if missing or unexpected:
        raise ValueError(
            f"{path} is not a {architecture} checkpoint: it lacks {', '.join(missing[:3]) or 'nothing'} and also has "
            f"{', '.join(unexpected[:3]) or 'nothing else'}"
        )
    return model.eval()


def _sizes(converted: Mapping[str, torch.Tensor], use_tef: bool) -> dict[str, Any]:
    """Return the fields of the configuration that follow from the shapes of converted weights.

    Raises:
        ValueError: if a weight that every model has is missing.
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
            "num_input_projections": depth(converted, "model.video_projection.linears."),
            "encoder_layers": depth(converted, "model.encoder."),
            "decoder_layers": depth(converted, "model.decoder.layers."),
        }
    except (KeyError, AttributeError) as error:
        raise ValueError(f"not a checkpoint of these models: {error} is missing") from error
    if layers := depth(converted, "model.text_to_video."):
        sizes["text_to_video_layers"] = layers
    return sizes


def _settings(options: Mapping[str, Any], converted: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the fields of the configuration that the checkpoint's options define."""
    fields = {ours: options[theirs] for theirs, ours in _OPTIONS.items() if options.get(theirs) is not None}
    if (options.get("max_v_l") or -1) > 0:
        fields["max_video_length"] = options["max_v_l"]
    if options.get("no_norm_vfeat") is not None:
        if options["no_norm_vfeat"] != options.get("no_norm_tfeat", options["no_norm_vfeat"]):
            raise ValueError(
                "the checkpoint normalizes video and text features differently, which this library does not do"
            )
        fields["normalize_features"] = not options["no_norm_vfeat"]
    if "contrastive_query_head.weight" in converted:
        fields["contrastive_loss_weight"] = options.get("contrastive_align_loss_coef") or 0.02
        fields["contrastive_size"] = converted["contrastive_query_head.weight"].shape[0]
    return fields
