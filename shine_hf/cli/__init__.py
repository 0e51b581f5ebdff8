"""The `shine-hf` command, with one file or folder per subcommand. Only the chosen one is imported, so `--help` stays fast.

A subcommand module `shine_hf/cli/NAME` defines `add_arguments(parser)`, `main(args) -> int | None` and `EXAMPLES`, the command lines
at the end of its help. A module without `add_arguments` has its own parser: its `main` gets the rest of the command line.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from ..version import __version__
from .parser import CommandParser

COMMANDS = {
    "train": "train a model from a recipe (the same as `python train.py`)",
    "evaluate": "score a submission file, or a model on the splits of a dataset",
    "predict": "find moments for queries, from features or a video",
    "negatives": "tag, mask, generate, validate and export hard negatives",
    "data": "list known datasets, and convert annotations",
    "features": "extract, inspect, check and pack features",
    "publish": "publish datasets, features and models on the Hub",
    "convert": "convert original Moment-DETR, QD-DETR and SHINE checkpoints",
    "reproduce": "reproduce the paper's numbers from the files that its authors released",
    "demo": "render videos, train on them, evaluate and predict, all on this machine",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand. An error that the user can fix is printed in one line, with exit status 2."""
    _limit_thread_spinning()
    argv = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    module = importlib.import_module(f"shine_hf.cli.{chosen}") if chosen in COMMANDS else None
    try:
        if module is not None and not hasattr(module, "add_arguments"):
            return module.main(argv[argv.index(chosen) + 1 :]) or 0
        args = make_parser(chosen, module).parse_args(argv)
        assert module is not None  # Otherwise, the parser has ended the program.
        return module.main(args) or 0
    except (ValueError, KeyError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        # `str` of a KeyError puts its message in quotes.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"shine-hf {chosen}: error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"shine-hf {chosen}: interrupted", file=sys.stderr)
        return 130


def _limit_thread_spinning() -> None:
    """Limit how long waiting threads spin on their core, unless the user has set this. torch reads the settings when it is imported.

    By default, they spin for milliseconds and block each other's cores as soon as anything else runs: next to one busy process, a training
    step on two cores took 30 times as long. Spinning for less than a millisecond costs nothing on an idle machine; not spinning at all costs
    a third. The trainer detects when fewer threads are faster.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "30000"}


def make_parser(chosen: str | None = None, module: ModuleType | None = None) -> CommandParser:
    """Return the parser of all commands. Only the chosen one declares its options."""
    parser = CommandParser(prog="shine-hf", description="SHINE: video moment retrieval with hard negatives.")
    parser.add_argument("--version", action="version", version=f"shine-hf {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        examples = getattr(module, "EXAMPLES", ()) if name == chosen else ()
        subparser = subparsers.add_parser(name, help=summary, description=summary, examples=examples)
        if name == chosen and module is not None:
            module.add_arguments(subparser)
    return parser
