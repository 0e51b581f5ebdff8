"""One training run: load the data, build the model, train, evaluate every split, save."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from transformers import AutoModel, set_seed

from ..cards.facts import describe_data, public_settings
from ..data.arguments import DataArguments
from ..data.collator import DataCollatorForMomentRetrieval
from ..data.loading import load_splits
from ..data.selection import has_answers, split_validation, training_rows
from ..data.stores import DEFAULT_TEXT_FEATURES, text_features_of, text_source, video_store
from ..features.grid import require_matching_grids
from ..inference.features import as_submission, predict_from_features
from ..io import atomic_file
from ..modeling import MomentRetrievalProcessor
from ..schema import VALIDATION, canonical_split
from .checkpoints import checkpoint_to_resume
from .memory import keep_freed_memory
from .model_card_callback import ModelCardCallback
from .recipe import Recipe
from .setup import CONFIGS, new_model
from .stop_on_signal import TrainingStopped
from .trainer import ShineTrainer

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["TrainingStopped", "build_trainer", "format_results", "run_recipe"]

logger = logging.getLogger(__name__)

HEADLINE_METRICS = ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU")


def run_recipe(recipe: Recipe) -> dict[str, dict[str, float]]:
    """Train and evaluate as the recipe specifies, and write everything to `output_dir`.

    Returns:
        Split name -> metrics, which are also written to `output_dir/all_results.json`.

    Raises:
        TrainingStopped: after a signal during training, with the step saved in a checkpoint.
        ConnectionError: with `push_to_hub`, if the final push fails. All results are in `output_dir`.
    """
    args = recipe.training
    set_seed(args.seed)
    if args.do_train and args.device.type == "cpu":
        if args.keep_freed_memory:
            keep_freed_memory()
        if args.bf16 and torch.backends.cpu.get_cpu_capability() == "AVX2":
            logger.warning("--bf16: this CPU has no AVX-512, so bfloat16 is several times slower than float32")
    trainer, splits = build_trainer(recipe)

    if args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint_to_resume(args))
        trainer.save_metrics("train", result.metrics)
        trainer.save_model()
        trainer.save_state()

    results, predictions = {}, {}
    for name in evaluated_splits(splits, recipe.data.eval_splits):
        rows = splits[name]
        if not has_answers(rows):
            predictions[name] = _write_predictions(trainer, name, rows)
            continue
        metrics = trainer.evaluate(rows, metric_key_prefix=name)
        if args.save_query_results:
            trainer.save_query_results(name, rows)
        trainer.save_metrics(name, metrics)
        results[name] = {key.removeprefix(f"{name}_"): value for key, value in metrics.items()}
    if trainer.is_world_process_zero():
        if results:
            print(format_results(results, simulated=recipe.data.is_simulated))
        for name, path in predictions.items():
            print(f"{name} has no windows, so it is not scored; its predictions are in {path}")
    if args.do_train:
        # Push after the evaluation, so that the card has the results on the test splits.
        trainer.push_to_hub() if args.push_to_hub else trainer.create_model_card()
    return results


def build_trainer(recipe: Recipe) -> tuple[ShineTrainer, dict]:
    """Build the trainer of a recipe. Also return the splits: `train` without the validation rows, `validation`, and the test splits."""
    args, data = recipe.training, recipe.data
    config_overrides = recipe.config_overrides()
    is_new = recipe.model.model in CONFIGS
    if is_new:
        text_features = data.text_features or DEFAULT_TEXT_FEATURES
    else:
        model = AutoModel.from_pretrained(recipe.model.model, **config_overrides)
        text_features = text_features_of(model.config, data.text_features)
    data = dataclasses.replace(data, text_features=text_features)
    all_splits = load_splits(data)
    splits = _with_validation(all_splits, data, args.do_train)
    evaluated = evaluated_splits(splits, data.eval_splits)

    texts = text_source(data)
    if is_new:
        config_class = CONFIGS[recipe.model.model]
        clip_length = config_overrides.get("clip_length", config_class.clip_length)
        videos = video_store(data, all_splits, clip_length)
        model = new_model(recipe.model.model, videos, texts, **config_overrides)
    else:
        model.config.text_encoder = texts.public_spec
        videos = video_store(data, all_splits, model.config.clip_length)
    used = {
        name: rows
        for name, rows in splits.items()
        if (args.do_train if name == "train" else name == VALIDATION or name in evaluated)
    }
    require_matching_grids(videos, used, model.config.clip_length, model.config.max_video_length)
    processor = MomentRetrievalProcessor.from_config(model.config)
    # One level for each margin of the fine loss, without the irrelevant query's.
    evaluated_levels = max(data.num_levels, len(args.fine_margins) - 1)
    for name in sorted({"train", *used} & splits.keys()):
        levels = evaluated_levels if name != "train" else data.num_levels if args.needs_hard_negatives else 0
        rows = splits[name].select_columns(["qid", "vid", "query", "negative_queries"])
        texts.prepare(rows, levels, progress=not args.disable_tqdm)

    collator = DataCollatorForMomentRetrieval(
        processor,
        videos,
        texts,
        query_pool=splits.get("train") or next(iter(splits.values())),
        num_levels=data.num_levels,
        evaluated_levels=evaluated_levels,
        skip_flagged=data.skip_flagged,
        doubtful_weight=data.doubtful_weight,
        weigh_changed_words=data.weigh_changed_words,
        irrelevant=data.irrelevant,  # type: ignore[arg-type]  # A field of HfArgumentParser; the collator checks it.
        soft_boundary_seconds=data.soft_boundary_seconds,
        draw_margin_pairs=data.margin_pairs,
        seed=args.data_seed if args.data_seed is not None else args.seed,
        hard_negatives=args.needs_hard_negatives,
    )
    watched = {
        name
        for name, rows in splits.items()
        if name != "train" and (name == VALIDATION or data.eval_during_training == "all") and has_answers(rows)
    }
    if args.metric_for_best_model and VALIDATION not in args.metric_for_best_model:
        logger.warning("the model is selected on %s, which is not the validation split", args.metric_for_best_model)
    trainer = ShineTrainer(
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=splits.get("train"),
        eval_dataset={name: rows for name, rows in splits.items() if name in watched},
        processing_class=processor,
        card=ModelCardCallback(
            lambda: describe_data(data, splits),
            settings={"data": _data_settings(data)},
            base_model=None if is_new or os.path.isdir(recipe.model.model) else recipe.model.model,
        ),
    )
    return trainer, splits


def evaluated_splits(splits: Mapping[str, Dataset], asked: Sequence[str] | None) -> list[str]:
    """Return the names of the splits to evaluate at the end: the requested ones, by default all except `train`.

    Raises:
        ValueError: for an unknown split. Lists the known ones.
    """
    names = [name for name in splits if name != "train"]
    if asked is None:
        return names
    asked = [canonical_split(name) for name in asked]
    if unknown := [name for name in asked if name not in names]:
        raise ValueError(f"--eval_splits: no split {', '.join(unknown)}; available: {', '.join(names) or 'none'}")
    return [name for name in names if name in asked]


def _with_validation(splits: Mapping[str, Dataset], data: DataArguments, do_train: bool) -> dict[str, Dataset]:
    """Return the splits, with only trainable rows in `train` and a `validation` split: the given one, or a share of the training videos."""
    if "train" not in splits:
        if do_train:
            raise ValueError(
                f"{data.dataset} has no split train to train on, only {', '.join(splits)}: name the files with --dataset "
                "train=FILE,test=FILE, or add a column `split`"
            )
        return dict(splits)
    train, validation = training_rows(splits["train"]), splits.get(VALIDATION)
    if validation is None:
        train, validation = split_validation(train, data.validation_fraction, data.validation_seed)
    elif do_train and not has_answers(validation):
        raise ValueError(
            "the validation split has no windows, so no model can be selected on it. To predict it, give it another name; then a share "
            "of the training videos is held out for validation"
        )
    if data.max_train_samples is not None:
        train = train.select(range(min(len(train), data.max_train_samples)))
    if data.max_eval_samples is not None:
        validation = validation.select(range(min(len(validation), data.max_eval_samples)))
    return {**splits, "train": train, VALIDATION: validation}


def _write_predictions(trainer: ShineTrainer, split: str, rows: Dataset) -> str:
    """Write the moments of a split without answers to `output_dir/predictions/{split}.jsonl`, in the submission format."""
    collator, args = trainer.data_collator, trainer.args
    # Every process predicts all rows, since a sharded model needs all processes.
    results = predict_from_features(
        trainer.accelerator.unwrap_model(trainer.model),
        trainer.processing_class,
        rows,
        collator.video_features,
        collator.text_features,
        batch_size=args.per_device_eval_batch_size,
        progress=not args.disable_tqdm and trainer.is_world_process_zero(),
        nms_threshold=args.nms_threshold,
        round_to_clip_length=args.round_to_clip_length,
    )
    lines = [json.dumps(as_submission(result)) + "\n" for result in results]
    path = os.path.join(args.output_dir, "predictions", f"{split}.jsonl")
    if trainer.is_world_process_zero():
        with atomic_file(path) as file:
            file.writelines(lines)
    return path


def _data_settings(data) -> dict[str, object]:
    """Return the data settings that differ from the defaults, except the ones that the card describes in words."""
    in_words = (
        "dataset",
        "data_dir",
        "negatives",
        "video_features",
        "text_features",
        "eval_splits",
        "eval_during_training",
    )
    settings = {name: value for name, value in vars(data).items() if name not in in_words}
    return public_settings(settings, {f.name: f.default for f in dataclasses.fields(data)})


def format_results(results: dict[str, dict[str, float]], simulated: bool = False) -> str:
    """Format two tables with a row per split: moments, and the saliency order. Results on simulated features are marked as such."""
    links = [
        key for metrics in results.values() for key in metrics if ">" in key and not key.endswith(("_low", "_high"))
    ]
    tables = [_table(results, HEADLINE_METRICS)]
    if links:
        tables.append(_table(results, [*dict.fromkeys(links), "chain"]))
    if simulated:
        tables.append("(simulated features: planted from the annotations, not comparable with real ones)")
    return "\n\n".join(tables)


def _table(results, columns) -> str:
    first = max([len(name) for name in results] + [len("split")])
    widths = [max(7, len(column)) for column in columns]
    lines = [f"{'split':<{first}}  " + "  ".join(f"{column:>{width}}" for column, width in zip(columns, widths))]
    for name, metrics in results.items():
        cells = (
            f"{metrics[key]:{width}.2f}" if key in metrics else " " * width for key, width in zip(columns, widths)
        )
        lines.append(f"{name:<{first}}  " + "  ".join(cells))
    return "\n".join(lines)
