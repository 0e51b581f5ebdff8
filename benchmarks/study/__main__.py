"""Run a study: every variant with every seed, then tables and figures.

    python -m benchmarks.study NAME [--data-dir ../shared/data] [--workers 2] [--seeds 0 1] [--variants base shine] [--report-only] [--results DIR] [-- --max_steps 51800 --video_features I3D …]

NAME is a file in benchmarks/study/studies (or a path). Each run is a `train.py` process with an output folder in `outputs/studies/NAME`; the workers share the cores. The same
command resumes a study that was stopped or killed: finished runs are kept, and others are resumed from their last checkpoint. Each run is recorded, with the result of every
query, in `benchmarks/study/results/NAME/runs`, so that another machine can make the tables and add seeds.
`benchmarks/study/results/overview.png` shows the main comparisons with the base models.

Options after `--` override the recipe of every run, e.g. for the same study on other features. They require their own `--results` folder, whose name is also used for the
runs, and, for other features, `--features` to describe these in the tables.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .overview import write_overview
from .report import write_report
from .runner import Runner, Stop
from .spec import OUTPUTS, read_study


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the options before `--`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", metavar="NAME", help="name of a file in benchmarks/study/studies, or a path")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("../shared/data"), help="folder with the original annotations"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="parallel runs (default: one per core)")
    parser.add_argument("--seeds", type=int, nargs="+", help="run only these (the tables include all finished runs)")
    parser.add_argument(
        "--variants", nargs="+", metavar="VARIANT", help="run only these (the tables include all finished runs)"
    )
    parser.add_argument("--results", type=Path, help="folder for the tables (default: benchmarks/study/results/NAME)")
    parser.add_argument("--features", help="description of overridden features, for the tables")
    parser.add_argument("--prepare-only", action="store_true", help="only make the files of the study")
    parser.add_argument("--report-only", action="store_true", help="only write the tables of finished runs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study and write its tables. Return 0, 1 if no run is finished, or 130 if it was stopped."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own, overrides = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = make_parser()
    args = parser.parse_args(own)
    if overrides and not args.results:
        parser.error("overrides need a --results folder, or their runs would mix with those of the original study")
    overridden = any(option.partition("=")[0].replace("-", "_") == "__video_features" for option in overrides)
    if overridden != bool(args.features):
        parser.error("--features is required if, and only if, --video_features is overridden")
    folders: dict[str, Path] = {"records": args.results} if args.results else {}
    if overrides:
        folders["folder"] = OUTPUTS / args.results.name
    study = read_study(args.name, overrides=overrides, **folders)
    if overrides:
        study = study.overridden(args.features)
    seeds, variants = args.seeds or study.seeds, args.variants or list(study.variants)
    for option, chosen, known in (("--seeds", seeds, study.seeds), ("--variants", variants, study.variants)):
        if unknown := [str(one) for one in chosen if one not in known]:
            parser.error(f"{option}: {study.name} has no {', '.join(unknown)}; it has {', '.join(map(str, known))}")
    if not args.report_only:
        runner = Runner(study, args.workers, args.data_dir)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, runner.stop)
        study.folder.mkdir(parents=True, exist_ok=True)
        try:
            runner.prepare()
            if args.prepare_only:
                return 0
            runner.run_all(seeds, variants)
        except Stop:
            print(f"{study.name}: stopped; run the same command again to resume", file=sys.stderr)
            return 130
    runs = study.finished_runs()
    if not runs:
        print(f"{study.name}: no run is finished yet", file=sys.stderr)
        return 1
    print(write_report(study, runs))
    if not args.results:
        write_overview()
    return 0


if __name__ == "__main__":
    sys.exit(main())
