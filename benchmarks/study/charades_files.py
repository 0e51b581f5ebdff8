"""Make the files shared by the studies on Charades-CG from the original annotations.

    python -m benchmarks.study.charades_files --data-dir ../shared/data --output outputs/studies/files/charades_cg

* `train.jsonl`, `test_trivial.jsonl`, `novel_composition.jsonl`, `novel_word.jsonl`: the splits. The test rows have lexical negatives, whatever
  negatives a model is trained with, so the saliency order is measured on the same sentences for all models.
* `calibration/{train,seen,novel}.jsonl`: the protocol of the benchmark applied inside its training split, to choose the strengths of simulated
  features without using the test splits. Some training videos are held out. Some verb-noun pairs of their queries are declared novel: all other queries
  with such a pair are removed from training, while each word of the pair still occurs there.
* `glove.safetensors`, `glove.txt`: word vectors and their words, if DATA/glove exists. Only some studies need them.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np

from shine_hf.data.annotations import read_original
from shine_hf.data.selection import split_validation, training_rows
from shine_hf.negatives.language.tagging import TaggedQuery, Tagger
from shine_hf.negatives.splits import generate_for_splits

DATASET = "charades_cg"
SET_APART = 0.15
NOVEL_ROWS = 300
# A word with fewer training queries than this would count as a novel word.
MIN_TRAINING_QUERIES = 10
SEED = 0


def write_jsonl(rows: Iterable[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def copy_vectors(data_dir: Path, output: Path) -> None:
    """Copy the table of word vectors and its words to `glove.safetensors` and `glove.txt`, the names that studies use."""
    output.mkdir(parents=True, exist_ok=True)
    for suffix in (".safetensors", ".txt"):
        (source,) = (data_dir / "glove").glob(f"*{suffix}")
        shutil.copyfile(source, output / f"glove{suffix}")


def pairs_of(query: TaggedQuery) -> set[tuple[str, str]]:
    """Return all verb-noun pairs of a query, without nouns for the people who act."""
    words = [(token.lower(), tag) for token, tag in zip(query.tokens, query.parts_of_speech)]
    verbs, nouns = ({word for word, tag in words if tag == kind} for kind in ("VERB", "NOUN"))
    return set(product(verbs, nouns - {"person", "people", "man", "woman"}))


def calibration_splits(rows) -> dict[str, list[dict]]:
    """Return split name -> rows for the calibration splits `train`, `seen` and `novel`; see the docstring of this module."""
    train, apart = (list(part) for part in split_validation(rows, SET_APART, SEED))
    tagger = Tagger()
    train_pairs, apart_pairs = (
        [pairs_of(query) for query in tagger.tag(row["query"] for row in part)] for part in (train, apart)
    )
    words = Counter(word for pairs in train_pairs for word in {word for pair in pairs for word in pair})
    candidates = sorted(
        pair for pair in set().union(*apart_pairs) if all(words[w] >= 2 * MIN_TRAINING_QUERIES for w in pair)
    )
    novel: set[tuple[str, str]] = set()
    for index in np.random.default_rng(SEED).permutation(len(candidates)):
        if sum(not novel.isdisjoint(pairs) for pairs in apart_pairs) >= NOVEL_ROWS:
            break
        pair = candidates[index]
        lost = Counter(
            word
            for pairs in train_pairs
            if pair in pairs and novel.isdisjoint(pairs)
            for word in {w for p in pairs for w in p}
        )
        if all(words[word] - lost[word] >= MIN_TRAINING_QUERIES for word in pair):
            novel.add(pair)
            words -= lost
    return {
        "train": [row for row, pairs in zip(train, train_pairs) if novel.isdisjoint(pairs)],
        "seen": [row for row, pairs in zip(apart, apart_pairs) if novel.isdisjoint(pairs)],
        "novel": [row for row, pairs in zip(apart, apart_pairs) if not novel.isdisjoint(pairs)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    args = parser.parse_args()
    splits = read_original(DATASET, args.data_dir, negatives="none")
    rows = {name: split.to_list() for name, split in splits.items()}
    rows = generate_for_splits(DATASET, rows, "lexical", only=[name for name in rows if name != "train"])
    for name, split in calibration_splits(training_rows(splits["train"])).items():
        write_jsonl(split, args.output / "calibration" / f"{name}.jsonl")
        print(f"calibration/{name}: {len(split):,} rows")
    for name, split in rows.items():
        write_jsonl(split, args.output / f"{name}.jsonl")
        print(f"{name}: {len(split):,} rows")
    if (args.data_dir / "glove").is_dir():
        copy_vectors(args.data_dir, args.output)


if __name__ == "__main__":
    main()
