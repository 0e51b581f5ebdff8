"""`shine-hf features`: extract features from videos, pack feature files into the published form, and check features."""

from __future__ import annotations

import argparse

EXAMPLES = (
    "shine-hf features extract --videos VIDEOS --encoder clip:openai/clip-vit-base-patch32 --clip-length 1 --output FEATURES",
    "shine-hf features check --features npz:FEATURES --dataset charades_cg --data-dir DATA",
    "shine-hf features pack --features npz:FEATURES --output PACKED --half-precision",
)
SUMMARIES = {
    "extract": "encode a folder of videos; resumes; `accelerate launch --no_python shine-hf features extract …` shares the work",
    "pack": "write features of any format into a packed, memory-mapped folder",
    "check": "read all features of a store and report what is wrong or missing",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in SUMMARIES.items():
        action = actions.add_parser(name, help=summary, description=summary)
        if name == "extract":
            _add_extract_arguments(action)
            continue
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
    return {"extract": _extract, "pack": _pack, "check": _check}[args.action](args)


def _add_extract_arguments(action: argparse.ArgumentParser) -> None:
    action.add_argument("--videos", required=True, metavar="DIR", help="folder of video files, searched to any depth")
    action.add_argument(
        "--encoder",
        required=True,
        metavar="SPEC",
        help="pixels:[size=…,frames=…], clip:MODEL[,frames=…], or auto:MODEL[,frames=…] for any video model of transformers",
    )
    action.add_argument("--clip-length", type=float, required=True, metavar="SECONDS", help="seconds per clip")
    action.add_argument("--output", required=True, metavar="DIR", help="one .npz per video; train with npz:DIR")
    action.add_argument("--workers", type=int, default=1, help="threads per process (default: %(default)s)")


def _extract(args: argparse.Namespace) -> int:
    """Returns 1 where videos could not be read."""
    from accelerate import PartialState

    from ..encoders.extract import extract_features, find_videos

    if args.clip_length <= 0 or args.workers < 1:
        raise ValueError(f"--clip-length and --workers must be positive; got {args.clip_length} and {args.workers}")
    videos = find_videos(args.videos)
    unreadable = extract_features(videos, args.output, args.encoder, args.clip_length, args.workers)
    state = PartialState()
    if state.is_main_process:
        print(f"{args.output}: features of {len(videos) - len(unreadable):,} of {len(videos):,} videos")
        for _, reason in unreadable:
            print(f"not read: {reason}")
    if state.num_processes > 1:
        # A process that leaves while the other still holds the connection may be aborted at its very end.
        state.destroy_process_group()
    # One process is enough to say so: the launcher takes any other that fails for a crash.
    return 1 if unreadable and state.is_main_process else 0


def _pack(args: argparse.Namespace) -> int:
    from ..features.base import FeatureStore
    from ..features.packed import pack_features

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

    from ..features.base import FeatureStore
    from ..features.packed import PackedFeatures

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
