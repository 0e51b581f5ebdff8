"""`shine-hf negatives stats`: print statistics and samples of negatives, and plot them."""

from __future__ import annotations

import argparse
from pathlib import Path

from .inputs import Data, add_data, add_negatives, read_tagger

EXAMPLES = (
    "shine-hf negatives stats --dataset charades_cg --data-dir DATA --negatives gpt-3.5-turbo --figure changes.png",
    "shine-hf negatives stats --dataset charades_cg --data-dir DATA --negatives lexical.parquet --sample 10 --compare gpt-3.5-turbo",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_data(parser)
    add_negatives(parser)
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="print a sample of N rows")
    parser.add_argument(
        "--compare", metavar="SOURCE|FILE", help="also print these negatives for each row of the sample"
    )
    parser.add_argument("--figure", type=Path, metavar="FILE", help="plot the share of changed words at each level")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the sample (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Print the statistics."""
    from ...negatives.statistics import describe_negatives, plot_changes, sample_negatives

    data, tagger = Data(args, args.negatives).require_negatives(), read_tagger(args)
    rows = data.rows.to_list()
    statistics = describe_negatives(rows, tagger.tag(row["query"] for row in rows))
    print(statistics)
    print(data.contact_report())
    if args.figure:
        plot_changes(statistics, args.figure)
        print(f"figure: {args.figure}")
    if args.sample:
        others = Data(args, args.compare).rows if args.compare else ()
        print(sample_negatives(rows, args.sample, seed=args.seed, others=others, name=args.compare or ""))
    return 0
