"""`shine-hf features pack`: convert features of any layout to the form in which they are published."""

from __future__ import annotations

import argparse

from .annotations import add_dataset, add_features, read_splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_features(parser)
    add_dataset(parser, "only their videos are packed, and those without features are reported")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--half-precision", action="store_true", help="store float16: half the size")
    parser.add_argument(
        "--allow-missing", action="store_true", help="skip videos without features instead of stopping with an error"
    )
    parser.add_argument(
        "--shard-megabytes", type=int, default=512, help="maximum size of a file (default: %(default)s)"
    )


def main(args: argparse.Namespace) -> int:
    """Pack the features and print a summary."""
    from ...features.base import FeatureStore
    from ...features.packed import pack_features

    if args.shard_megabytes < 1:
        raise ValueError(f"--shard-megabytes must be at least 1; got {args.shard_megabytes}")
    splits = read_splits(args)
    summary = pack_features(
        FeatureStore.from_specs(args.features),
        args.output,
        keys=None if splits is None else {vid for rows in splits.values() for vid in rows["vid"]},
        half_precision=args.half_precision,
        allow_missing=args.allow_missing,
        shard_megabytes=args.shard_megabytes,
    )
    print(f"{args.output}: {summary.keys:,} keys, {summary.rows:,} x {summary.dim}, {summary.bytes / 1e6:,.1f} MB")
    if summary.missing:
        print(f"without features ({len(summary.missing):,}): {', '.join(summary.missing)}")
    return 0
