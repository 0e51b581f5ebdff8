"""`shine-hf negatives`, with one module per action."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from types import FrameType, ModuleType
from typing import NoReturn

EXAMPLES = (
    "shine-hf negatives mask --dataset charades_cg --data-dir DATA --output masked.jsonl",
    "shine-hf negatives generate --dataset charades_cg --data-dir DATA --generator lexical --output lexical.parquet",
    "shine-hf negatives generate --dataset mine.jsonl --generator openai_chat --model gpt-4o-mini --cache answers.sqlite --output gpt.parquet",
    "shine-hf negatives validate --dataset charades_cg --data-dir DATA --negatives gpt-3.5-turbo",
    "shine-hf negatives stats --dataset charades_cg --data-dir DATA --negatives lexical.parquet --sample 5",
)
SUMMARIES = {
    "tag": "write the tokens and parts of speech of the queries",
    "mask": "write the masked queries of each level",
    "generate": "generate and check hard negatives with any generator, or repair existing ones",
    "validate": "check negatives with named rules and write their flags",
    "export": "write complete rows with negatives and provenance columns",
    "stats": "count and sample negatives",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in SUMMARIES.items():
        module = _module(name)
        action = actions.add_parser(name, help=summary, description=summary, examples=module.EXAMPLES)
        module.add_arguments(action)


def main(args: argparse.Namespace) -> int:
    """Run one action and return the exit status.

    It is 1 if `generate` leaves levels without a negative, and 128 + the number of the signal that stopped the action.
    """
    if getattr(args, "output", None):
        from ...io import check_output

        check_output(args.output)
    module = _module(args.action)
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        return module.main(args)
    except (_Stopped, KeyboardInterrupt) as stopped:
        number = stopped.args[0] if isinstance(stopped, _Stopped) else signal.SIGINT
        hint = module.resume_hint(args) if hasattr(module, "resume_hint") else "Nothing was written"
        print(f"shine-hf negatives {args.action}: stopped by {signal.Signals(number).name}. {hint}", file=sys.stderr)
        return 128 + number
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Stopped(BaseException):
    """Raised when a signal is received. The argument is its number."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def _module(action: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{action}")
