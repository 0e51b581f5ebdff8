"""The facts that a model card is rendered from: plain values about the data and the run, without local paths."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..data.arguments import DataArguments
from ..data.datasets import DATASETS
from ..data.loading import dataset_files
from ..encoders import public_spec

ARCHITECTURES = {
    "qd_detr": ("QD-DETR", "https://arxiv.org/abs/2303.13874"),
    "moment_detr": ("Moment-DETR", "https://arxiv.org/abs/2107.09609"),
}
# Columns of the annotations that a fingerprint covers: what a query asks, the answer, and the negatives.
FINGERPRINTED = ("qid", "vid", "query", "duration", "relevant_windows", "negative_queries")


@dataclass
class DataFacts:
    """
    The data that a model was trained and evaluated on.

    Args:
        name: Name of the dataset.
        splits: Split -> `queries`, `videos`, `fingerprint` (the SHA-256 of its rows) and `annotated` (queries with a moment; all if left
            out).
        negatives: Source of the hard negatives.
        hub_id, revision: The dataset on the Hub and its commit, if any.
        eval_limit: Maximum number of queries to evaluate per split; None for all.
        is_simulated: Whether the video features are simulated from the annotations.
    """

    name: str
    splits: dict[str, dict[str, int | str]]
    negatives: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    eval_limit: int | None = None
    is_simulated: bool = False


@dataclass
class SaliencyExample:
    """
    One query with the model's answer, and the saliency for the query and its negatives.

    Args:
        split: Split of the query.
        query: The sentence.
        duration_seconds, clip_length_seconds: Length of the video and of a clip.
        windows: Annotated `[start, end]` in seconds.
        moments: Predicted `[start, end, score]`, best first.
        saliency (`(T,)`): Score of each clip for the query.
        negative_saliency: Description of a negative -> scores `(T,)` for it, from the nearest negative to the irrelevant query.
    """

    split: str
    query: str
    duration_seconds: float
    clip_length_seconds: float
    windows: list[list[float]]
    moments: list[list[float]]
    saliency: list[float]
    negative_saliency: dict[str, list[float]]


@dataclass
class ModelFacts:
    """
    The content of a model card. All values are plain, so that a card can be rendered without the run.

    Args:
        name: Name of the repository (`USER/NAME`) or of the folder, for the examples.
        class_name: Class of the model.
        config: Fields of its configuration; empty for a model without one.
        parameters: Number of parameters.
        ranking: The SHINE losses that were used, `coarse` and `fine`; none for the base model.
        negative_losses: Descriptions of the other losses on hard negatives that were used.
        step, max_steps: Optimization steps done and planned.
        data: Facts about the data; None if it was not described.
        results: Split -> metrics in percent.
        results_step: The step after which the results were measured.
        example: A query of the evaluation, for the figure.
        selection: Metric by which the model was selected, its best value, and the step that reached it; None for the last weights.
        settings: Group -> setting -> value, for settings that differ from the defaults.
        log_history: Log history of the `Trainer`, for the curves.
        environment: Component -> version.
        base_model: The model that was fine-tuned, if it is on the Hub.
        license: License of the weights.
    """

    name: str
    class_name: str
    parameters: int
    step: int
    max_steps: int
    config: dict = field(default_factory=dict)
    ranking: Sequence[str] = ()
    negative_losses: Sequence[str] = ()
    data: DataFacts | None = None
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    results_step: int | None = None
    example: SaliencyExample | None = None
    selection: tuple[str, float, int] | None = None
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    log_history: list[dict] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    base_model: str | None = None
    license: str = "mit"

    @property
    def unscored(self) -> list[str]:
        """Evaluated splits without annotated moments, which cannot be scored."""
        splits = self.data.splits if self.data is not None else {}
        return [name for name, split in splits.items() if name != "train" and split.get("annotated") == 0]

    @property
    def scored(self) -> dict[str, dict[str, float]]:
        """The results of the splits with annotated moments."""
        return {split: metrics for split, metrics in self.results.items() if split not in self.unscored}

    @property
    def learns_from_negatives(self) -> bool:
        """Whether a loss used the hard negatives."""
        return "fine" in self.ranking or bool(self.negative_losses)

    @property
    def architecture(self) -> str:
        return ARCHITECTURES.get(self.config.get("model_type"), (self.class_name,))[0]

    @property
    def title(self) -> str:
        """Architecture, losses and data. The title mentions simulated features, so that nobody overlooks them."""
        losses = " with SHINE" if self.ranking else " with hard negatives" if self.negative_losses else ""
        title = self.architecture + losses
        if self.data is None:
            return title
        return f"{title} on {self.data.name}{' (simulated features)' if self.data.is_simulated else ''}"


def describe_data(args: DataArguments, splits: Mapping) -> DataFacts:
    """Return the facts about the data of a recipe, without local paths.

    Args:
        args: The data arguments of the recipe.
        splits: Split name -> the rows used for training or evaluation.
    """
    spec = DATASETS.get(args.dataset)
    negatives = args.negatives or (spec.default_negatives if spec else None)
    return DataFacts(
        name=_dataset_name(args.dataset),
        splits={name: _describe_split(rows) for name, rows in splits.items()},
        negatives=os.path.basename(negatives) if negatives else None,
        hub_id=_hub_id(args.dataset),
        revision=next(filter(None, map(_hub_revision, splits.values())), None) if not args.data_dir else None,
        eval_limit=args.max_eval_samples,
        is_simulated=args.is_simulated,
    )


def _describe_split(rows) -> dict:
    digest = hashlib.sha256()
    columns = [name for name in FINGERPRINTED if name in rows.column_names]
    for row in rows.select_columns(columns):
        digest.update(json.dumps(row, sort_keys=True).encode())
    described = {"queries": len(rows), "videos": len(set(rows["vid"])), "fingerprint": digest.hexdigest()}
    if "relevant_windows" in rows.column_names:
        described["annotated"] = sum(bool(windows) for windows in rows["relevant_windows"])
    return described


def _dataset_name(dataset: str) -> str:
    """Return the title of a dataset, e.g. of `shapes_cg` for `train=outputs/shapes_cg/train.jsonl,…`."""
    paths = list(dataset_files(dataset).values()) or [Path(dataset)]
    name = paths[0].stem
    if len(paths) > 1:
        # What the file names have in common, or the name of their folder.
        words = zip(*(path.stem.split("_") for path in paths))
        name = "_".join(same[0] for same in words if len(set(same)) == 1) or paths[0].absolute().parent.name
    published = {spec.hub_id.partition("/")[2]: spec.name for spec in DATASETS.values() if spec.hub_id}
    spec = DATASETS.get(published.get(name, name))
    return spec.title if spec else name


def _hub_id(dataset: str) -> str | None:
    if dataset in DATASETS:
        return DATASETS[dataset].hub_id
    return dataset if re.fullmatch(r"[\w.-]+/[\w.-]+", dataset) and not os.path.exists(dataset) else None


def _hub_revision(rows) -> str | None:
    """Return the commit that rows were loaded from, after which `datasets` names its cache folder."""
    names = [Path(file["filename"]).parent.name for file in rows.cache_files]
    return next((name for name in names if re.fullmatch(r"[0-9a-f]{40}", name)), None)


def public_settings(settings: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that differ from the defaults, with only the last part of paths."""
    unset = {name for name, value in settings.items() if value is None or (value is False and not defaults.get(name))}
    return {
        name: _public(value) for name, value in settings.items() if name not in unset and value != defaults.get(name)
    }


def _public(value):
    if isinstance(value, list):
        return [_public(part) for part in value]
    if not isinstance(value, str):
        return value
    parts = []
    for part in value.split(","):
        name, separator, path = part.rpartition("=")
        parts.append(name + separator + public_spec(path))
    return ",".join(parts)
