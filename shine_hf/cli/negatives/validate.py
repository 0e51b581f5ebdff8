"""`shine-hf negatives validate`: check negatives with named rules."""

from __future__ import annotations

import argparse

from .inputs import Data, add_checks, add_data, add_negatives, add_output, prepare, read_tagger

EXAMPLES = (
    "shine-hf negatives validate --dataset charades_cg --data-dir DATA --negatives gpt-3.5-turbo --output checked.parquet",
    "shine-hf negatives validate --dataset mine.jsonl --negatives lexical.parquet --checks original_word,near_synonym",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data(parser)
    add_negatives(parser)
    add_checks(parser)
    add_output(parser, required=False)


def main(args: argparse.Namespace) -> int:
    """Check the negatives, print the counts, and write the flags if an output is given."""
    from ...io import write_rows
    from ...negatives.validation import validate_dataset

    data, tagger = Data(args, args.negatives).require_negatives(), read_tagger(args)
    _, _, validator = prepare(args, data, tagger)
    checked, summary = validate_dataset(data.rows, validator, tagger)
    print(summary)
    print(data.contact_report())
    if args.output:
        columns = ["qid", "query", "masked_queries", "negative_queries", "negative_flags"]
        write_rows(checked.select_columns(columns), args.output)
        print(f"{len(checked):,} rows: {args.output}")
    return 0
