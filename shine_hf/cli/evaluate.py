"""`shine-hf evaluate`: score a submission file as the official QVHighlights scorer does, or a model on the splits of a dataset."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .parser import CommandParser

EXAMPLES = (
    "shine-hf evaluate --submission predictions.jsonl --ground-truth val.jsonl",
    "shine-hf evaluate --model OUT --dataset charades_cg --data-dir DATA --video-features I3D --output-dir OUT/evaluation",
)

MOMENT_COLUMNS = ("R1@0.3", "R1@0.5", "R1@0.7", "R5@0.5", "R5@0.7", "mIoU", "mAP@0.5", "mAP@0.75", "mAP")
HIGHLIGHT_COLUMNS = ("mAP", "Hit1")


def make_parser() -> CommandParser:
    """Return the parser of all options except the data options."""
    parser = CommandParser(
        prog="shine-hf evaluate",
        description="Score a submission file, or a model on the splits of a dataset. With --model, the data options are those of `shine-hf "
        "train`: --dataset, --data-dir, --video-features, --text-features, --negatives, --eval-splits, …",
        examples=EXAMPLES,
    )
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
    parser.add_argument("--model", help="folder or repository of a trained model to evaluate, instead of files")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write all metrics to this file; for a submission, as the official JSON",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="with --model: folder for metrics, predictions and query results (default: they are not kept)",
    )
    return parser


def main(argv: Sequence[str]) -> None:
    """Print a table and write the JSON."""
    parser = make_parser()
    args, data_options = parser.parse_known_args(argv)
    if args.model is None and data_options:
        parser.error(f"unrecognized arguments: {' '.join(data_options)}")
    if args.output is not None and not args.output.parent.is_dir():
        raise FileNotFoundError(f"--output: there is no folder {args.output.parent}")
    if args.model is not None:
        figures = _evaluate_model(args.model, args.output_dir, data_options)
    elif args.submission is None or args.ground_truth is None:
        raise ValueError("pass --submission and --ground-truth, or --model with its data options")
    else:
        figures = _evaluate_submission(args.submission, args.ground_truth)
    if args.output is not None:
        from ..io import atomic_file

        with atomic_file(args.output) as file:
            file.write(json.dumps(figures, indent=4) + "\n")


def _evaluate_submission(submission: Path, ground_truth: Path) -> dict:
    from ..metrics import evaluate_submission, official_layout, read_rows

    metrics = evaluate_submission(read_rows(submission), read_rows(ground_truth))
    print(format_metrics(metrics))
    return official_layout(metrics)


def _evaluate_model(model: str, output_dir: Path | None, data_options: Sequence[str]) -> dict:
    """Evaluate a model with a recipe that skips training."""
    from ..training.recipe import parse_recipe
    from ..training.run import run_recipe

    with tempfile.TemporaryDirectory() if output_dir is None else contextlib.nullcontext(output_dir) as folder:
        fixed = {"model": model, "output_dir": folder, "do_train": "false", "report_to": "none"}
        results = run_recipe(parse_recipe([*data_options, *(f"--{name}={value}" for name, value in fixed.items())]))
        if output_dir is None and (Path(folder) / "predictions").exists():
            print("(predictions were not kept: pass --output-dir to keep them)")
    return results


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Return tables of the metrics of moments (all, then by length) and of highlights, if there are any."""
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
