"""Run one recipe on made-up rows that lack various loss terms, in this process or through `accelerate launch train.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from shine_hf.training.recipe import parse_recipe
from shine_hf.training.run import run_recipe

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "shine_hf" / "accelerate_configs"
TRAIN_VIDEOS, TEST_ROWS = 31, 11
VERBS, NOUNS = ("opens", "closes", "holds", "throws"), ("door", "book", "phone", "pillow", "cup")


def write_rows(folder: Path) -> str:
    """Write rows as jsonl and return the value of `--dataset`. Videos are cut after 8 half-second clips (`--max_video_length 8`)."""
    for name, count in (("train", 3 * TRAIN_VIDEOS), ("test", TEST_ROWS)):
        with open(folder / f"{name}.jsonl", "w") as file:
            file.writelines(json.dumps(_row(name, index)) + "\n" for index in range(count))
    return f"train={folder}/train.jsonl,test={folder}/test.jsonl"


def _row(split: str, index: int) -> dict:
    verb, noun = VERBS[index % 4], NOUNS[(index * 3 + index // 4) % 5]
    duration = 6.0 + index // 3 % 3
    negatives = [f"person drops the {noun}.", f"person drops the {NOUNS[index % 4]} now.", "cat eats a fish."]
    if index % 3 == 0:
        negatives[index % 2] = ""  # A level that validation rejected.
    if index % 7 == 0:
        negatives = []
    windows = [[0.5, 1.6]]
    if index % 4 == 1:
        windows = [[0.2, 1.1], [1.9, 2.4], [3.0, 3.9]]
    if split == "train" and index % 25 == 0:
        windows = [[4.6, duration - 0.5]]  # After the last clip that is kept: no window, no clip inside.
    return {
        "qid": f"{split}{index}",
        "vid": f"{split}{index // 3}",
        "query": f"person {verb} the {noun}.",
        "duration": duration,
        "relevant_windows": windows,
        "masked_queries": [],
        "negative_queries": negatives,
    }


def arguments(dataset: str, output: Path, *more: str) -> list[str]:
    """
    Return the arguments of a tiny QD-DETR with SHINE, without dropout and with every term of the base loss.

    As in all recipes, there are evaluations during training, and one before it, which checks `metric_for_best_model`.
    """
    settings = {
        "config": "charades_cg_qd_detr_shine", "dataset": dataset, "output_dir": output, "video_features": "simulated:dim=16,noise=0.5",
        "text_features": "words:dim=12", "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_queries": 4,
        "max_video_length": 8, "margin_pairs": "true", "dropout": 0, "input_dropout": 0, "validation_fraction": 0.2, "max_steps": 20,
        "logging_steps": 1, "save_strategy": "no", "eval_strategy": "steps", "eval_steps": 10, "keep_best": "false", "eval_splits": "test",
        "per_device_eval_batch_size": 4, "use_cpu": "true", "disable_tqdm": "true", "report_to": "none", "seed": 3,
    }  # fmt: skip
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))] + list(more)


def run_here(argv: list[str]) -> None:
    """Train and evaluate in this process."""
    run_recipe(parse_recipe(argv))


def launch(config: str, argv: list[str], timeout_seconds: int = 200) -> str:
    """Run `accelerate launch --config_file CONFIG train.py ARGV` and return its output. The packaged configs use any free port."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml"),
               str(REPOSITORY / "train.py"), *argv]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_seconds)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


def history(output: Path) -> list[dict]:
    """Return the logged loss and loss terms of each training step."""
    entries = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [
        {name: value for name, value in entry.items() if name.startswith("loss") or name == "grad_norm"}
        for entry in entries
        if "loss" in entry
    ]


def weights(output: Path) -> dict:
    """Return the saved weights without key biases, which change no output and are driven only by rounding."""
    tensors = load_file(output / "model.safetensors")
    return {name: value for name, value in tensors.items() if not name.endswith("k_proj.bias")}


def metrics(output: Path) -> dict[str, float]:
    """Return the metrics of the test split, without times and epoch."""
    found = json.loads((output / "test_results.json").read_text())
    return {
        name: value
        for name, value in found.items()
        if not name.endswith(("_runtime", "_per_second", "_time", "epoch"))
    }
