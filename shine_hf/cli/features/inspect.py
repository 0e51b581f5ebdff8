"""`shine-hf features inspect`: describe the features in a path or a repository on the Hub."""

from __future__ import annotations

import argparse

from .annotations import STORES, add_dataset, read_splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help=STORES.partition(". ")[0])
    add_dataset(parser, "their durations give the seconds per row")


def main(args: argparse.Namespace) -> int:
    """Print a report per path."""
    from ...features.base import FeatureStore
    from ...features.inspection import inspect_store

    rows = [row for split in (read_splits(args) or {}).values() for row in split.select_columns(["vid", "duration"])]
    durations = {row["vid"]: row["duration"] for row in rows}
    for path in args.paths:
        for facts in inspect_store(FeatureStore.from_spec(path), durations):
            width = max(map(len, facts))
            print("\n".join(f"{name + ':':<{width + 1}} {value}" for name, value in facts.items()), end="\n\n")
    return 0
