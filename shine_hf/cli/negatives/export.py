"""`shine-hf negatives export`: write complete rows with negatives and provenance columns."""

from __future__ import annotations

import argparse
from pathlib import Path

from .inputs import Data, add_data, add_negatives, add_output

EXAMPLES = (
    "shine-hf negatives export --dataset mine.jsonl --negatives gpt.parquet --cache answers.sqlite --output complete.parquet",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data(parser)
    add_negatives(parser)
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FILE.sqlite",
        help="cache of the language model's answers, to add model versions, dates and token counts",
    )
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    """Write the rows."""
    from ...io import write_rows
    from ...negatives.export import with_answers, with_provenance

    dataset = Data(args, args.negatives).require_negatives().rows
    dataset = with_provenance(dataset, args.negatives or args.dataset)
    if args.cache:
        dataset = with_answers(dataset, args.cache)
    write_rows(dataset, args.output)
    print(f"{len(dataset):,} rows with {', '.join(dataset.column_names)}: {args.output}")
    return 0
