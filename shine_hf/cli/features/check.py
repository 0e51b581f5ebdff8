"""`shine-hf features check`: check every array of a store, and compare its time grid with the annotations."""

from __future__ import annotations

import argparse

from .annotations import add_dataset, add_features, read_splits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_features(parser)
    add_dataset(parser, "only their videos are read, and compared with their durations and windows")
    parser.add_argument(
        "--clip-length", type=float, metavar="SECONDS", help="seconds per row (default: as recorded with the features)"
    )


def main(args: argparse.Namespace) -> int:
    """Check the features. Return 1 if some are missing or broken, or do not fit the annotations."""
    from ...features.base import FeatureStore
    from ...features.packed import PackedFeatures

    if args.clip_length is not None and not args.clip_length > 0:
        raise ValueError(f"--clip-length must be a positive number of seconds; got {args.clip_length}")
    store = FeatureStore.from_specs(args.features)
    if args.clip_length and store.clip_length not in (None, args.clip_length):
        raise ValueError(f"{store.spec} has rows of {store.clip_length} s, not of {args.clip_length} s")
    if isinstance(store, PackedFeatures):
        store.verify()
    splits = read_splits(args)
    videos = None if splits is None else {vid for rows in splits.values() for vid in rows["vid"]}
    keys = sorted(store.keys() if videos is None else videos)
    if not keys:
        raise FileNotFoundError(f"{store.spec} contains no features")
    broken = _read_all(store, keys)
    print(f"{store.spec}: {len(keys):,} keys, {len(broken):,} errors", *broken.values(), sep="\n")
    fits = splits is None or _compare(store, splits, args.clip_length or store.clip_length, broken)
    return 0 if fits and not broken else 1


def _read_all(store, keys: list[str]) -> dict[str, str]:
    """Return key -> error message, for the keys whose features are broken."""
    from tqdm.auto import tqdm

    broken = {}
    for key in tqdm(keys, desc="features", unit="key"):
        try:
            store[key]
        except (KeyError, ValueError) as error:
            broken[key] = error.args[0]
    return broken


def _compare(store, splits, clip_length: float | None, broken: dict[str, str]) -> bool:
    """Print how well the readable features fit each split. Return whether they fit, within the tolerated share."""
    from ...features.grid import TOLERATED_SHARE, compare_with_annotations
    from ...features.inspection import seconds_per_row

    durations = {row["vid"]: row["duration"] for rows in splits.values() for row in rows if row["vid"] not in broken}
    measured = seconds_per_row(store, durations)
    if measured is None:
        return True
    print(f"seconds per row: {measured:.3g} from the durations of the videos (median)")
    fits = True
    for name, rows in splits.items():
        readable = [row for row in rows if row["vid"] not in broken]
        for share, problem in compare_with_annotations(store, readable, clip_length or measured).problems():
            print(f"{name}: {problem}")
            fits = fits and share <= TOLERATED_SHARE
    return fits
