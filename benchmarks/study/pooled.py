"""Average what SHINE changes over several models or text encoders on the same test queries. The interval is usually narrower than those of the studies.

    python -m benchmarks.study.pooled charades_real charades_real_minilm

Every comparison of the studies counts equally, with as many seeds as all of them have. The intervals are those of the studies: a paired bootstrap
over videos and seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from shine_hf.metrics import paired_bootstrap

from .records import Run
from .report import comparison_table, metric_values, paired_queries, paired_seeds
from .spec import RESULTS, Study, read_study

SUFFIX = "_pooled"


class Pair(NamedTuple):
    """A comparison of a study, with the finished runs of the study."""

    study: Study
    runs: Sequence[Run]
    variant: str
    baseline: str


def finished_pairs(study: Study) -> list[Pair]:
    """Return the comparisons of a study for which both variants have finished runs with the same seed."""
    runs = study.finished_runs()
    return [Pair(study, runs, *names) for names in study.comparisons if paired_seeds(study, runs, *names)]


def pool(pairs: Sequence[Pair]) -> list[dict]:
    """Return the mean difference of comparisons, with its interval, for each split and metric.

    Raises:
        ValueError: if the studies have different splits or test queries.
    """
    if any(list(pair.study.splits) != list(pairs[0].study.splits) for pair in pairs):
        raise ValueError("the studies have different splits: they cannot be pooled")
    entries = []
    for split in pairs[0].study.splits:
        sides = [paired_queries(*pair, split)[1] for pair in pairs]
        queries = sides[0][0][0]
        if any([query["qid"] for query in side[0][0]] != [query["qid"] for query in queries] for side in sides):
            raise ValueError(f"{split}: the studies were not evaluated on the same queries: they cannot be pooled")
        seeds = min(len(values) for values, _ in sides)
        by_pair = [metric_values([one[:seeds] for one in side]) for side in sides]
        for metric in by_pair[0]:
            values, base = np.mean([found[metric] for found in by_pair], axis=0)
            found = paired_bootstrap(values, base, clusters=[query["vid"] for query in queries])
            entries.append({
                "variant": "pooled_shine",
                "baseline": "pooled_base",
                "split": split,
                "metric": metric,
                "seeds": seeds,
                **found._asdict(),
            })  # fmt: skip
    return entries


def write_results(pairs: Sequence[Pair], command: str, folder: Path) -> str:
    """Write `README.md` and `summary.json` to a folder. Return the table."""
    entries = pool(pairs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    table = comparison_table(entries)
    names = ", ".join(f"{pair.variant} − {pair.baseline} ({pair.study.name})" for pair in pairs)
    lines = ["# Mean over models and text encoders", f"The mean of {names}.", table, f"Written by `{command}`."]
    (folder / "README.md").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="studies with finished runs on the same test queries")
    parser.add_argument(
        "--results",
        type=Path,
        help=f"folder for the table (default: benchmarks/study/results/NAME{SUFFIX} of the first)",
    )
    args = parser.parse_args(argv)
    studies = [read_study(name) for name in args.names]
    pairs = {study.name: finished_pairs(study) for study in studies}
    if missing := [name for name, found in pairs.items() if not found]:
        parser.error(f"no finished runs of {', '.join(missing)}: start python -m benchmarks.study {missing[0]}")
    command = f"python -m benchmarks.study.pooled {' '.join(args.names)}"
    print(
        write_results(
            list(chain.from_iterable(pairs.values())), command, args.results or RESULTS / (studies[0].name + SUFFIX)
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
