"""`shine-hf features`: pack feature files into the published form, and check features."""

from __future__ import annotations

import argparse

SUMMARIES = {
    "pack": "write features of any format into a packed, memory-mapped folder",
    "check": "read all features of a store and report what is wrong or missing",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in SUMMARIES.items():
        action = actions.add_parser(name, help=summary, description=summary)
        action.add_argument(
            "--features",
            required=True,
            nargs="+",
            metavar="SPEC",
            help="i3d:DIR, npz:DIR, hdf5:FILE or packed:DIR_OR_HUB_NAME; several are concatenated",
        )
        action.add_argument(
            "--dataset", help="take the videos of these annotations only, and name those without features"
        )
        action.add_argument("--data-dir", help="folder of the original annotation files, see `shine-hf train --help`")
        if name == "pack":
            action.add_argument("--output", required=True, metavar="DIR", help="a new folder")
            action.add_argument("--half-precision", action="store_true", help="store float16: half the size")
            action.add_argument("--allow-missing", action="store_true", help="pack what there is")
            action.add_argument(
                "--shard-megabytes", type=int, default=512, help="size of one file (default: %(default)s)"
            )


def main(args: argparse.Namespace) -> int:
    """Run one sub-command; `check` returns 1 where something is wrong."""
    return {"pack": _pack, "check": _check}[args.action](args)


def _pack(args: argparse.Namespace) -> int:
    from ..data.feature_store import FeatureStore
    from ..data.packed_features import pack_features

    if args.shard_megabytes < 1:
        raise ValueError(f"--shard-megabytes must be at least 1; got {args.shard_megabytes}")
    summary = pack_features(
        FeatureStore.from_specs(args.features),
        args.output,
        keys=_videos(args),
        half_precision=args.half_precision,
        allow_missing=args.allow_missing,
        shard_megabytes=args.shard_megabytes,
    )
    print(f"{args.output}: {summary.keys:,} keys, {summary.rows:,} x {summary.dim}, {summary.bytes / 1e6:,.1f} MB")
    if summary.missing:
        print(f"without features ({len(summary.missing):,}): {', '.join(summary.missing)}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from ..data.feature_store import FeatureStore
    from ..data.packed_features import PackedFeatures

    store, faults = FeatureStore.from_specs(args.features), []
    if isinstance(store, PackedFeatures):
        store.verify()
    videos = _videos(args)
    keys = sorted(store.keys() if videos is None else videos)
    for key in tqdm(keys, desc="features", unit="key"):
        try:
            store[key]
        except (KeyError, ValueError) as error:
            faults.append(error.args[0])
    print(f"{store.spec}: {len(keys):,} keys, {len(faults):,} faults", *faults, sep="\n")
    return 1 if faults else 0


def _videos(args: argparse.Namespace) -> set[str] | None:
    """The videos of the annotations, or None for all that the store has."""
    if args.dataset is None:
        return None
    from ..data.loading import DataArguments, load_splits

    splits = load_splits(
        DataArguments(dataset=args.dataset, data_dir=args.data_dir, negatives="none" if args.data_dir else None)
    )
    return {vid for rows in splits.values() for vid in rows["vid"]}
