"""`shine-hf negatives`: one file per action."""

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
    "generate": "write hard negatives, checked, with any generator; or repair some",
    "validate": "check negatives rule by rule and write their flags",
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
    """Run one action; `generate` returns 1 where levels have no negative. After a signal the status is the shell's for it."""
    if getattr(args, "output", None):
        from ...negatives.files import check_output

        check_output(args.output)
    module = _module(args.action)
    previous = signal.signal(signal.SIGTERM, _stop)
    try:
        return module.main(args)
    except (_Stopped, KeyboardInterrupt) as stopped:
        number = stopped.args[0] if isinstance(stopped, _Stopped) else signal.SIGINT
        left = module.how_to_go_on(args) if hasattr(module, "how_to_go_on") else "Nothing was written"
        print(f"shine-hf negatives {args.action}: stopped by {signal.Signals(number).name}. {left}", file=sys.stderr)
        return 128 + number
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Stopped(BaseException):
    """A signal came; its number is the argument."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped(number)


def _module(action: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{action}")
