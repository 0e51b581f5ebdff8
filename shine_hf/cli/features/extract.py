"""`shine-hf features extract`: compute the features of a folder of videos."""

from __future__ import annotations

import argparse
from math import inf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--videos", required=True, metavar="DIR", help="folder of video files, including subfolders")
    parser.add_argument(
        "--encoder",
        required=True,
        metavar="SPEC",
        help="pixels:[size=…,frames=…], clip:[MODEL][,frames=…], auto:MODEL[,frames=…] for any image or video model of transformers, or "
        "slowfast:FILE; the features of encoders joined by + are concatenated",
    )
    parser.add_argument("--clip-length", type=float, required=True, metavar="SECONDS", help="seconds per clip")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for one .npz per video, ready for training"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="number of decoding processes per encoding process; with 0, the encoding process decodes",
    )


def main(args: argparse.Namespace) -> int:
    """Extract the features. Return 1 if some videos cannot be read."""
    from accelerate import PartialState

    from ...encoders.extract import extract_features
    from ...encoders.folders import find_videos

    if not 0 < args.clip_length < inf or args.workers < 0:
        raise ValueError(
            f"--clip-length must be positive and --workers not negative; got {args.clip_length} and {args.workers}"
        )
    videos = find_videos(args.videos)
    unreadable = extract_features(videos, args.output, args.encoder, args.clip_length, args.workers)
    state = PartialState()
    if state.is_main_process:
        print(f"{args.output}: features of {len(videos) - len(unreadable):,} of {len(videos):,} videos")
        for _, reason in unreadable:
            print(f"not read: {reason}")
    if state.num_processes > 1:
        # Without this, a process that exits while another is still connected may be aborted.
        state.destroy_process_group()
    # Only in the main process: the launcher would report a failure of any other process as a crash.
    return 1 if unreadable and state.is_main_process else 0
