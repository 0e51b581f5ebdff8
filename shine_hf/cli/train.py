"""`shine-hf train`: recipe in, trained and evaluated model out. The options are those of the recipe."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int | None:
    """Train; the exit status after a SIGTERM is the shell's 143, as if it had not been caught."""
    from ..training.recipe import make_parser, parse_recipe

    if not argv or "-h" in argv or "--help" in argv:
        make_parser().print_help()
        return
    recipe = parse_recipe(argv)
    logging.basicConfig(level=logging.INFO if recipe.training.should_log else logging.WARNING, stream=sys.stderr)

    from ..training.run import TrainingStopped, run_recipe

    try:
        run_recipe(recipe)
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + signal.SIGTERM
