"""Measure how the time of a SHINE training step grows with hard negatives, clips and batch size, in numbers and one figure.

    python -m benchmarks.speed.scaling [--repeats 3] [--threads 2] [--output benchmarks/speed/results/scaling]

Each panel changes one size of the reference batch of step.py (batch 32, 64 clips, three hard negatives and an irrelevant query) and times our step
in float32 on a CPU. With more clips, the batch is smaller, so that every step has 2,048 clips and the longest videos fit into memory (about 10 GB);
this panel shows the time per video. All points alternate, and medians are shown. The growth exponent is the slope on log-log axes: 1 means linear
growth, 2 means quadratic growth. Writes OUTPUT.json and OUTPUT.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from shine_hf.losses import ShineLoss

from .step import BATCH, CLIPS, HARD_NEGATIVES, make_batch, our_step

CLIPS_PER_STEP, MOST_HARD_NEGATIVES = BATCH * CLIPS, 8


@dataclass(frozen=True)
class Curve:
    """Step times for one varied size: `batches[i]` are the arguments of `make_batch` at `sizes[i]`, and the time is divided by `per[i]`."""

    name: str
    unit: str
    sizes: list[int]
    batches: list[dict[str, int]]
    per: list[int]


def curves() -> list[Curve]:
    hard_negatives = [0, 1, 2, 3, 4, 6, MOST_HARD_NEGATIVES]
    clips = [32, 64, 128, 256, 512, 1024, 2048]
    batches = [1, 2, 4, 8, 16, 32, 64]
    return [
        Curve(
            # The query and the irrelevant query are always encoded, so growth proportional to 2 + hard negatives is optimal.
            f"queries encoded per video (2 + hard negatives); batch {BATCH}, {CLIPS} clips",
            "s per step",
            [2 + count for count in hard_negatives],
            [{"negatives": 1 + count} for count in hard_negatives],
            [1] * len(hard_negatives),
        ),
        Curve(
            f"clips per video; batch {CLIPS_PER_STEP:,} / clips, {HARD_NEGATIVES} hard negatives",
            "s per video",
            clips,
            [{"clips": count, "batch": CLIPS_PER_STEP // count} for count in clips],
            [CLIPS_PER_STEP // count for count in clips],
        ),
        Curve(
            f"batch; {CLIPS} clips, {HARD_NEGATIVES} hard negatives",
            "s per step",
            batches,
            [{"batch": count} for count in batches],
            [1] * len(batches),
        ),
    ]


def measure(repeats: int) -> list[dict]:
    """Return for each curve its name, unit, sizes, seconds, and growth exponents over all points and between the last two."""
    # One margin for each hard negative (at most) and for the irrelevant query.
    most = max(batch.get("negatives", 1) for curve in curves() for batch in curve.batches)
    step = our_step(ShineLoss(fine_margins=(0.25,) * most), "cpu")
    points = [(curve, index) for curve in curves() for index in range(len(curve.sizes))]
    seconds: dict[tuple[str, int], list[float]] = {(curve.name, index): [] for curve, index in points}
    for turn in range(1 + repeats):
        for curve, index in points:
            step.inputs = make_batch(**curve.batches[index])
            begin = time.perf_counter()
            step()
            if turn:  # The first turn is a warm-up.
                seconds[curve.name, index].append((time.perf_counter() - begin) / curve.per[index])
    measured = []
    for curve in curves():
        medians = [statistics.median(seconds[curve.name, index]) for index in range(len(curve.sizes))]
        measured.append(
            {
                "name": curve.name,
                "unit": curve.unit,
                "sizes": curve.sizes,
                "seconds": medians,
                "exponent": _slope(curve.sizes, medians),
                "exponent of the last two": _slope(curve.sizes[-2:], medians[-2:]),
            }
        )
    return measured


def _slope(sizes: list[int], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def draw(measured: list[dict], subtitle: str) -> Figure:
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    figure.suptitle(f"Time of a SHINE training step ({subtitle})")
    for axes, curve in zip(figure.subplots(1, len(measured)), measured):
        sizes, seconds = np.array(curve["sizes"]), np.array(curve["seconds"])
        for power, style, label in ((1, "--", "in proportion"), (2, ":", "with the square")):
            axes.loglog(sizes, seconds[-1] * (sizes / sizes[-1]) ** power, style, color="0.6", label=label)
        axes.loglog(sizes, seconds, "o-", label="measured")
        axes.set_title(
            f"exponent {curve['exponent']:.2f}, at the end {curve['exponent of the last two']:.2f}", fontsize=10
        )
        axes.set_ylim(seconds[0] / 2, seconds[-1] * 2)
        axes.set_xlabel(curve["name"].replace("; ", "\n"))
        axes.set_ylabel(curve["unit"])
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter(FormatStrFormatter("%g"))
        axes.grid(which="both", alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "scaling")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measured = measure(args.repeats)
    for curve in measured:
        print(curve["name"])
        for size, seconds in zip(curve["sizes"], curve["seconds"]):
            print(f"  {size:>6,} {seconds:9.4f} {curve['unit']}")
        print(f"  growth exponent {curve['exponent']:.2f}, of the last two {curve['exponent of the last two']:.2f}")
    subtitle = f"float32, {args.threads} CPU thread{'s' * (args.threads > 1)}"
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".json").write_text(json.dumps({"setting": subtitle, "curves": measured}, indent=2) + "\n")
    draw(measured, subtitle).savefig(args.output.with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
