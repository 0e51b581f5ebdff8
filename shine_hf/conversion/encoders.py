"""Find out which encoders computed the features that a public checkpoint was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

# `run_on_video` of moment_detr and QD-DETR, and the extractor of their features (github.com/linjieli222/HERO_Video_Feature_Extractor).
CLIP = "clip:openai/clip-vit-base-patch32"
SLOWFAST = "slowfast:SLOWFAST_8x8_R50.pyth"
CLIP_LENGTH_SECONDS = 2.0
CLIP_TEXT_WIDTH = 512


@dataclass(frozen=True)
class FeatureType:
    """One of the feature types that the public code concatenates.

    Args:
        name: Its name in folders and options.
        width: Number of channels.
        encoder: The encoder that computes it from a video file; `KIND:` for features that are only distributed as files.
    """

    name: str
    width: int
    encoder: str


# In the order in which the public scripts concatenate them.
FEATURE_TYPES = (
    FeatureType("slowfast", 2304, SLOWFAST),
    FeatureType("clip", 512, CLIP),
    FeatureType("i3d", 1024, "i3d:"),
    FeatureType("c3d", 4096, "hdf5:"),
)
# Total width -> the feature types that were concatenated.
_BY_WIDTH = {512: ("clip",), 2304: ("slowfast",), 2816: ("slowfast", "clip"), 1024: ("i3d",)}


def feature_types(video_dim: int, options: Mapping[str, Any]) -> list[FeatureType]:
    """Return the feature types of a checkpoint in their order; an empty list if they are unknown.

    Args:
        video_dim: Channels of the video features, without the endpoint features and with audio.
        options: Options of the original training. Its feature folders determine the types and their order; without them, the width does.
    """
    folders = options.get("v_feat_dirs") or ()
    folders = [folders] if isinstance(folders, str) else folders
    named = [_type_of_folder(PurePath(str(folder).replace("\\", "/")).name) for folder in folders]
    found = [kind for kind in named if kind is not None]
    if not folders or len(found) < len(named) or sum(kind.width for kind in found) != video_dim:
        found = [kind for kind in FEATURE_TYPES if kind.name in _BY_WIDTH.get(video_dim, ())]
    return found


def encoder_settings(video_dim: int, text_dim: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the configuration that record the encoders, so that the model can search video files.

    Args:
        video_dim, text_dim: Feature widths of the checkpoint.
        options: Options of the original training.

    Returns:
        Those of `video_encoder`, `video_feature_dims`, `clip_length` and `text_encoder` that are known.
    """
    fields: dict[str, Any] = {}
    if types := feature_types(video_dim, options):
        fields["video_encoder"] = "+".join(kind.encoder for kind in types)
        if len(types) > 1:
            fields["video_feature_dims"] = [kind.width for kind in types]
        if {kind.name for kind in types} <= {"slowfast", "clip"}:
            fields["clip_length"] = CLIP_LENGTH_SECONDS
    if text_dim == CLIP_TEXT_WIDTH:
        fields["text_encoder"] = CLIP
    return fields


def _type_of_folder(folder: str) -> FeatureType | None:
    return next((kind for kind in FEATURE_TYPES if kind.name in folder.lower()), None)
