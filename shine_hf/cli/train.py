"""`shine-hf train`: train and evaluate a model from a recipe. The options are the keys of the recipe."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

EXAMPLES = (
    "shine-hf train --config charades_cg_qd_detr_shine --data-dir DATA --video-features I3D --output-dir OUT",
    "accelerate launch train.py --config charades_cg_qd_detr_shine --data-dir DATA --video-features I3D --output-dir OUT",
)


def main(argv: Sequence[str]) -> int | None:
    """Train. After a signal, the exit status is the usual one (143 for SIGTERM), as if the signal had not been caught."""
    from ..training.recipe import make_parser, parse_recipe

    if not argv or "-h" in argv or "--help" in argv:
        parser = make_parser()
        parser.epilog = "Examples: " + "; ".join(EXAMPLES)
        parser.print_help()
        return None
    recipe = parse_recipe(argv)
    logging.basicConfig(level=logging.INFO if recipe.training.should_log else logging.WARNING, stream=sys.stderr)

    from ..training.run import TrainingStopped, run_recipe

    try:
        run_recipe(recipe)
    except TrainingStopped as stopped:
        print(f"shine-hf train: {stopped}", file=sys.stderr)
        return stopped.exit_status
    return None
