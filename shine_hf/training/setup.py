"""Build what a trainer needs from a user's model, rows and features."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModel, PreTrainedModel, TrainingArguments
from transformers.trainer_utils import has_length

from ..data.annotations import as_dataset
from ..data.arguments import DataArguments
from ..data.collator import DataCollatorForMomentRetrieval
from ..data.selection import training_rows
from ..data.stores import DEFAULT_TEXT_FEATURES, text_features_of, video_store
from ..features.base import FeatureStore
from ..features.grid import require_matching_grids
from ..features.text import TextFeatures
from ..modeling import MomentDetrConfig, MomentRetrievalProcessor, QDDetrConfig
from ..schema import parse_row, trainable
from .training_args import ShineTrainingArguments

CONFIGS = {config.model_type: config for config in (QDDetrConfig, MomentDetrConfig)}
"""Models that can be created by name."""


@dataclasses.dataclass
class TrainingSetup:
    """The model that [`ShineTrainer`] trains, with its collator and rows."""

    model: nn.Module
    collator: DataCollatorForMomentRetrieval
    train_dataset: Any
    eval_dataset: Any


def set_up(
    model: str | nn.Module,
    args: ShineTrainingArguments,
    train_dataset: Any,
    eval_dataset: Any,
    video_features: str | Sequence[str] | Mapping,
    text_features: str | TextFeatures | Callable | None = None,
    processor: MomentRetrievalProcessor | None = None,
) -> TrainingSetup:
    """Build model, processor and collator, and read the rows. For the arguments, see [`ShineTrainer`].

    Raises:
        ValueError: for rows that violate the schema, features that do not fit the rows or the model, or an unknown model.
        KeyError: if text features of a query are missing.
        FileNotFoundError: if the features do not exist.
    """
    train_rows = read_rows(train_dataset, "train_dataset", for_training=True)
    is_dict = isinstance(eval_dataset, dict)
    named = eval_dataset if is_dict else {} if eval_dataset is None else {"eval_dataset": eval_dataset}
    eval_rows = {name: read_rows(rows, name) for name, rows in named.items()}
    splits = {"train_dataset": train_rows, **eval_rows}
    stored = {name: rows for name, rows in splits.items() if isinstance(rows, Dataset)}

    if isinstance(model, str) and model not in CONFIGS:
        model = AutoModel.from_pretrained(model)
    config = getattr(model, "config", None)
    texts = _text_features(text_features, config)
    clip_length = getattr(processor or config, "clip_length", None)
    videos = _video_features(video_features, stored, clip_length)
    if isinstance(model, str):
        model = new_model(model, videos, texts, clip_length=videos.clip_length or QDDetrConfig.clip_length)
    elif config is not None:
        config.video_encoder = config.video_encoder or getattr(videos, "public_spec", None)
        config.text_encoder = config.text_encoder or getattr(texts, "public_spec", None)
    if processor is None:
        config = getattr(model, "config", None)
        given: dict[str, Any] = (
            {} if getattr(videos, "clip_length", None) is None else {"clip_length": videos.clip_length}
        )
        processor = MomentRetrievalProcessor.from_config(config) if config else MomentRetrievalProcessor(**given)
    if isinstance(videos, FeatureStore):
        require_matching_grids(videos, stored, processor.clip_length, processor.max_video_length)
    levels = len(args.fine_margins) - 1
    for name, rows in stored.items():
        if isinstance(texts, TextFeatures):
            needed = levels if name != "train_dataset" or args.needs_hard_negatives else 0
            texts.prepare(rows, needed, progress=not args.disable_tqdm)
    has_pool = isinstance(train_rows, Dataset)
    collator = DataCollatorForMomentRetrieval(
        processor,
        videos,
        texts,
        query_pool=train_rows if has_pool else None,
        # A stream cannot be sampled at random, so irrelevant queries come from the batch.
        irrelevant="random" if has_pool else "in_batch",
        num_levels=levels,
        hard_negatives=args.needs_hard_negatives,
        # As in the public code, the margin term of the base loss is off when the ranking losses are on.
        draw_margin_pairs=not (args.coarse_weight or args.fine_weight),
        seed=args.data_seed if args.data_seed is not None else args.seed,
    )
    if train_dataset is None:
        train_rows = None
    return TrainingSetup(model, collator, train_rows, eval_rows if is_dict else eval_rows.get("eval_dataset"))


def new_model(model_type: str, videos: Any, texts: Any, **config: Any) -> PreTrainedModel:
    """Build a model for given features.

    Args:
        model_type: `"qd_detr"` or `"moment_detr"`.
        videos, texts: Features. Their widths and encoders are recorded in the configuration.
        config: Fields of the configuration.

    Raises:
        ValueError: for an invalid field.
    """
    settings = {
        "video_dim": videos.dim,
        "text_dim": texts.dim,
        "video_feature_dims": videos.dims if len(videos.dims) > 1 else None,
        "video_encoder": videos.public_spec,
        "text_encoder": texts.public_spec,
        **config,
    }
    try:
        return AutoModel.from_config(CONFIGS[model_type](**settings))
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


def complete_arguments(args: TrainingArguments) -> ShineTrainingArguments:
    """Return a copy of plain `TrainingArguments` with the additional fields of [`ShineTrainingArguments`] at their defaults."""
    if isinstance(args, ShineTrainingArguments):
        return args
    complete = copy.copy(args)
    complete.__class__ = ShineTrainingArguments
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    for field in dataclasses.fields(ShineTrainingArguments):
        if field.name not in known:
            make: Any = field.default_factory
            setattr(complete, field.name, field.default if make is dataclasses.MISSING else make())
    # The length of a row is its duration, and a non-finite loss must not be hidden.
    complete.length_column_name, complete.logging_nan_inf_filter, complete.label_names = "duration", False, ["labels"]
    return complete


def read_rows(dataset: Any, name: str, for_training: bool = False) -> Any:
    """Convert rows in any format to the schema. Returns a `datasets.Dataset`, or for a stream, a stream of parsed rows.

    Args:
        dataset: Rows with the columns of the schema: a dataset from `datasets` or torch, or a list.
        name: Name for error messages.
        for_training: Leave out rows that cannot be trained on.

    Raises:
        ValueError: for rows that violate the schema, or a dict of splits.
    """
    if dataset is None:
        return None
    if isinstance(dataset, dict):
        raise ValueError(
            f"{name} is a dict of splits ({', '.join(dataset)}): pass one of them, e.g. splits[{next(iter(dataset))!r}]"
        )
    if not has_length(dataset):
        return ParsedStream(dataset, name, for_training)
    plain = dataset.with_format(None) if isinstance(dataset, Dataset) else dataset
    rows = as_dataset(((f"{name}, row {index}", plain[index]) for index in range(len(plain))), name)
    return training_rows(rows) if for_training else rows


class ParsedStream(torch.utils.data.IterableDataset):
    """The rows of a stream, converted to the schema.

    Args:
        stream: An iterable dataset from `datasets` or torch.
        name: Name for error messages.
        for_training: Leave out rows that cannot be trained on.
    """

    def __init__(self, stream: Any, name: str, for_training: bool = False):
        self.stream, self.name, self.for_training = stream, name, for_training

    def __iter__(self) -> Iterator[dict]:
        for index, raw in enumerate(self.stream):
            row = parse_row(raw, f"{self.name}, row {index}")
            if not self.for_training or trainable(row):
                yield row

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch to the stream, which shuffles in another order in each epoch."""
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)


def _text_features(given: str | TextFeatures | Callable | None, config: Any) -> Any:
    if given is not None and not isinstance(given, str | Path):
        return given
    if config is not None and config.text_encoder:
        return TextFeatures.from_spec(text_features_of(config, given and str(given)))
    return TextFeatures.from_spec(str(given or DEFAULT_TEXT_FEATURES))


def _video_features(
    given: str | Sequence[str] | Mapping, splits: Mapping[str, Dataset], clip_length: float | None
) -> Any:
    if isinstance(given, str | Path):
        given = [str(given)]
    if not isinstance(given, list | tuple):
        return given
    specs = list(map(str, given))
    if clip_length is None:
        rows = [row for split in splits.values() for row in split]
        clip_length = FeatureStore.from_specs(specs, rows=rows).clip_length or QDDetrConfig.clip_length
    return video_store(DataArguments(video_features=specs), splits, clip_length)
