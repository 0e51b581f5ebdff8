"""`shine-hf negatives mask`: write the masked queries of each level."""

from __future__ import annotations

import argparse

from .inputs import Data, add_data, add_masking, add_output, read_masking, read_tagger

EXAMPLES = (
    "shine-hf negatives mask --dataset charades_cg --data-dir DATA --output masked.jsonl",
    "shine-hf negatives mask --dataset mine.jsonl --ratios 0.3,1.0 --parts-of-speech VERB,NOUN --output masked.parquet",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data(parser)
    add_masking(parser)
    add_output(parser)


def main(args: argparse.Namespace) -> int:
    """Mask the queries."""
    from ...io import write_rows
    from ...negatives.language.masking import mask_dataset

    masking, rows, tagger = read_masking(args), Data(args).rows, read_tagger(args)
    masked = mask_dataset(rows, tagger, masking)
    write_rows(masked.select_columns(["qid", "query", "masked_queries"]), args.output)
    print(f"{len(masked):,} queries masked, tagged by {tagger.provenance}: {args.output}")
    return 0
