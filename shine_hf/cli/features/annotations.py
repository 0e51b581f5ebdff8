"""The options that `inspect`, `check` and `pack` share: which features, and of which annotations."""

from __future__ import annotations

import argparse

STORES = (
    "a folder, a file or a dataset repository of the Hub, whose layout is detected; i3d:, npz:, pt:, hdf5: or packed: before it forces one. "
    "Several are concatenated"
)


def add_features(parser: argparse.ArgumentParser) -> None:
    """Declare `--features`."""
    parser.add_argument("--features", required=True, nargs="+", metavar="SPEC", help=STORES)


def add_dataset(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Declare `--dataset` and `--data-dir`.

    Args:
        parser: Of the action.
        purpose: What the annotations are for.
    """
    parser.add_argument("--dataset", help=f"annotations, see `shine-hf train --help`: {purpose}")
    parser.add_argument("--data-dir", help="folder of the original annotation files")


def read_splits(args: argparse.Namespace) -> dict | None:
    """Return the splits of `--dataset`, or None where none is given."""
    if args.dataset is None:
        return None
    from ...data.loading import DataArguments, load_splits

    return load_splits(DataArguments(dataset=args.dataset, data_dir=args.data_dir, negatives="none"))
