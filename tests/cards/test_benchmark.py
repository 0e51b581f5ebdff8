"""The benchmark file of a dataset names exactly the tasks that models report."""

import yaml

from shine_hf.cards.benchmark import render_benchmark
from shine_hf.cards.eval_results import BENCHMARK_METRICS, eval_results_yaml

BUILD = {
    "config_name": "lexical",
    "default": True,
    "about": {"name": "Charades-CG", "description": "New pairs of words."},
    "dataset_info": {"splits": [{"name": "train"}, {"name": "novel_composition"}]},
}


def test_tasks_are_those_that_models_report():
    benchmark = yaml.safe_load(render_benchmark([BUILD]))
    results = {"novel_composition": {metric: 50.0 for metric in BENCHMARK_METRICS}}
    reported = yaml.safe_load(eval_results_yaml(results, "user/data"))
    assert [task["id"] for task in benchmark["tasks"]] == [entry["dataset"]["task_id"] for entry in reported]
    assert {(task["config"], task["split"]) for task in benchmark["tasks"]} == {("lexical", "novel_composition")}
    assert benchmark["name"] == "Charades-CG" and benchmark["description"] == "New pairs of words."
