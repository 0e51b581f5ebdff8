"""Rerank moments by saliency with the trained models of a study, without retraining.

    python -m benchmarks.study.reranking NAME [--variants …] [--weights 0.5 1 2 4 8 16] [--results DIR]

The processor raises the score of a moment by `saliency_weight` times the contrast between the saliency inside and outside the moment. The weight of each variant is chosen on the validation
videos (by the mean mIoU over its seeds) and then used once on the test splits. Tables and figures have the format of `python -m benchmarks.study`.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from shine_hf.schema import VALIDATION

from .records import Run, as_recorded
from .report import write_report
from .spec import RESULTS, Study, read_study
from .trained_run import TrainedRun

SUFFIX = "_saliency"
CHOSEN_BY = f"{VALIDATION}_mIoU"


def rerank(study: Study, runs: Sequence[Run], weights: Sequence[float]) -> Iterator[tuple[str, float, list[Run]]]:
    """Yield for each variant its name, the chosen weight, and its runs with that weight."""
    with tempfile.TemporaryDirectory() as scratch:
        for variant in study.variants:
            seeds = [run.seed for run in runs if run.variant == variant]
            if not seeds:
                continue
            trained = {
                seed: TrainedRun(study.run_folder(variant, seed), Path(scratch, f"{variant}{seed}")) for seed in seeds
            }
            means = {}
            for weight in tqdm([0.0, *weights], desc=f"{variant}, validation", unit="weight"):
                found = [run.evaluate(VALIDATION, weight)[CHOSEN_BY] for run in trained.values()]
                means[weight] = statistics.mean(found)
            chosen = max(means, key=means.get)
            print(f"{variant}: " + ", ".join(f"{weight:g} → {mean:.2f}" for weight, mean in means.items()))
            reranked = []
            for seed, run in tqdm(trained.items(), desc=f"{variant}, test splits", unit="run"):
                results = run.evaluate(VALIDATION, chosen)
                for split in study.splits:
                    results |= run.evaluate(split, chosen)
                queries = {split: as_recorded(run.queries(split)) for split in study.splits}
                reranked.append(Run(variant + SUFFIX, seed, results, [], queries))
            yield variant, chosen, reranked


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NAME", help="study with finished runs")
    parser.add_argument("--variants", nargs="+", help="rerank only these")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
    parser.add_argument(
        "--results", type=Path, help="folder for the tables (default: benchmarks/study/results/NAME_saliency)"
    )
    args = parser.parse_args(argv)
    study = read_study(args.name)
    runs = [run for run in study.trained_runs() if not args.variants or run.variant in args.variants]
    found = list(rerank(study, runs, args.weights))
    chosen = {variant: weight for variant, weight, _ in found}
    runs += [run for _, _, reranked in found for run in reranked]
    weights = ", ".join(f"{variant} {weight:g}" for variant, weight in chosen.items())
    report = dataclasses.replace(
        study,
        name=study.name + SUFFIX,
        title=f"{study.title}: the saliency in the choice of the moment",
        note=f"Variants that end in {SUFFIX} are the same trained models; their moments are ranked by class and saliency. Weights, chosen on the validation videos: {weights}.",
        variants={
            name: {**study.variants[variant], **changed}
            for variant, weight in chosen.items()
            for name, changed in ((variant, {}), (variant + SUFFIX, {"saliency_weight": weight}))
        },
        records=args.results or RESULTS / (study.name + SUFFIX),
        comparisons=[(variant + SUFFIX, variant) for variant in chosen]
        + [(one + SUFFIX, other + SUFFIX) for one, other in study.comparisons if {one, other} <= set(chosen)],
        command=f"benchmarks.study.reranking {study.name}"
        + (f" --variants {' '.join(args.variants)}" if args.variants else ""),
    )
    print(write_report(report, runs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
