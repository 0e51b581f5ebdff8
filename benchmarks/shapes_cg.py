"""What the SHINE losses bring on Shapes-CG: base and SHINE over several seeds, on seen and on novel pairs of words.

    python benchmarks/shapes_cg.py --output outputs/shapes_cg --seeds 0 1 2

Runs `shine-hf demo --compare` for each seed (an interrupted study goes on where it stopped; the videos are rendered and encoded once) and prints
the mean and the standard deviation over the seeds. All figures are percentages and hold for this made-up benchmark alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from shine_hf.cli import main as shine_hf
from shine_hf.cli.demo import MODELS, SUMMARY_METRICS

TEST_SPLITS = ("test_trivial", "novel_composition")


def collect(folder: Path, seeds: list[int]) -> dict[tuple[str, str, str], list[float]]:
    """(model, split, metric) -> the figure of each seed."""
    figures = {}
    for model in MODELS:
        runs = [
            json.loads((folder / f"qd_detr_{model}_seed{seed}" / "all_results.json").read_text()) for seed in seeds
        ]
        for split in TEST_SPLITS:
            for metric in SUMMARY_METRICS:
                figures[model, split, metric] = [run[f"{split}_{metric}"] for run in runs]
    return figures


def table(figures: dict[tuple[str, str, str], list[float]]) -> str:
    """Markdown: a line per model and split, mean ± sample standard deviation."""
    lines = [f"| model | split | {' | '.join(SUMMARY_METRICS)} |", "|---" * (2 + len(SUMMARY_METRICS)) + "|"]
    for model in MODELS:
        for split in TEST_SPLITS:
            cells = []
            for metric in SUMMARY_METRICS:
                values = figures[model, split, metric]
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.1f}{spread}")
            lines.append(f"| {model} | {split} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="outputs/shapes_cg")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args, demo_options = parser.parse_known_args()
    for seed in args.seeds:
        status = shine_hf(["demo", "--compare", "--output", args.output, "--seed", str(seed), *demo_options])
        if status:
            return status
    print(f"\nShapes-CG, seeds {', '.join(map(str, args.seeds))}\n\n{table(collect(Path(args.output), args.seeds))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
