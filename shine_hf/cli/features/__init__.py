"""`shine-hf features`, with one module per action."""

from __future__ import annotations

import argparse
import importlib

EXAMPLES = (
    "shine-hf features extract --videos VIDEOS --encoder clip:openai/clip-vit-base-patch32 --clip-length 1 --output FEATURES",
    "shine-hf features inspect FEATURES",
    "shine-hf features check --features FEATURES --dataset charades_cg --data-dir DATA",
    "shine-hf features pack --features FEATURES --output PACKED --half-precision",
)
SUMMARIES = {
    "extract": "encode a folder of videos, or resume an interrupted run; use several GPUs with `accelerate launch --no_python shine-hf features extract …`",
    "inspect": "describe the features in a path or a dataset repository on the Hub: layout, keys, width, type, seconds per row",
    "check": "read all features of a store, compare them with annotations, and report what is wrong or missing",
    "pack": "convert features of any layout to a packed, memory-mapped folder",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in SUMMARIES.items():
        _module(name).add_arguments(actions.add_parser(name, help=summary, description=summary))


def main(args: argparse.Namespace) -> int:
    """Run one action and return the exit status. It is 1 if `check` finds errors or `extract` cannot read some videos."""
    return _module(args.action).main(args)


def _module(action: str):
    return importlib.import_module(f"{__name__}.{action}")
