"""`shine-hf data`: list the known datasets, and convert annotations in any supported format to the columns of this library."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = (
    "shine-hf data list",
    "shine-hf data convert --dataset charades_sta --data-dir DATA --output-dir converted",
    "shine-hf data convert --dataset train=train.json,test=val_2.json --output-dir converted --format parquet",
)
SUMMARIES = {
    "list": "list the known datasets, the names of their files, and where they are published",
    "convert": "read annotations in any supported format, check them, and write one file per split",
}
FORMATS = ("jsonl", "parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in SUMMARIES.items():
        action = actions.add_parser(name, help=summary, description=f"{summary[:1].upper()}{summary[1:]}.")
        if name == "convert":
            action.add_argument(
                "--dataset",
                required=True,
                help="a known name, a file with a `split` column, one file per split as SPLIT=FILE,…, a folder, or a Hub name; files may "
                "be JSON lines, JSON, CSV, Parquet, Charades-STA text, ActivityNet Captions, TACoS or DiDeMo JSON",
            )
            action.add_argument("--data-dir", metavar="DIR", help="folder with the original files of a known dataset")
            action.add_argument(
                "--negatives",
                default="none",
                help="source of negatives to add, see `shine-hf train` (default: %(default)s)",
            )
            action.add_argument(
                "--output-dir", required=True, metavar="DIR", help="folder for SPLIT.jsonl or SPLIT.parquet"
            )
            action.add_argument("--format", choices=FORMATS, default="jsonl", help="format of the files")


def main(args: argparse.Namespace) -> None:
    """Run one action."""
    {"list": _list, "convert": _convert}[args.action](args)


def _list(args: argparse.Namespace) -> None:
    from ..data.datasets import DATASETS

    for spec in DATASETS.values():
        print(f"{spec.name}: {spec.title}. {spec.description}")
        for split, names in spec.files.items():
            count = f"{spec.queries[split]:,} queries" if split in spec.queries else ""
            print(f"  {split:<18} {count:<15} {', '.join(names)}")
        print(f"  annotations: {spec.source} (license: {spec.license}); videos: {spec.videos}\n")


def _convert(args: argparse.Namespace) -> None:
    from ..data.arguments import DataArguments
    from ..data.loading import load_splits
    from ..data.writing import write_splits

    splits = load_splits(DataArguments(dataset=args.dataset, data_dir=args.data_dir, negatives=args.negatives))
    for split, path in write_splits(splits, Path(args.output_dir), args.format).items():
        rows = splits[split]
        flagged = sum(map(bool, rows["annotation_flags"]))
        odd = f", {flagged:,} with odd windows (annotation_flags)" if flagged else ""
        print(f"{path}: {len(rows):,} queries of {len(set(rows['vid'])):,} videos{odd}")
