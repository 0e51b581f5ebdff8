"""The card of a trained model: README.md, its figures, and the evaluation results for the Hub, from plain facts about the run."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.datasets import DATASETS
from ..data.loading import DataArguments, dataset_files
from ..encoders import is_text_encoder_spec, is_video_encoder_spec, public_spec
from ..io import atomic_file
from ..schema import VALIDATION
from .dataset_card import CARD_FILE
from .eval_results import EVAL_RESULTS_FILE, REPORTED_METRICS, TASK, eval_results_yaml, model_index_results
from .template import render_template

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

ARCHITECTURES = {
    "qd_detr": ("QD-DETR", "https://arxiv.org/abs/2303.13874"),
    "moment_detr": ("Moment-DETR", "https://arxiv.org/abs/2107.09609"),
}
TAGS = (TASK, "temporal-grounding", "compositional-generalization", "shine")
SIMULATED_NOTE = "simulated features, planted from the annotations: not comparable with figures on real videos"
# The ends of the names of what is drawn over the steps.
CURVES = ("step", "loss", "loss_coarse_intra", "loss_coarse_inter", "loss_fine", "R1@0.5", "mIoU", "positive>level1")
# Columns of the annotations that a fingerprint covers: what a query asks, what is right, and what it is told apart from.
FINGERPRINTED = ("qid", "vid", "query", "duration", "relevant_windows", "negative_queries")


@dataclass
class DataFacts:
    """
    What a model was trained and evaluated on.

    Args:
        name: Of the dataset, as people know it.
        splits: Split -> `queries`, `videos`, `fingerprint` (the SHA-256 of its rows) and `annotated` (queries with a moment; all if left
            out).
        negatives: Where the hard negatives come from.
        hub_id, revision: The dataset on the Hub and its commit, where it has them.
        eval_limit: The evaluation takes at most so many queries of a split; None for all.
        is_simulated: Whether the video features are planted from the annotations.
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
    One query with the model's answer, and the saliency under it and under its negatives.

    Args:
        split: That the query is of.
        query: The sentence.
        duration_seconds, clip_length_seconds: Of the video and of a clip.
        windows: Annotated `[start, end]` in seconds.
        moments: Found `[start, end, score]`, best first.
        saliency (`(T,)`): Score of each clip under the query.
        negative_saliency: What a negative is -> scores `(T,)` under it, from the nearest to the irrelevant query.
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
    What a card says. Everything is plain, so that a card can be rendered without the run.

    Args:
        name: Name of the repository (`USER/NAME`) or of the folder, for the example of use.
        class_name: Of the model.
        config: Fields of its configuration; empty for a model without one.
        parameters: Number of them.
        ranking: The SHINE losses that were used, `coarse` and `fine`; none for the base model.
        step, max_steps: Optimisation steps done and planned.
        data: None where the trainer was given datasets that nobody described.
        results: Split -> metrics in percent.
        results_step: The step after which they were measured.
        example: A query of the evaluation, for the picture.
        selection: The metric by which the model was selected, its best value, and the step after which it was reached; None for the last weights.
        settings: Group -> setting -> value, as far as they differ from the defaults.
        log_history: Of the `Trainer`, for the curves.
        environment: What was used -> version.
        base_model: What was fine-tuned, where it is on the Hub.
        license: Of the weights.
    """

    name: str
    class_name: str
    parameters: int
    step: int
    max_steps: int
    config: dict = field(default_factory=dict)
    ranking: Sequence[str] = ()
    data: DataFacts | None = None
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    results_step: int | None = None
    example: SaliencyExample | None = None
    selection: tuple[str, float, int] | None = None
    settings: dict[str, dict[str, object]] = field(default_factory=dict)
    log_history: list[dict] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    base_model: str | None = None
    license: str = "mit"

    @property
    def unscored(self) -> list[str]:
        """Evaluated splits without any annotated moment: there is nothing to score."""
        splits = self.data.splits if self.data is not None else {}
        return [name for name, split in splits.items() if name != "train" and split.get("annotated") == 0]

    @property
    def scored(self) -> dict[str, dict[str, float]]:
        """The results of the splits that have answers."""
        return {split: metrics for split, metrics in self.results.items() if split not in self.unscored}

    @property
    def architecture(self) -> str:
        return ARCHITECTURES.get(self.config.get("model_type"), (self.class_name,))[0]

    @property
    def title(self) -> str:
        """Architecture, losses and data; simulated features are named here, where nobody overlooks them."""
        title = self.architecture + (" with SHINE" if self.ranking else "")
        if self.data is None:
            return title
        return f"{title} on {self.data.name}{' (simulated features)' if self.data.is_simulated else ''}"


def card_files(facts: ModelFacts, with_figures: bool = True) -> dict[str, bytes]:
    """Path -> content of the card, of its figures (a second of work; without matplotlib there are none) and of the evaluation results."""
    figures = _figures(facts) if with_figures else {}
    files = {CARD_FILE: render_model_card(facts, figures).encode(), **figures}
    if _benchmarked(facts) and facts.data is not None and facts.data.hub_id:
        files[EVAL_RESULTS_FILE] = eval_results_yaml(
            _benchmarked(facts), facts.data.hub_id, dataset_revision=facts.data.revision, notes=_notes(facts.data)
        ).encode()
    return files


def write_model_card(facts: ModelFacts, folder: str | Path) -> None:
    """Write [`card_files`] into the folder of the model."""
    files = card_files(facts)
    if EVAL_RESULTS_FILE not in files:
        (Path(folder) / EVAL_RESULTS_FILE).unlink(missing_ok=True)
    for name, content in files.items():
        with atomic_file(Path(folder) / name, "wb") as file:
            file.write(content)


def render_model_card(facts: ModelFacts, figures: Iterable[str] = ()) -> str:
    """The text of the card, header included.

    Args:
        figures: Paths of the figures that lie beside it.
    """
    links = {
        name: None
        for metrics in facts.scored.values()
        for name in metrics
        if re.fullmatch(r"[a-z0-9]+>[a-z0-9]+", name)
    }
    return render_template(
        "model_card.md",
        header=_header(facts),
        facts=facts,
        paper=ARCHITECTURES.get(facts.config.get("model_type"), (None, None))[1],
        metrics=[name for name in REPORTED_METRICS if any(name in result for result in facts.scored.values())],
        links=[*links, "chain"] if links else [],
        has_intervals=any(name.endswith("_low") for metrics in facts.scored.values() for name in metrics),
        interval=_with_interval,
        figures=set(figures),
        takes_videos=is_video_encoder_spec(facts.config.get("video_encoder") or ""),
        takes_sentences=is_text_encoder_spec(facts.config.get("text_encoder") or ""),
        notes=_notes(facts.data) if facts.data else None,
    )


def describe_data(args: DataArguments, splits: Mapping) -> DataFacts:
    """The facts about the data of a recipe, without a path of this machine.

    Args:
        args: Of the recipe.
        splits: Split name -> the rows that are trained and evaluated on.
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
        is_simulated=any(spec.startswith("simulated") for spec in args.video_features),
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
    """`shapes_cg` of `train=outputs/shapes_cg/train.jsonl,…`, `charades_sta` of `train=data/charades_sta_train.jsonl,…`, by its title."""
    paths = list(dataset_files(dataset).values()) or [Path(dataset)]
    name = paths[0].stem
    if len(paths) > 1:
        # What the names of the files have in common, or the folder that they lie in.
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
    """The commit that rows were loaded from: `datasets` names the folder of its cache by it."""
    names = [Path(file["filename"]).parent.name for file in rows.cache_files]
    return next((name for name in names if re.fullmatch(r"[0-9a-f]{40}", name)), None)


