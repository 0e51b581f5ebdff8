"""Reproduce the paper's numbers from the authors' released files: check the files, convert the checkpoint, evaluate three splits in two forms.

The two forms are two masks of one network: the corrected text mask, and the mask of the public code, with which the queries of a batch
influence each other (`batch_coupled_text_mask`). With the latter, results depend on which queries share a batch, so batches are as in the
public evaluation: 100 queries in the order of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.datasets import DATASETS
from ..io import atomic_file
from .downloads import (
    RELEASES,
    SPLITS,
    Release,
    find_annotations,
    find_checkpoint,
    find_text_features,
    find_video_features,
)
from .paper import SHINE_NUMBERS, SHINE_SOURCE

FORMS = {"corrected": False, "public_code": True}
"""Form -> `batch_coupled_text_mask`."""
PUBLIC_BATCH_SIZE = 100
METRICS = ("R1@0.5", "R1@0.7", "mIoU")

Results = dict[str, dict[str, dict[str, float]]]
"""Form -> split -> metric -> percent."""


@dataclass(frozen=True)
class Downloads:
    """The files of a benchmark, found and checked.

    Args:
        release: The description of the files.
        checkpoint: File of the original model.
        video_features: Folder or file of the video features.
        text_features: Folder of the text features.
        rows: Split -> rows with `qid`, `vid`, `query`, `duration` (seconds), `relevant_windows` (seconds).
    """

    release: Release
    checkpoint: Path
    video_features: Path
    text_features: Path
    rows: Mapping[str, Sequence[Mapping[str, Any]]]


def check_downloads(
    dataset: str,
    checkpoint: str | Path,
    video_features: str | Path,
    text_features: str | Path,
    annotations: str | Path,
    report: Callable[[str], object] = print,
) -> Downloads:
    """Find and check every file before anything is computed.

    Args:
        dataset: `charades_cg` or `activitynet_cg`.
        checkpoint: A file, or a folder that contains one.
        video_features, text_features, annotations: Folders, or folders above them.
        report: Receives a line per kind of file: what was found, or what is missing and where it is published.

    Raises:
        FileNotFoundError: if anything is missing, after all four kinds of files have been reported.
    """
    release, problems = RELEASES[dataset], 0

    def check(what: str, find: Callable[[], Path | Mapping[str, Path]]) -> Any:
        nonlocal problems
        try:
            found = find()
        except (FileNotFoundError, ValueError) as error:
            problems += 1
            report(f"missing  {what}: {error}")
            return None
        shown = ", ".join(map(str, found.values())) if isinstance(found, Mapping) else found
        report(f"found    {what}: {shown}")
        return found

    model = check("checkpoint", lambda: find_checkpoint(Path(checkpoint)))
    files = check("annotations", lambda: find_annotations(release, Path(annotations)))
    rows = {split: _read_rows(path, split) for split, path in (files or {}).items()}
    vids = sorted({row["vid"] for split in rows.values() for row in split})
    qids = [row["qid"] for split in rows.values() for row in split]
    videos = texts = None
    if files:
        videos = check("video features", lambda: find_video_features(release, Path(video_features), vids))
        texts = check("text features", lambda: find_text_features(Path(text_features), qids))
    if problems:
        raise FileNotFoundError(
            f"{problems} of the downloads for {release.dataset.title} are missing or incomplete (see above)"
        )
    return Downloads(release, model, videos, texts, rows)


def reproduce(
    downloads: Downloads, output_dir: str | Path, device: str | None = None, progress: bool = True
) -> Results:
    """Convert the checkpoint and evaluate every split in both forms.

    Args:
        downloads: The result of [`check_downloads`].
        output_dir: Where to write the converted model (`model`), a submission file per form and split, and `results.json`.
        device: Device of the model; by default a GPU if available.
        progress: Show progress bars.

    Returns:
        Form -> split -> `R1@0.5`, `R1@0.7`, `mIoU` in percent.

    Raises:
        ValueError: if the checkpoint is not a SHINE checkpoint, or the features do not match it.
    """
    import torch

    from ..modeling import MomentRetrievalProcessor
    from .checkpoints import load_original_checkpoint

    output = Path(output_dir)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    results: Results = {}
    for form, coupled in FORMS.items():
        clip_length = downloads.release.dataset.clip_length
        model = load_original_checkpoint(
            downloads.checkpoint, "shine", clip_length=clip_length, batch_coupled_text_mask=coupled
        ).to(device)
        processor = MomentRetrievalProcessor.from_config(model.config)
        if not coupled:
            model.save_pretrained(output / "model")
            processor.save_pretrained(output / "model")
        results[form] = {}
        for split in SPLITS:
            submission = _predict(downloads, model, processor, split, progress)
            with atomic_file(output / f"{form}_{split}.jsonl") as file:
                file.writelines(json.dumps(row) + "\n" for row in submission)
            results[form][split] = _score(submission, downloads.rows[split])
    with atomic_file(output / "results.json") as file:
        json.dump(results, file, indent=2)
    return results


def format_table(dataset: str, results: Results) -> str:
    """Return a Markdown table: a row per split and metric, with both forms and the paper's number."""
    lines = [
        f"| {DATASETS[dataset].title} | metric | corrected mask | mask of the public code | paper |",
        "|---|---|---:|---:|---:|",
    ]
    for split in SPLITS:
        for metric in METRICS:
            ours = " | ".join(f"{results[form][split][metric]:.2f}" for form in FORMS)
            paper = SHINE_NUMBERS[dataset].get(split, {}).get(metric)
            lines.append(f"| {split} | {metric} | {ours} | {'' if paper is None else f'{paper:.2f}'} |")
    return "\n".join([*lines, "", f"Paper: {SHINE_SOURCE}. Empty cells: see the paper."])


def _read_rows(path: Path, split: str) -> list[dict[str, Any]]:
    from ..data.annotations import read_annotations

    return read_annotations(path, split).to_list()


def _predict(downloads: Downloads, model, processor, split: str, progress: bool) -> list[dict[str, Any]]:
    from ..features.base import FeatureStore
    from ..features.text import TextFeatures
    from ..inference.features import as_submission, predict_from_features

    found = predict_from_features(
        model,
        processor,
        downloads.rows[split],
        FeatureStore.from_spec(f"{downloads.release.video_kind}:{downloads.video_features}"),
        TextFeatures.from_spec(f"npz:{downloads.text_features}"),
        batch_size=PUBLIC_BATCH_SIZE,
        progress=progress,
        round_to_clip_length=downloads.release.round_to_clip_length,
    )
    return [as_submission(row) for row in found]


def _score(submission: Sequence[Mapping], rows: Sequence[Mapping]) -> dict[str, float]:
    from ..metrics import evaluate_submission

    truth = [{"qid": row["qid"], "relevant_windows": row["relevant_windows"]} for row in rows]
    moments = [{"qid": row["qid"], "pred_relevant_windows": row["pred_relevant_windows"]} for row in submission]
    scores = evaluate_submission(moments, truth)
    return {metric: scores[f"MR-full-{metric}"] for metric in METRICS}
