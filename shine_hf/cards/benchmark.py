"""`eval.yaml`: what makes a dataset repository a benchmark of the Hub, with a leaderboard of its own.

The file at the root of the repository names the tasks; models report a figure per task in `.eval_results/*.yaml`. See
https://huggingface.co/docs/hub/eval-results. The Hub shows the leaderboard once the dataset is on its allow-list.
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from .eval_results import BENCHMARK_METRICS, task_id

BENCHMARK_FILE = "eval.yaml"


def render_benchmark(name: str, description: str, config: str, splits: Sequence[str]) -> str:
    """Return the content of `eval.yaml`.

    Args:
        name: Of the benchmark, e.g. `Charades-CG`.
        description: One sentence.
        config: The config whose test splits are scored.
        splits: Names of the splits that are scored.
    """
    tasks = [
        {"id": task_id(split, metric), "config": config, "split": split}
        for split in splits
        for metric in BENCHMARK_METRICS
    ]
    benchmark = {"name": name, "description": description, "evaluation_framework": "shine-hf", "tasks": tasks}
    return yaml.safe_dump(benchmark, sort_keys=False, allow_unicode=True, width=120)
