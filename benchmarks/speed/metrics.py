"""Compare the speed of our scorer with one that loops over queries in Python, as public scorers do.

    python benchmarks/speed/metrics.py --queries 1550 --repeats 5
    python benchmarks/speed/metrics.py --submission preds.jsonl.gz --ground-truth gt.jsonl

The two alternate in one process, on one thread, and must agree on every metric. The ratio compares their medians. The tests also use
`loop_scorer` as an independent implementation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from shine_hf.metrics import evaluate_submission, read_rows
from shine_hf.metrics.moment_retrieval import AVERAGE_PRECISION_THRESHOLDS, RECALL_THRESHOLDS

RANGES = {"full": None, "long": (30, 150), "middle": (10, 30), "short": (0, 10)}


def loop_scorer(submission: list[dict], ground_truth: list[dict]) -> dict[str, float]:
    """Compute the metrics of `evaluate_submission`, one query, threshold and clip at a time."""
    truth = {row["qid"]: row for row in ground_truth}
    metrics = {}
    for name, limits in RANGES.items():
        kept = []
        for row in submission:
            windows = [
                window
                for window in truth[row["qid"]]["relevant_windows"]
                if limits is None or limits[0] < window[1] - window[0] <= limits[1]
            ]
            if windows:
                kept.append((row["pred_relevant_windows"], windows))
        if kept:
            metrics.update({f"MR-{name}-{key}": value for key, value in score_moments(kept).items()})
    if all("pred_saliency_scores" in row for row in submission) and all(
        "saliency_scores" in row for row in ground_truth
    ):
        metrics.update(score_highlights([(row["pred_saliency_scores"], truth[row["qid"]]) for row in submission]))
    return {name: float(f"{value:.2f}") for name, value in metrics.items()}


def score_moments(queries: list[tuple[list, list]]) -> dict[str, float]:
    """Return recall, mIoU and mAP of `(predictions, windows)` pairs, in percent."""
    fits = []
    for predictions, windows in queries:
        fit = []
        for prediction in predictions[:5]:
            ious = [cross_iou(prediction, window) for window in windows]
            fit.append(hull_iou(prediction, windows[ious.index(max(ious))]))
        fits.append(fit or [0.0])
    metrics = {}
    for threshold in RECALL_THRESHOLDS:
        metrics[f"R1@{threshold}"] = 100 * np.mean([fit[0] >= threshold for fit in fits])
        metrics[f"R5@{threshold}"] = 100 * np.mean([max(fit) >= threshold for fit in fits])
    metrics["mIoU"] = 100 * np.mean([fit[0] for fit in fits])
    precisions = np.array([moment_precision(predictions[:10], windows) for predictions, windows in queries])
    for threshold, value in zip(AVERAGE_PRECISION_THRESHOLDS, precisions.mean(axis=0)):
        metrics[f"mAP@{threshold}"] = 100 * value
    metrics["mAP"] = 100 * np.mean(precisions.mean(axis=0))
    return metrics


def moment_precision(predictions: list, windows: list) -> np.ndarray:
    """Return the interpolated average precision of one query at each threshold."""
    if not predictions:
        return np.zeros(len(AVERAGE_PRECISION_THRESHOLDS))
    predictions = sorted(predictions, key=lambda prediction: -prediction[2])
    owners = np.full((len(AVERAGE_PRECISION_THRESHOLDS), len(windows)), -1)
    hits = np.zeros((len(AVERAGE_PRECISION_THRESHOLDS), len(predictions)))
    for rank, prediction in enumerate(predictions):
        ious = np.array([cross_iou(prediction, window) for window in windows])
        best_first = ious.argsort(kind="stable")[::-1]
        for index, threshold in enumerate(AVERAGE_PRECISION_THRESHOLDS):
            for window in best_first:
                if ious[window] < threshold:
                    break
                if owners[index, window] < 0:
                    owners[index, window] = rank
                    hits[index, rank] = 1
                    break
    found, missed = np.cumsum(hits, axis=1), np.cumsum(1 - hits, axis=1)
    return np.array([area(row / (row + other), row / len(windows)) for row, other in zip(found, missed)])


def area(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the area under the precision envelope."""
    precision, recall = np.concatenate([[0], precision, [0]]), np.concatenate([[0], recall, [1]])
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    steps = np.where(recall[1:] != recall[:-1])[0] + 1
    return np.sum((recall[steps] - recall[steps - 1]) * precision[steps])


def cross_iou(prediction: list, window: list) -> float:
    """Return the intersection divided by the union (sum of the lengths minus the intersection); 0 for empty windows."""
    shared = max(0.0, min(prediction[1], window[1]) - max(prediction[0], window[0]))
    union = (prediction[1] - prediction[0]) + (window[1] - window[0]) - shared
    return shared / union if union else 0.0


