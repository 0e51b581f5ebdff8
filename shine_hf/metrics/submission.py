"""Score a submission file with the metrics of the official QVHighlights scorer, for any benchmark in the common jsonl format.

The official scorer is `standalone_eval` of github.com/jayleicn/moment_detr; R1@0.3, R5 and mIoU are added in the same style. There are two
differences: a query without predicted moments is a miss in every metric (the official scorer crashes on it in R1 and ignores it in mAP), and
two windows of length 0 do not overlap (in the official scorer, 0 / 0 counts as a hit in mAP).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from ..features.grid import TimeGrid
from ..schema import SALIENCY_CLIP_LENGTH
from .highlight_detection import HIGHLIGHT_GRADES, highlight_detection_metrics
from .moment_retrieval import (
    AVERAGE_PRECISION_THRESHOLDS,
    MAX_PREDICTIONS,
    RECALL_THRESHOLDS,
    moment_retrieval_metrics,
)

# Seconds, the lower bound excluded. Windows longer than 150 s only count in `full`.
LENGTH_RANGES_SECONDS = {"long": (30, 150), "middle": (10, 30), "short": (0, 10)}
MOMENTS, SALIENCY = "pred_relevant_windows", "pred_saliency_scores"


def read_rows(path: str | Path) -> list[dict]:
    """Read the rows of a submission or ground-truth file: one JSON object per line (`.jsonl` or `.jsonl.gz`).

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file that cannot be decompressed, or a line that is not a JSON object. Names the line.
    """
    opener = gzip.open if Path(path).suffix == ".gz" else open
    rows = []
    with opener(path, "rt", encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    rows.append(json.loads(line))
                    if not isinstance(rows[-1], dict):
                        raise ValueError(f"{path}, line {number}: expected an object, got {line.strip()[:40]}")
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error}); expected one object per line") from error
        except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as lines of text ({error})") from error
    return rows


def evaluate_submission(submission: Iterable[Mapping], ground_truth: Iterable[Mapping]) -> dict[str, float]:
    """Compute every metric of a submission under its official name, in percent, rounded to two decimals like the official scorer.

    Args:
        submission: One row per query with `qid` and `pred_relevant_windows` (`[[start, end, score], …]` in seconds, best first),
            `pred_saliency_scores` (one per clip of 2 s, or of `clip_length` seconds if the row has that field), or both. At most ten
            windows are read; a row without windows counts as a miss.
        ground_truth: One row per query with `qid` and `relevant_windows` (`[[start, end], …]` in seconds), and for highlights
            `duration`, `relevant_clip_ids` and `saliency_scores` (grades 0 to 4 of each annotator for each of these clips).

    Returns:
        `MR-{full,long,middle,short}-{R1@t,R5@t,mIoU,mAP@t,mAP}` and `HL-min-{Fair,Good,VeryGood}-{mAP,Hit1}`. Highlight metrics are left
        out if either side has no saliency, moment metrics if the submission has no moments, and a range of lengths without windows.
        [`official_layout`] arranges the metrics as in the official JSON.

    Raises:
        ValueError: for missing, unknown or duplicate qids; for moments that are not `[start, end, score]` with finite numbers and
            start <= end; for annotations without windows; for non-finite scores; if only some of the rows have a column. Names the qid.
    """
    predictions, truth = _by_qid(submission, "submission"), _by_qid(ground_truth, "ground truth")
    _check_same_qids(predictions, truth)
    truth = {qid: truth[qid] for qid in predictions}
    metrics: dict[str, float] = {}
    if _has_column(predictions, MOMENTS, "submission"):
        metrics |= _score_moments(predictions, truth)
    has_saliency = _has_column(predictions, SALIENCY, "submission")
    if has_saliency and _has_column(truth, "saliency_scores", "ground truth"):
        metrics |= _score_highlights(predictions, truth)
    if not metrics:
        found = f"only {SALIENCY}, for which the ground truth has no saliency_scores" if has_saliency else "neither"
        raise ValueError(f"nothing to score: the submission needs {MOMENTS} or {SALIENCY}, but has {found}")
    return {name: float(f"{value:.2f}") for name, value in metrics.items()}


def official_layout(metrics: Mapping[str, float]) -> dict[str, dict]:
    """Nest the metrics of [`evaluate_submission`] as in the official JSON: `brief`, `HL-min-Fair`, …, `full`, `long`, `middle`, `short`.

    R1@0.3, R5 and mIoU are added to the official metrics.
    """
    brief_names = [
        *(f"MR-full-{name}" for name in ("R1@0.3", "R1@0.5", "R1@0.7", "R5@0.5", "R5@0.7")),
        *(f"MR-full-{name}" for name in ("mAP", "mAP@0.5", "mAP@0.75", "mIoU")),
        *(f"MR-{name}-mAP" for name in LENGTH_RANGES_SECONDS),
        *(f"HL-min-{name}-{figure}" for name in HIGHLIGHT_GRADES for figure in ("mAP", "Hit1")),
    ]
    layout: dict[str, dict] = {"brief": {name: metrics[name] for name in brief_names if name in metrics}}
    for name in (f"HL-min-{grade}" for grade in HIGHLIGHT_GRADES):
        if f"{name}-mAP" in metrics:
            layout[name] = {f"HL-{figure}": metrics[f"{name}-{figure}"] for figure in ("mAP", "Hit1")}
    for name in ("full", *LENGTH_RANGES_SECONDS):
        prefix = f"MR-{name}-"
        if f"{prefix}mAP" in metrics:
            layout[name] = {
                "MR-mAP": {str(t): metrics[f"{prefix}mAP@{t}"] for t in AVERAGE_PRECISION_THRESHOLDS}
                | {"average": metrics[f"{prefix}mAP"]},
                "MR-R1": {str(t): metrics[f"{prefix}R1@{t}"] for t in RECALL_THRESHOLDS},
                "MR-R5": {str(t): metrics[f"{prefix}R5@{t}"] for t in RECALL_THRESHOLDS},
                "MR-mIoU": metrics[f"{prefix}mIoU"],
            }
    return layout


def _score_moments(predictions: Mapping[str, Mapping], truth: Mapping[str, Mapping]) -> dict[str, float]:
    qids = list(predictions)
    moments = _pad(predictions, MOMENTS, "submission", (3,), "[start, end, score]", longest=MAX_PREDICTIONS)
    windows = _pad(truth, "relevant_windows", "ground truth", (2,), "[start, end]")
    _reject(np.isnan(windows[:, :1, 0]), qids, "ground truth", "no relevant_windows; remove the query from both files")
    for array, source in ((moments, "submission"), (windows, "ground truth")):
        _reject(array[..., 0] > array[..., 1], qids, source, "starts after its end")

    metrics = {}
    lengths = windows[..., 1] - windows[..., 0]
    for name, (shortest, longest) in {"full": (-np.inf, np.inf), **LENGTH_RANGES_SECONDS}.items():
        is_in_range = (lengths > shortest) & (lengths <= longest)
        rows = is_in_range.any(axis=1)
        if rows.any():
            in_range = np.where(is_in_range[..., None], windows, np.nan)
            found = moment_retrieval_metrics(moments[rows], in_range[rows], every_threshold=True)
            metrics |= {f"MR-{name}-{key}": value for key, value in found.items()}
    return metrics


def _score_highlights(predictions: Mapping[str, Mapping], truth: Mapping[str, Mapping]) -> dict[str, float]:
    qids = list(predictions)
    scores = _pad(_on_scored_grid(predictions, truth), SALIENCY, "submission", (), "a number")
    _reject(np.isnan(scores[:, :1]), qids, "submission", f"no {SALIENCY}")
    ids = _pad(truth, "relevant_clip_ids", "ground truth", (), "the index of a clip")
    first_clips = [grades[0] for grades in _lists(truth, "saliency_scores", "ground truth", "a list") if len(grades)]
    num_annotators = max((len(grades) for grades in first_clips if isinstance(grades, Sequence)), default=0) or 1
    given = _pad(truth, "saliency_scores", "ground truth", (num_annotators,), f"{num_annotators} grades")
    is_id, is_given = ~np.isnan(ids), ~np.isnan(given[..., 0])
    if is_id.shape != is_given.shape or (is_id != is_given).any():
        counts = is_id.sum(axis=1), is_given.sum(axis=1)
        row = int(np.argmax(counts[0] != counts[1]))
        raise ValueError(
            f"ground truth, qid {qids[row]!r}: {counts[0][row]} relevant_clip_ids, but saliency_scores for {counts[1][row]} clips"
        )
    seconds = {qid: {"duration": [row.get("duration")]} for qid, row in truth.items()}
    durations = _pad(seconds, "duration", "ground truth", (), "seconds")
    _reject(
        durations < SALIENCY_CLIP_LENGTH, qids, "ground truth", f"the video is shorter than {SALIENCY_CLIP_LENGTH:g} s"
    )
    num_clips = (durations[:, 0] / SALIENCY_CLIP_LENGTH).astype(int)
    # Comparisons with the NaN padding are false.
    is_no_clip = (ids < 0) | (ids >= num_clips[:, None]) | (ids % 1 > 0)
    _reject(is_no_clip, qids, "ground truth", "of relevant_clip_ids is not a clip of the video")

    is_clip = np.arange(num_clips.max()) < num_clips[:, None]
    grades = np.where(is_clip[..., None], 0.0, np.full(num_annotators, np.nan))
    rows, columns = np.nonzero(is_id)
    grades[rows, ids[rows, columns].astype(int)] = given[rows, columns]
    return {f"HL-{name}": value for name, value in highlight_detection_metrics(scores, grades).items()}


def submitted_saliency(saliency: Sequence[float], clip_length: float) -> list[float]:
    """Resample saliency to the clips of a submission: one score per 2 s, whatever the model's clip length.

    Args:
        saliency: A score per clip of the model.
        clip_length: Seconds per clip of the model.
    """
    grid = TimeGrid(clip_length, len(saliency))
    target = TimeGrid.of_video(grid.duration, SALIENCY_CLIP_LENGTH)
    return [round(float(score), 4) for score in grid.resample(saliency, target)]


def _on_scored_grid(predictions: Mapping[str, Mapping], truth: Mapping[str, Mapping]) -> dict[str, Mapping]:
    """Return the predictions with one saliency score per clip of 2 s.

    Raises:
        ValueError: if the number of scores clearly differs from the number of clips and the row has no `clip_length`.
    """
    table = {}
    for qid, row in predictions.items():
        scores, duration, clip_length = row[SALIENCY], truth[qid].get("duration"), row.get("clip_length")
        is_list = isinstance(scores, list | tuple | np.ndarray) and _finite(list(scores)) is not None
        if is_list and clip_length is not None:
            row = {**row, SALIENCY: submitted_saliency(scores, _positive(clip_length, qid))}
        elif is_list and len(scores) and isinstance(duration, int | float) and duration >= SALIENCY_CLIP_LENGTH:
            expected = TimeGrid(SALIENCY_CLIP_LENGTH, int(duration / SALIENCY_CLIP_LENGTH))
            if not TimeGrid(SALIENCY_CLIP_LENGTH, len(scores)).fits(expected.duration):
                raise ValueError(
                    f"submission, qid {qid!r}: {len(scores)} {SALIENCY}, but a video of {duration:g} s has {expected.num_clips} clips of "
                    f"{SALIENCY_CLIP_LENGTH:g} s. For another clip length, add the field clip_length (seconds) to the row"
                )
        table[qid] = row
    return table


def _positive(clip_length: object, qid: str) -> float:
    if isinstance(clip_length, bool) or not isinstance(clip_length, int | float) or not 0 < clip_length < np.inf:
        raise ValueError(
            f"submission, qid {qid!r}: clip_length must be a positive number of seconds, not {clip_length!r}"
        )
    return float(clip_length)


def _by_qid(rows: Iterable[Mapping], source: str) -> dict[str, Mapping]:
    """Index rows by qid. The number 1 and the string "1" are the same qid: QVHighlights has numbers, the schema of this package strings."""
    table: dict[str, Mapping] = {}
    for index, row in enumerate(rows):
        if row.get("qid") is None:
            raise ValueError(f"{source}, row {index}: no qid")
        qid = str(row["qid"])
        if qid in table:
            raise ValueError(f"{source}, row {index}: duplicate qid {qid!r}; give one row per query")
        table[qid] = row
    if not table:
        raise ValueError(f"the {source} is empty")
    return table


def _check_same_qids(predictions: Mapping, truth: Mapping) -> None:
    unknown, missing = [q for q in predictions if q not in truth], [q for q in truth if q not in predictions]
    parts = [
        f"{len(qids)} {what} (first: {', '.join(map(repr, qids[:3]))})"
        for qids, what in ((missing, "queries have no prediction"), (unknown, "predictions have an unknown qid"))
        if qids
    ]
    if parts:
        raise ValueError(f"submission and ground truth must have the same qids, but {' and '.join(parts)}")


def _has_column(rows: Mapping[str, Mapping], column: str, source: str) -> bool:
    """Return whether the rows have a column.

    Raises:
        ValueError: if only some of them have it.
    """
    lacking = [qid for qid, row in rows.items() if row.get(column) is None]
    if lacking and len(lacking) < len(rows):
        raise ValueError(f"{source}, qid {lacking[0]!r}: no {column}, which other rows have")
    return not lacking


def _lists(rows: Mapping[str, Mapping], column: str, source: str, form: str) -> list[Sequence]:
    lists = [row.get(column) for row in rows.values()]
    for qid, values in zip(rows, lists):
        if not isinstance(values, list | tuple | np.ndarray):
            raise ValueError(f"{source}, qid {qid!r}: {column} must be a list, each item {form}, not {values!r}")
    return lists


def _pad(
    rows: Mapping[str, Mapping], column: str, source: str, item: tuple[int, ...], form: str, longest: int | None = None
) -> np.ndarray:
    """Return the lists in a column as `(N, length, *item)`, padded with NaN; at most `longest` items of each.

    Raises:
        ValueError: for a value that is not a list, or an item that is not of shape `item` or not finite. `form` describes an item.
    """
    lists = [values[:longest] for values in _lists(rows, column, source, form)]
    flat = _finite(list(chain.from_iterable(lists)))
    if flat is None or (len(flat) and flat.shape[1:] != item):
        for qid, value in ((qid, value) for qid, values in zip(rows, lists) for value in values):
            array = _finite(value)
            if array is None or array.shape != item:
                raise ValueError(f"{source}, qid {qid!r}: {column} needs {form}, finite numbers, not {value!r}")
    lengths = np.array([len(values) for values in lists])
    padded = np.full((len(lists), lengths.max(), *item), np.nan)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = flat.reshape(-1, *item)
    return padded


def _finite(values: object) -> np.ndarray | None:
    """Return the values as an array; None if they are not finite numbers."""
    try:
        array = np.array(values, dtype=float)
    except (TypeError, ValueError):
        return None
    return array if np.isfinite(array).all() else None


def _reject(is_bad: np.ndarray, qids: Sequence[str], source: str, problem: str) -> None:
    """Raise ValueError for the first True in `(N, items)`."""
    if is_bad.any():
        row, position = np.argwhere(is_bad)[0]
        where = f" item {position + 1}" if is_bad.shape[1] > 1 else ""
        raise ValueError(f"{source}, qid {qids[row]!r}:{where} {problem}")
