"""Open the video and text features that a recipe names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig

    from ..features.base import FeatureStore
    from ..features.text import TextFeatures
    from .arguments import DataArguments

logger = logging.getLogger(__name__)

DEFAULT_TEXT_FEATURES = "words:"


def video_store(args: DataArguments, splits: Mapping[str, Dataset], clip_length: float) -> FeatureStore:
    """Open the feature store that `video_features` describes.

    Args:
        args: The data arguments of the recipe.
        splits: All splits, from which simulated features are computed.
        clip_length: Seconds per clip of the model.

    Raises:
        ValueError: if no features are given, or if their recorded clip length differs.
        FileNotFoundError: if the features do not exist.
    """
    from ..features.base import FeatureStore

    if not args.video_features:
        raise ValueError(
            "no video features given. Pass --video_features with a folder, a file or a dataset repository on the Hub, or simulated: to try "
            "things out with features computed from the annotations"
        )
    rows = [
        row
        for split in splits.values()
        for row in split.select_columns(["vid", "query", "duration", "relevant_windows"])
    ]
    store = FeatureStore.from_specs(args.video_features, rows=rows, clip_length=clip_length)
    if store.clip_length not in (None, clip_length):
        raise ValueError(
            f"{store.spec} has clips of {store.clip_length} s, but clip_length is {clip_length}: set clip_length to "
            f"{store.clip_length}, or extract the features again"
        )
    return store


def text_source(args: DataArguments) -> TextFeatures:
    """Open the text features that `text_features` describes."""
    from ..features.text import TextFeatures

    return TextFeatures.from_spec(args.text_features or DEFAULT_TEXT_FEATURES)


def text_features_of(config: PretrainedConfig, asked: str | None = None) -> str:
    """Return the text features for a trained model: the requested ones, or the encoder that its configuration records.

    Args:
        config: The configuration of the model.
        asked: The specification that the user gave, if any.

    Raises:
        ValueError: if none are requested and the model was trained on features of a store, or of unknown origin.
    """
    from ..encoders import are_same_text_encoder, is_text_encoder_spec

    recorded = config.text_encoder or ""
    if asked is None and not is_text_encoder_spec(recorded):
        raise ValueError(
            f"the model was trained with text features from a store ({recorded or 'unknown'}): pass them with --text_features"
        )
    if asked is not None and is_text_encoder_spec(recorded) and not are_same_text_encoder(asked, recorded):
        logger.warning("the model was trained with the text features %s, but is used with %s", recorded, asked)
    return asked or recorded
