"""Render `eval.yaml`, which makes a dataset repository a benchmark on the Hub with its own leaderboard.

The file at the root of the repository names the tasks; models report one number per task in `.eval_results/*.yaml`. See
https://huggingface.co/docs/hub/eval-results. The Hub shows the leaderboard once the dataset is on its allow-list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from .dataset_card import sort_builds
from .eval_results import BENCHMARK_METRICS, task_id

BENCHMARK_FILE = "eval.yaml"


def render_benchmark(builds: Sequence[Mapping]) -> str:
    """Return the content of `eval.yaml`: a task for each metric on each test split of the default config.

    Args:
        builds: The `build.json` of every config.
    """
    default = sort_builds(builds)[0]
    about = default["about"]
    splits = [split["name"] for split in default["dataset_info"]["splits"] if split["name"] != "train"]
    tasks = [
        {"id": task_id(split, metric), "config": default["config_name"], "split": split}
        for split in splits
        for metric in BENCHMARK_METRICS
    ]
    benchmark = {
        "name": about["name"],
        "description": about["description"],
        "evaluation_framework": "shine-hf",
        "tasks": tasks,
    }
    return yaml.safe_dump(benchmark, sort_keys=False, allow_unicode=True, width=120)
