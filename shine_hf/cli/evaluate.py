"""`shine-hf evaluate`: score a submission file as the official QVHighlights scorer does, or a model on the splits of a dataset."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

EXAMPLES = (
    "shine-hf evaluate --submission predictions.jsonl --ground-truth val.jsonl",
    "shine-hf evaluate --model OUT --dataset charades_cg --data-dir DATA --video-features I3D --output-dir OUT/evaluation",
)

MOMENT_COLUMNS = ("R1@0.3", "R1@0.5", "R1@0.7", "R5@0.5", "R5@0.7", "mIoU", "mAP@0.5", "mAP@0.75", "mAP")
HIGHLIGHT_COLUMNS = ("mAP", "Hit1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--submission",
        type=Path,
        metavar="FILE",
        help="predictions, .jsonl or .jsonl.gz: qid, pred_relevant_windows [[start, end, score], …] in seconds, best first, and for "
        "highlights pred_saliency_scores",
    )
    parser.add_argument(
        "--ground-truth",
        type=Path,
        metavar="FILE",
        help="annotations in the common jsonl format: qid, relevant_windows, and for highlights duration, relevant_clip_ids and "
        "saliency_scores",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write every figure here, laid out as in the official JSON"
    )
    parser.add_argument(
        "--model",
        nargs=argparse.REMAINDER,
        metavar="…",
        help="instead of files: a model (folder or repository) and then data options as of `shine-hf train` (--data_dir, "
        "--video_features, --negatives, --output_dir, …); moments and saliency hierarchy on every split",
    )


def main(args: argparse.Namespace) -> None:
    """Print a table and write the JSON."""
    if args.model:
        return _evaluate_model(args.model)
    if args.submission is None or args.ground_truth is None:
        raise ValueError("give --submission and --ground-truth, or --model with its data options")
    from ..io import atomic_file
    from ..metrics import evaluate_submission, official_layout, read_rows

    if args.output is not None and not args.output.parent.is_dir():
        raise FileNotFoundError(f"--output: there is no folder {args.output.parent}")
    metrics = evaluate_submission(read_rows(args.submission), read_rows(args.ground_truth))
    print(format_metrics(metrics))
    if args.output is not None:
        with atomic_file(args.output) as file:
            file.write(json.dumps(official_layout(metrics), indent=4) + "\n")


def _evaluate_model(arguments: list[str]) -> None:
    """A training run without training."""
    from ..training.recipe import parse_recipe
    from ..training.run import run_recipe

    run_recipe(parse_recipe(["--model", *arguments, "--do_train", "false", "--report_to", "none"]))


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Tables of the moments (all of them, then by length) and of the highlights, as far as there are any."""
    tables = [
        _table("moments", "MR-", ("full", "short", "middle", "long"), MOMENT_COLUMNS, metrics),
        _table("highlights", "HL-min-", ("Fair", "Good", "VeryGood"), HIGHLIGHT_COLUMNS, metrics),
    ]
    return "\n\n".join(filter(None, tables))


def _table(title: str, prefix: str, rows: tuple[str, ...], columns: tuple[str, ...], metrics: Mapping) -> str:
    lines = [f"{title:<10}" + "".join(f"{column:>9}" for column in columns)]
    for row in rows:
        if f"{prefix}{row}-{columns[0]}" in metrics:
            lines.append(f"{row:<10}" + "".join(f"{metrics[f'{prefix}{row}-{column}']:9.2f}" for column in columns))
    return "\n".join(lines) if len(lines) > 1 else ""
