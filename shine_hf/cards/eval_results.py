"""Evaluation results in the two formats of the Hub: `.eval_results/*.yaml`, and the older `model-index` of a card's header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

EVAL_RESULTS_FILE = ".eval_results/moment_retrieval.yaml"
REPORTED_METRICS = ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU", "mAP")
# The metrics that a benchmark ranks by; all other numbers are on the cards.
BENCHMARK_METRICS = ("R1@0.5", "R1@0.7", "mIoU")
TASK, TASK_NAME = "video-moment-retrieval", "Video moment retrieval"


def eval_results_yaml(
    results: Mapping[str, Mapping[str, float]],
    dataset_id: str,
    *,
    dataset_revision: str | None = None,
    notes: str | None = None,
) -> str:
    """Return the content of [`EVAL_RESULTS_FILE`], which the Hub shows on the pages of the model and the dataset.

    Args:
        results: Split -> metric -> value in percent.
        dataset_id: Name of the dataset on the Hub.
        dataset_revision: Its commit, if known.
        notes: What readers must know about the numbers, e.g. that the features were simulated.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(dataset_id, task_id(split, metric), value, dataset_revision=dataset_revision, notes=notes)
        for split, metric, value in _reported(results)
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True, width=120)


def model_index_results(
    results: Mapping[str, Mapping[str, float]],
    dataset_id: str,
    dataset_name: str,
    *,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
) -> list[EvalResult]:
    """Return the same numbers for `huggingface_hub.ModelCardData(eval_results=…)`."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=TASK,
            task_name=TASK_NAME,
            dataset_type=dataset_id,
            dataset_name=dataset_name,
            dataset_config=dataset_config,
            dataset_split=split,
            dataset_revision=dataset_revision,
            metric_type=metric,
            metric_name=f"{metric} (%)",
            metric_value=value,
        )
        for split, metric, value in _reported(results)
    ]


def _reported(results):
    for split, metrics in results.items():
        for metric in REPORTED_METRICS:
            if metric in metrics:
                yield split, metric, round(float(metrics[metric]), 2)


def task_id(split: str, metric: str) -> str:
    """Return the ID of the Hub task for a metric on a split, e.g. `novel_composition_r1_at_0_5`. Each task has a single number."""
    return re.sub(r"[^a-z0-9]+", "_", f"{split} {metric.replace('@', ' at ')}".lower())