def _notes(data: DataFacts) -> str | None:
    notes = [SIMULATED_NOTE] if data.is_simulated else []
    if data.eval_limit is not None:
        notes.append(f"only the first {data.eval_limit:,} queries of each split")
    return "; ".join(notes) or None


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    """`81.3 (78.0–84.2)`; an empty cell for what was not measured."""
    if name not in metrics:
        return ""
    value = f"{metrics[name]:.1f}"
    if f"{name}_low" in metrics:
        value += f" ({metrics[f'{name}_low']:.1f}–{metrics[f'{name}_high']:.1f})"
    return value


def _benchmarked(facts: ModelFacts) -> dict[str, dict[str, float]]:
    """The results that others can compare with: of these weights, and not on the part of the training videos on which the model was selected."""
    if facts.results_step not in (None, facts.step):
        return {}
    return {split: metrics for split, metrics in facts.scored.items() if split != VALIDATION}


def _header(facts: ModelFacts) -> str:
    from huggingface_hub import ModelCardData

    data = facts.data
    results = []
    if data is not None:
        results = model_index_results(
            _benchmarked(facts),
            data.hub_id or data.name,
            data.name + (" (simulated features)" if data.is_simulated else ""),
            dataset_config=data.negatives if data.hub_id else None,
            dataset_revision=data.revision,
        )
    return ModelCardData(
        license=facts.license,
        library_name="transformers",
        language="en",
        base_model=facts.base_model,
        tags=[*TAGS, *(["simulated-features"] if data is not None and data.is_simulated else [])],
        datasets=[data.hub_id] if data is not None and data.hub_id else None,
        metrics=[name for name in REPORTED_METRICS if results] or None,
        model_name=facts.title if results else None,
        eval_results=results or None,
    ).to_yaml()


def _figures(facts: ModelFacts) -> dict[str, bytes]:
    """Training curves, saliency order and the example as PNG files, as far as there is something to draw."""
    from ..plots import plot_saliency_hierarchy, plot_training_curves

    figures = {}
    for name, plot, content in (
        ("training_curves", plot_training_curves, [_drawn(entry) for entry in facts.log_history]),
        ("saliency_hierarchy", plot_saliency_hierarchy, facts.scored),
        *([("saliency_example", _plot_example, facts.example)] if facts.example else []),
    ):
        try:
            figure = plot(content)
        except ImportError as error:
            logger.info("the card goes without figures: %s", error)
            return {}
        except ValueError:  # Nothing to draw yet.
            continue
        image = io.BytesIO()
        figure.savefig(image, dpi=110, metadata={"Software": None})
        figures[f"figures/{name}.png"] = image.getvalue()
    return figures


def _plot_example(example: SaliencyExample) -> Figure:
    from ..plots import plot_moments

    return plot_moments(
        example.query,
        example.moments,
        duration_seconds=example.duration_seconds,
        windows=example.windows,
        saliency=example.saliency,
        negative_saliency=example.negative_saliency,
        clip_length_seconds=example.clip_length_seconds,
    )


def _drawn(entry: Mapping[str, float]) -> dict[str, float]:
    """What the curves of a card show of a log entry: all of it would be too much."""
    return {name: value for name, value in entry.items() if name.endswith(CURVES)}


def public_settings(settings: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    """The settings that differ from the defaults; of folders and files only the last part of their path."""
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
        parts.append(name + separator + (os.path.basename(path) if _is_path(path) else public_spec(path)))
    return ",".join(parts)


def _is_path(text: str) -> bool:
    return os.path.isabs(text) or text.startswith("~") or os.path.exists(text)
