"""The `shine-hf` command. One file per sub-command; only the chosen one is imported, so `--help` stays fast.

A sub-command module `shine_hf/cli/NAME.py` defines `add_arguments(parser)` and `main(args) -> int | None`; one without
`add_arguments` has a parser of its own, and its `main` takes the rest of the command line.
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
    "features": "extract, pack and check features",
    "publish": "publish datasets, features and models on the Hub",
    "convert": "convert original Moment-DETR, QD-DETR and SHINE checkpoints",
    "demo": "render videos, train on them, evaluate and predict, all on this machine",
}


def main(argv: list[str] | None = None) -> int:
    """Run one sub-command. Errors that a user can mend are printed in one line; the exit status is then 2."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="shine-hf", description="SHINE: video moment retrieval with hard negatives.")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    module = importlib.import_module(f"shine_hf.cli.{chosen}") if chosen in COMMANDS else None
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == chosen and hasattr(module, "add_arguments"):
            module.add_arguments(subparser)
    try:
        if module is not None and not hasattr(module, "add_arguments"):
            return module.main(argv[argv.index(chosen) + 1 :]) or 0
        args = parser.parse_args(argv)
        return module.main(args) or 0
    except (ValueError, KeyError, OSError, ImportError, FloatingPointError) as error:
        # The text of a KeyError is its key in quotes; everything else speaks for itself.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"shine-hf {chosen}: error: {text}", file=sys.stderr)
        return 2
