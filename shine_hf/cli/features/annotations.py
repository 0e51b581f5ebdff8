"""The options for features and annotations that `inspect`, `check` and `pack` share."""

from __future__ import annotations

import argparse

STORES = (
    "a folder, a file or a dataset repository on the Hub, whose layout is detected; prefix npy:, npz:, pt:, hdf5: or packed: to force one. "
    "Several are concatenated"
)


def add_features(parser: argparse.ArgumentParser) -> None:
    """Declare `--features`."""
    parser.add_argument("--features", required=True, nargs="+", metavar="SPEC", help=STORES)


def add_dataset(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Declare `--dataset` and `--data-dir`.

    Args:
        parser: The parser of the action.
        purpose: What the action uses the annotations for.
    """
    parser.add_argument("--dataset", help=f"annotations, see `shine-hf train --help`; {purpose}")
    parser.add_argument("--data-dir", help="folder with the original annotation files")


def read_splits(args: argparse.Namespace) -> dict | None:
    """Read the splits of `--dataset`; return None without it."""
    if args.dataset is None:
        return None
    from ...data.arguments import DataArguments
    from ...data.loading import load_splits

    return load_splits(DataArguments(dataset=args.dataset, data_dir=args.data_dir, negatives="none"))
