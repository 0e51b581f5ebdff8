"""The `shine-hf` command. One file per sub-command; only the chosen one is imported, so `--help` stays fast.

A sub-command module `shine_hf/cli/NAME.py` defines `add_arguments(parser)` and `main(args) -> int | None`.
"""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    "train": "train a model from a recipe (the same as `python train.py`)",
    "evaluate": "score a submission file, or a model on the test splits",
    "predict": "find moments for queries, from features or a video file",
    "negatives": "tag, mask, generate, validate and export hard negatives",
    "convert": "convert original Moment-DETR, QD-DETR and SHINE checkpoints",
}


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command. Errors that a user can mend are printed in one line; the exit status is then 2."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="shine-hf", description="SHINE: video moment retrieval with hard negatives.")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == chosen:
            module = importlib.import_module(f"shine_hf.cli.{name}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.main)
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, KeyError, OSError, ImportError) as error:
        print(f"shine-hf {args.command}: error: {error}", file=sys.stderr)
        return 2
