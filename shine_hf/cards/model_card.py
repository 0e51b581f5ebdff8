"""Render the card of a trained model from plain facts about the run: README.md, its figures, and the evaluation results for the Hub."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..encoders import is_text_encoder_spec, is_video_encoder_spec
from ..io import atomic_file
from ..schema import VALIDATION
from .dataset_card import CARD_FILE
from .eval_results import EVAL_RESULTS_FILE, REPORTED_METRICS, TASK, eval_results_yaml, model_index_results
from .facts import ARCHITECTURES, DataFacts, ModelFacts, SaliencyExample
from .template import render_template

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

TAGS = (TASK, "temporal-grounding", "compositional-generalization", "shine")
SIMULATED_NOTE = "simulated features, computed from the annotations: not comparable with results on real videos"
# Suffixes of the logged values that are plotted over the steps.
CURVES = ("step", "loss", "loss_coarse_intra", "loss_coarse_inter", "loss_fine", "R1@0.5", "mIoU", "positive>level1")


def card_files(facts: ModelFacts, with_figures: bool = True) -> dict[str, bytes]:
    """Return path -> content of the card, its figures (which take about 1 s; none without matplotlib) and the evaluation results."""
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
    """Return the text of the card, header included.

    Args:
        figures: Paths of the figures, relative to the card.
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


def _notes(data: DataFacts) -> str | None:
    notes = [SIMULATED_NOTE] if data.is_simulated else []
    if data.eval_limit is not None:
        notes.append(f"only the first {data.eval_limit:,} queries of each split")
    return "; ".join(notes) or None


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    """Return e.g. `81.3 (78.0–84.2)`; an empty cell if the metric was not measured."""
    if name not in metrics:
        return ""
    value = f"{metrics[name]:.1f}"
    if f"{name}_low" in metrics:
        value += f" ({metrics[f'{name}_low']:.1f}–{metrics[f'{name}_high']:.1f})"
    return value


def _benchmarked(facts: ModelFacts) -> dict[str, dict[str, float]]:
    """Return the results that others can compare with: those of these weights, except on the split that selects the model."""
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
    """Return the training curves, the saliency order and the example as PNG files, if there is anything to draw."""
    from ..plots import plot_saliency_hierarchy, plot_training_curves

    figures = {}
    drawn: list[tuple[str, Callable, object]] = [
        ("training_curves", plot_training_curves, [_plotted(entry) for entry in facts.log_history]),
        ("saliency_hierarchy", plot_saliency_hierarchy, facts.scored),
        *([("saliency_example", _plot_example, facts.example)] if facts.example else []),
    ]
    for name, plot, content in drawn:
        try:
            figure = plot(content)
        except ImportError as error:
            logger.info("the card has no figures: %s", error)
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


def _plotted(entry: Mapping[str, float]) -> dict[str, float]:
    """Return the values of a log entry that are plotted."""
    return {name: value for name, value in entry.items() if name.endswith(CURVES)}