def hull_iou(prediction: list, window: list) -> float:
    """Return the intersection divided by the hull; 0 for empty windows."""
    shared = max(0.0, min(prediction[1], window[1]) - max(prediction[0], window[0]))
    hull = max(prediction[1], window[1]) - min(prediction[0], window[0])
    return shared / hull if hull else 0.0


def score_highlights(queries: list[tuple[list, dict]]) -> dict[str, float]:
    """Return mAP and HIT@1 of `(scores, annotation)` pairs, in percent."""
    metrics = {}
    for name, grade in {"Fair": 2, "Good": 3, "VeryGood": 4}.items():
        precisions, hits = [], []
        for scores, row in queries:
            grades = np.zeros((int(row["duration"] / 2), len(row["saliency_scores"][0])))
            grades[np.array(row["relevant_clip_ids"])] = np.array(row["saliency_scores"])
            best = int(np.argmax(scores))
            hits.append(best < len(grades) and (grades[best] >= grade).any())
            fitted = np.zeros(len(grades))
            fitted[: len(scores)] = scores[: len(grades)]
            precisions.append([clip_precision(grades[:, k] >= grade, fitted) for k in range(grades.shape[1])])
        metrics[f"HL-min-{name}-mAP"] = 100 * np.mean(precisions)
        metrics[f"HL-min-{name}-Hit1"] = 100 * np.mean(hits)
    return metrics


def clip_precision(is_highlight: np.ndarray, scores: np.ndarray) -> float:
    """Return the interpolated precision of one annotator's highlights, averaged over recall levels."""
    if is_highlight.all() or not is_highlight.any():
        return float(is_highlight.all())
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.where(np.diff(scores[order]))[0], len(scores) - 1)
    found = np.cumsum(is_highlight[order])[ends]
    precision, recall = found / (ends + 1), found / found[-1]
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    return np.mean(precision[np.where(np.diff(recall, prepend=0))[0]])


def made_up_benchmark(num_queries: int, seed: int = 0) -> tuple[list[dict], list[dict]]:
    """Make a submission and its ground truth in the style of QVHighlights: 150 s, 2 s clips, 1 to 5 windows, 10 predictions."""
    rng = np.random.default_rng(seed)
    submission, ground_truth = [], []
    for qid in range(num_queries):
        bounds = np.sort(rng.choice(75, size=2 * rng.integers(1, 6), replace=False)).reshape(-1, 2) * 2
        clips = [clip for start, end in (bounds // 2).tolist() for clip in range(start, end)]
        ground_truth.append(
            {
                "qid": qid,
                "duration": 150,
                "relevant_windows": bounds.tolist(),
                "relevant_clip_ids": clips,
                "saliency_scores": rng.integers(0, 5, size=(len(clips), 3)).tolist(),
            }
        )
        near = bounds[rng.integers(len(bounds), size=10)] + rng.normal(scale=8, size=(10, 2))
        moments = np.sort(near.clip(0, 150), axis=1).round(2)
        scores = np.sort(rng.random(10))[::-1, None].round(4)
        submission.append(
            {
                "qid": qid,
                "pred_relevant_windows": np.concatenate([moments, scores], axis=1).tolist(),
                "pred_saliency_scores": rng.normal(size=75).astype(np.float16).astype(float).tolist(),
            }
        )
    return submission, ground_truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=1550, help="size of the made-up benchmark")
    parser.add_argument("--submission", type=Path, help="submission to score instead of the made-up one")
    parser.add_argument("--ground-truth", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if (args.submission is None) != (args.ground_truth is None):
        parser.error("--submission and --ground-truth go together")
    if args.submission:
        submission, ground_truth = read_rows(args.submission), read_rows(args.ground_truth)
    else:
        submission, ground_truth = made_up_benchmark(args.queries)

    seconds: dict[str, list[float]] = {"loop": [], "shine_hf": []}
    for _ in range(args.repeats):
        results = {}
        for name, scorer in (("loop", loop_scorer), ("shine_hf", evaluate_submission)):
            start = time.perf_counter()
            results[name] = scorer(submission, ground_truth)
            seconds[name].append(time.perf_counter() - start)
        assert results["loop"] == results["shine_hf"], "the scorers disagree"
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{len(submission)} queries, {len(results['loop'])} figures, all equal; median of {args.repeats} runs each")
    for name, median in medians.items():
        print(f"{name:>9}: {median:8.3f} s  (all: {', '.join(f'{value:.3f}' for value in seconds[name])})")
    print(f"    ratio: {medians['loop'] / medians['shine_hf']:8.1f}")


if __name__ == "__main__":
    main()
