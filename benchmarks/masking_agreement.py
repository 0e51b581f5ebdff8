"""Measure how often our masked queries exactly match the ones that the authors published.

    python benchmarks/masking_agreement.py PATH/charades_cg_gpt_train.jsonl.gz [--spacy-model NAME_OR_FOLDER]

The file is `data/charades_cg/charades_cg_gpt_train.jsonl` of github.com/zxccade/SHINE, plain or gzipped.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

from shine_hf.negatives.language.masking import MaskingOptions, mask_query
from shine_hf.negatives.language.tagging import Tagger


def agreement(rows: list[dict], tagger: Tagger, options: MaskingOptions) -> list[float]:
    """Return the percentage of rows whose masked query equals the published one, for each level and for all levels at once."""
    hits = [
        [ours == theirs for ours, theirs in zip(mask_query(tagged, options).masked_queries(), row["masked_queries"])]
        for row, tagged in zip(rows, tagger.tag(row["query"] for row in rows))
    ]
    levels = [100 * sum(level) / len(rows) for level in zip(*hits)]
    return [*levels, 100 * sum(map(all, hits)) / len(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--spacy-model", default=None, help="a spaCy pipeline; default: the packaged tagger")
    args = parser.parse_args()
    opener = gzip.open if args.path.suffix == ".gz" else open
    with opener(args.path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    tagger = Tagger(args.spacy_model)
    print(f"{len(rows)} rows, tagger {tagger.provenance}")
    print(f"{'rule':10} {'level 1':>8} {'level 2':>8} {'level 3':>8} {'all':>8} {'seconds':>8}")
    for rule in ("released", "paper"):
        start = time.perf_counter()
        figures = agreement(rows, tagger, MaskingOptions(rule=rule))
        print(f"{rule:10} " + " ".join(f"{figure:8.2f}" for figure in figures), f"{time.perf_counter() - start:8.1f}")


if __name__ == "__main__":
    main()
