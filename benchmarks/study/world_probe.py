"""Measure how well moments can be found without training a network, to check features or the strengths of a simulated world in a minute.

    python -m benchmarks.study.world_probe "scenes:noise=3" "simulated:dim=64,noise=5" --rows outputs/studies/files/charades_cg/calibration
    python -m benchmarks.study.world_probe npz:outputs/studies/files/charades_real/video --rows outputs/studies/files/charades_real \\
        --splits test_trivial novel_composition novel_word --text-features vectors:outputs/studies/files/charades_real/glove.safetensors --clip-length 1

A matcher turns a query into a direction, along which the clips of a video are scored. The prediction is the run of clips with the largest sum of
scores above the middle of their range. R1@0.5 is reported for the right queries and, in parentheses, for queries of other videos:

* `linear`: a linear map of the mean of the query's token features, fitted to the training rows, i.e. what follows from single words.
* `fixed`: the same part of every video, the one that fits most training rows. It does not read the query.
* `known` (simulated features): the vector that the query's event adds to its clips, i.e. what a model with perfect knowledge of the world could find.
* `anything` (simulated features): the span of a random event of the video, annotated or not, i.e. a perfect event detector that does not read the query either.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from shine_hf.features.base import FeatureStore
from shine_hf.features.simulated import PlantedFeatures
from shine_hf.features.text import TextFeatures

Direction = Callable[[str], np.ndarray]
RIDGE = 1.0


def best_run(scores: np.ndarray) -> tuple[int, int]:
    """Return the half-open range of clips with the largest sum of scores."""
    sums = np.concatenate([[0.0], np.cumsum(scores)])
    lowest = np.array([np.argmin(sums[:end]) for end in range(1, len(sums))])
    end = int(np.argmax(sums[1:] - sums[lowest]))
    return int(lowest[end]), end + 1


def is_found(row: Mapping, start: float, end: float) -> bool:
    """Return whether a span overlaps a moment of a row with an intersection over union of at least 0.5."""
    return any(
        min(end, last) - max(start, first) >= 0.5 * (max(end, last) - min(start, first))
        for first, last in row["relevant_windows"]
    )


def centered(store: FeatureStore, vid: str) -> np.ndarray:
    """Return the features of a video without their mean over its clips."""
    features = store[vid].astype(np.float64)
    return features - features.mean(axis=0)


def inverse_covariance(store: FeatureStore, rows: Sequence[Mapping]) -> np.ndarray:
    """Return the inverse covariance of the clips within the videos of some rows."""
    clips = np.concatenate([centered(store, vid) for vid in sorted({row["vid"] for row in rows})])
    return np.linalg.inv(np.cov(clips.T) + 1e-6 * np.eye(store.dim))


def fit_linear(store: FeatureStore, texts: TextFeatures, rows: Sequence[Mapping]) -> Direction:
    """Return the ridge regression from a query to the difference of the clips inside and outside its moment."""

    def of_query(query: str) -> np.ndarray:
        return np.append(texts(query=query, qid="").mean(axis=0), 1.0)

    inputs, targets = [], []
    for row in rows:
        features, (start, end) = centered(store, row["vid"]), row["relevant_windows"][0]
        middle = (np.arange(len(features)) + 0.5) * store.clip_length
        inside = (middle >= start) & (middle < end)
        if inside.any() and not inside.all():
            inputs.append(of_query(row["query"]))
            targets.append(features[inside].mean(axis=0) - features[~inside].mean(axis=0))
    x, y = np.stack(inputs), np.stack(targets)
    weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
    return lambda query: of_query(query) @ weights


def recall(store: FeatureStore, direction: Direction, pairs: Sequence[tuple[Mapping, str]]) -> float:
    """Return R1@0.5 in percent for rows, each with the query to use for it."""
    hits = []
    for row, query in pairs:
        scores = centered(store, row["vid"]) @ direction(query)
        smooth = np.convolve(scores, np.ones(3) / 3, "same")
        first, end = best_run(scores - (smooth.max() + smooth.min()) / 2)
        hits.append(is_found(row, first * store.clip_length, min(end * store.clip_length, row["duration"])))
    return 100 * float(np.mean(hits))


def fixed_part(train: Sequence[Mapping]) -> tuple[float, float]:
    """Return the part of a video, from 0 to 1, in steps of 0.05, that finds most training rows."""
    parts = [(start / 20, end / 20) for start, end in product(range(21), repeat=2) if start < end]
    return max(parts, key=lambda part: np.mean([is_found(row, *_part_of(row, part)) for row in train]))


def probe(
    store: FeatureStore, texts: TextFeatures, train: Sequence[Mapping], rows: Sequence[Mapping]
) -> dict[str, tuple[float, ...]]:
    """Return matcher -> R1@0.5 in percent for the right queries and, if the matcher reads them, for queries of other videos."""
    rng = np.random.default_rng(0)
    others = [rng.choice([one["query"] for one in rows if one["vid"] != row["vid"]]) for row in rows]
    right, wrong = [(row, row["query"]) for row in rows], list(zip(rows, others))
    inverse, linear, part = inverse_covariance(store, train), fit_linear(store, texts, train), fixed_part(train)
    matchers = {"linear": lambda query: inverse @ linear(query)}
    spans = {"fixed": lambda row: [_part_of(row, part)]}
    if isinstance(store, PlantedFeatures):
        matchers["known"] = lambda query: inverse @ store.event_vector(query)
        spans["anything"] = lambda row: {(start, end) for start, end, _ in store.events(row["vid"])}
    found: dict[str, tuple[float, ...]] = {
        name: (recall(store, one, right), recall(store, one, wrong)) for name, one in matchers.items()
    }
    for name, of_row in spans.items():
        found[name] = (
            100 * float(np.mean([np.mean([is_found(row, *span) for span in of_row(row)]) for row in rows])),
        )
    return found


def _part_of(row: Mapping, part: tuple[float, float]) -> tuple[float, float]:
    """Return a part of a row's video in seconds."""
    return part[0] * row["duration"], part[1] * row["duration"]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each world and split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="video features")
    parser.add_argument("--rows", required=True, type=Path, help="folder with train.jsonl and a file per split")
    parser.add_argument("--splits", nargs="+", default=["seen", "novel"], help="splits to probe")
    parser.add_argument("--text-features", default="words:dim=64", help="text features")
    parser.add_argument("--clip-length", type=float, default=2.0, help="seconds per clip")
    args = parser.parse_args(argv)
    splits = {
        path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in sorted(args.rows.glob("*.jsonl"))
    }
    rows, texts = [row for split in splits.values() for row in split], TextFeatures.from_spec(args.text_features)
    for spec in args.specs:
        store = FeatureStore.from_spec(spec, rows, args.clip_length)
        store.clip_length = store.clip_length or args.clip_length
        for name in args.splits:
            found = probe(store, texts, splits["train"], splits[name])
            text = ", ".join(
                " ".join([matcher, f"{right:.1f}", *(f"({value:.1f})" for value in wrong)])
                for matcher, (right, *wrong) in found.items()
            )
            print(f"{spec} | {name} | {text}", flush=True)


if __name__ == "__main__":
    main()
