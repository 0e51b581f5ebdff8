"""The entire job, from annotation files to `from_pretrained`, on a made-up dataset with simulated features."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from shine_hf import QDDetrForMomentRetrieval
from shine_hf.cli import main
from shine_hf.data.arguments import DataArguments
from shine_hf.data.loading import load_splits
from shine_hf.training import last_complete_checkpoint, run
from shine_hf.training.recipe import parse_recipe
from shine_hf.training.run import build_trainer, run_recipe

from ..made_up import write_charades_cg

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = [
    "--video_features",
    "simulated:dim=16,noise=0.5",
    "--text_features",
    "words:dim=12",
    "--hidden_size",
    "16",
    "--num_attention_heads",
    "2",
    "--intermediate_size",
    "32",
    "--num_queries",
    "4",
    "--validation_fraction",
    "0.2",
    "--per_device_train_batch_size",
    "4",
    "--disable_tqdm",
    "true",
    "--report_to",
    "none",
    "--seed",
    "3",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_charades_cg(tmp_path_factory.mktemp("data"))


def arguments(data, output, *more, recipe="charades_cg_qd_detr_shine"):
    return ["--config", recipe, "--data_dir", str(data), "--output_dir", str(output), *SMALL, *more]


def losses(output: Path) -> dict[int, float]:
    state = json.loads((output / "trainer_state.json").read_text())
    return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run and its initial model."""
    output = tmp_path_factory.mktemp("run") / "out"
    recipe = parse_recipe(
        arguments(data, output, "--max_steps", "60", "--learning_rate", "1e-3", "--max_grad_norm", "1", "--save_steps", "30", "--eval_strategy",
                  "steps", "--eval_steps", "30")
    )  # fmt: skip
    start = {name: value.clone() for name, value in build_trainer(recipe)[0].model.named_parameters()}
    torch.manual_seed(0)
    return output, run_recipe(recipe), start


def test_loss_decreases_and_every_parameter_changes(finished):
    output, _, start = finished
    curve = losses(output)
    assert curve[60] < 0.7 * curve[10]
    model = QDDetrForMomentRetrieval.from_pretrained(output / "checkpoint-60")
    still = [name for name, value in model.named_parameters() if torch.equal(value, start[name])]
    # Weight decay changes every nonzero weight; key biases start at zero and never get a gradient.
    assert [name for name in still if not name.endswith("k_proj.bias")] == []


def test_every_split_is_evaluated_on_all_its_queries(finished):
    output, results, _ = finished
    assert set(results) == {"validation", "test_trivial", "novel_composition", "novel_word"}
    for metrics in results.values():
        assert {"R1@0.3", "R1@0.5", "R1@0.7", "mIoU", "loss", "loss_span", "loss_coarse_intra"} <= set(metrics)
    # Only rows of train have negatives here, so only the validation split shows the entire chain.
    assert "positive>level1" in results["validation"] and "level1>level2" not in results["novel_word"]
    saved = json.loads((output / "novel_word_results.json").read_text())
    assert saved["novel_word_mIoU"] == results["novel_word"]["mIoU"]


def test_loss_terms_are_logged_and_add_up(finished):
    output, _, _ = finished
    entry = next(e for e in json.loads((output / "trainer_state.json").read_text())["log_history"] if "loss" in e)
    config = json.loads((output / "config.json").read_text())
    base = sum(
        config[f"{name}_loss_weight"] * (entry[f"loss_{name}"] + entry.get(f"loss_{name}_0", 0))
        for name in ("span", "giou", "label", "saliency")
    )
    total = base + entry["loss_coarse_intra"] + entry["loss_coarse_inter"] + entry["loss_fine"]
    assert entry["loss"] == pytest.approx(total, rel=1e-3)


def test_output_has_no_pickle_and_loads_everywhere(finished, data, tmp_path):
    output, _, _ = finished
    assert not [path.name for path in output.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert (output / "training_args.json").is_file() and (output / "preprocessor_config.json").is_file()
    assert type(AutoModel.from_pretrained(output)) is QDDetrForMomentRetrieval
    predict = ["predict", "--model", str(output), "--data-dir", str(data), "--split", "novel_word", "--video-features",
               "simulated:dim=16,noise=0.5", "--output"]  # fmt: skip
    assert main([*predict, str(tmp_path / "here.jsonl")]) == 0
    command = [
        sys.executable,
        "-c",
        "import sys; from shine_hf.cli import main; sys.exit(main(sys.argv[1:]))",
        *predict,
        str(tmp_path / "there.jsonl"),
    ]
    subprocess.run(
        command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True
    )
    here, there = (tmp_path / "here.jsonl").read_text(), (tmp_path / "there.jsonl").read_text()
    assert here == there and len(here.splitlines()) == 6


def test_predict_handles_several_queries_and_a_plot(finished, data, tmp_path, capsys):
    output, _, _ = finished
    command = [
        "predict",
        "--model",
        str(output),
        "--data-dir",
        str(data),
        "--video-features",
        "simulated:dim=16,noise=0.5",
        "--vid",
        "NOWO00",
    ]
    assert (
        main(
            [
                *command,
                "--query",
                "person opens the door.",
                "cat eats the book.",
                "--top-k",
                "2",
                "--plot",
                str(tmp_path / "p.png"),
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.count(" s   score ") == 4 and (tmp_path / "p.png").stat().st_size > 10_000
    assert main(command) == 2 and "pass --query" in capsys.readouterr().err
    assert main([*command[:-1], "NOPE", "--query", "x"]) == 2 and "'NOPE'" in capsys.readouterr().err


def test_model_can_be_evaluated_without_training(finished, data, tmp_path, monkeypatch, capsys):
    """Accept any spelling of the options, and write nothing except to the requested paths."""
    output, results, _ = finished
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    given = ["--data-dir", str(data), *SMALL[:4], "--validation_fraction", "0.2"]
    assert main(["evaluate", f"--model={output}", *given]) == 0
    table = capsys.readouterr().out
    assert f"{results['novel_composition']['mIoU']:7.2f}" in table and "simulated features" in table
    assert list(here.iterdir()) == []

    assert main(["evaluate", *given, "--output_dir", str(there), "--output", "all.json", "--model", str(output)]) == 0
    assert [path.name for path in here.iterdir()] == ["all.json"] and (there / "all_results.json").is_file()
    saved = json.loads((here / "all.json").read_text())
    assert saved["novel_composition"]["mIoU"] == pytest.approx(results["novel_composition"]["mIoU"])


def test_training_without_an_output_folder_is_rejected(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--model", "qd_detr", "--video-features", "simulated:"]) == 2
    assert "--output-dir is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--data-dir", "x"])
    assert stopped.value.code == 2 and "unrecognized arguments: --data-dir" in capsys.readouterr().err


def test_resumed_run_equals_uninterrupted_run_after_a_kill(data, tmp_path):
    """SIGKILL after a checkpoint, then the same command again: same losses and same weights as without the kill."""
    more = ("--max_steps", "24", "--save_steps", "4", "--logging_steps", "4", "--eval_strategy", "no", "--keep_best", "false", "--eval_splits",
            "novel_word", "--resume_from_checkpoint", "true")  # fmt: skip
    run_recipe(parse_recipe(arguments(data, tmp_path / "uninterrupted", *more)))

    command = [sys.executable, str(REPOSITORY / "train.py"), *arguments(data, tmp_path / "killed", *more)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    deadline = time.monotonic() + 120
    while (
        last_complete_checkpoint(str(tmp_path / "killed")) is None
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "trainer_state.json").exists(), "the run finished before it could be killed"
    # A checkpoint that was cut short must not be taken for a complete one.
    (tmp_path / "killed" / "checkpoint-99").mkdir()

    run_recipe(parse_recipe(arguments(data, tmp_path / "killed", *more)))
    assert losses(tmp_path / "killed") == losses(tmp_path / "uninterrupted")
    uninterrupted, killed = (
        QDDetrForMomentRetrieval.from_pretrained(tmp_path / name).state_dict() for name in ("uninterrupted", "killed")
    )
    assert all(torch.equal(uninterrupted[name], killed[name]) for name in uninterrupted)


@pytest.mark.parametrize(
    ("lost", "named"),
    [("optimizer.pt", "optimizer"), ("scheduler.pt", "learning-rate schedule"), ("rng_state.pth", "random number generators")],
)  # fmt: skip
def test_checkpoint_without_its_training_state_is_rejected(data, tmp_path, lost, named):
    """`Trainer` would silently continue without it, to other losses."""
    checkpoint = tmp_path / "checkpoint-2"
    checkpoint.mkdir()
    for name in {"optimizer.pt", "scheduler.pt", "rng_state.pth"} - {lost}:
        (checkpoint / name).touch()
    (checkpoint / "trainer_state.json").write_text("{}")
    for wanted in (str(checkpoint), "true"):
        with pytest.raises(ValueError, match=f"checkpoint-2 lacks the state of: {named}. Copy or download it again"):
            run_recipe(parse_recipe(arguments(data, tmp_path, "--resume_from_checkpoint", wanted)))


def test_batch_size_does_not_change_the_irrelevant_queries(data, tmp_path):
    """The irrelevant query depends on (seed, epoch, qid): one step of 8 rows equals two accumulated steps of 4."""
    more = ("--max_steps", "3", "--logging_steps", "1", "--dropout", "0", "--input_dropout", "0", "--save_strategy", "no", "--eval_strategy", "no",
            "--eval_splits", "novel_word")  # fmt: skip
    run_recipe(parse_recipe(arguments(data, tmp_path / "once", *more, "--per_device_train_batch_size", "8")))
    run_recipe(parse_recipe(arguments(data, tmp_path / "twice", *more, "--gradient_accumulation_steps", "2")))
    once, twice = losses(tmp_path / "once"), losses(tmp_path / "twice")
    assert list(once.values()) == pytest.approx(list(twice.values()), rel=1e-4)


@pytest.mark.parametrize(
    "name", ["charades_cg_qd_detr_base", "charades_cg_moment_detr_base", "charades_cg_moment_detr_shine"]
)
def test_other_recipes_train(data, tmp_path, name):
    more = (
        "--max_steps",
        "2",
        "--eval_splits",
        "novel_word",
        "--save_strategy",
        "no",
        "--eval_strategy",
        "no",
        "--logging_steps",
        "1",
    )
    run_recipe(parse_recipe(arguments(data, tmp_path, *more, recipe=name)))
    entry = json.loads((tmp_path / "trainer_state.json").read_text())["log_history"][0]
    assert ("loss_fine" in entry) == name.endswith("shine")
    assert ("loss_saliency_margin" in entry) and ("loss_saliency_rank_contrastive" in entry) == ("qd_detr" in name)


def test_video_features_must_be_named(data, tmp_path):
    recipe = parse_recipe(arguments(data, tmp_path))
    recipe.data.video_features = []
    with pytest.raises(ValueError, match="no video features given"):
        build_trainer(recipe)
    recipe.data.video_features = [f"i3d:{tmp_path}/features"]
    with pytest.raises(FileNotFoundError, match="VSLNet"):
        build_trainer(recipe)


def test_features_on_another_time_grid_are_rejected_before_training(data, tmp_path):
    """If the clips covered only half of each video, later windows would be lost silently."""
    splits = load_splits(DataArguments(dataset="charades_cg", data_dir=str(data), negatives="none"))
    for rows in splits.values():
        for row in rows:
            np.save(tmp_path / f"{row['vid']}.npy", np.ones((int(row["duration"]), 4), np.float32))
    features = ["--video_features", f"i3d:{tmp_path}"]
    recipe = parse_recipe(arguments(data, tmp_path / "out", *features, "--max_steps", "1"))
    with pytest.raises(
        ValueError, match=r"train, .*the clips of \d+ of \d+ videos do not cover .*seem to be 1 s long"
    ):
        run_recipe(recipe)
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    build_trainer(parse_recipe(arguments(data, tmp_path / "out", *features, "--clip_length", "1", "--max_steps", "1")))


class Built(Exception):
    pass


@pytest.mark.parametrize(
    ("options", "keeps"),
    [
        (["--do_train", "true"], True),
        (["--do_train", "true", "--keep_freed_memory", "false"], False),
        (["--do_train", "false"], False),
    ],
)
def test_cpu_training_keeps_freed_memory_by_default(options, keeps, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(run, "keep_freed_memory", lambda: calls.append(True))
    start(options, tmp_path, monkeypatch)
    assert bool(calls) is keeps


@pytest.mark.parametrize(("capability", "warns"), [("AVX2", True), ("AVX512", False)])
def test_bfloat16_on_a_cpu_without_avx512_gets_a_warning(capability, warns, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    start(["--do_train", "true", "--bf16", "true"], tmp_path, monkeypatch)
    assert ("has no AVX-512" in caplog.text) is warns


def start(options, tmp_path, monkeypatch):
    """Start a run on the CPU, and stop before its model is built."""

    def stop_here(recipe):
        raise Built

    monkeypatch.setattr(run, "build_trainer", stop_here)
    recipe = parse_recipe(
        ["--config", "charades_cg_qd_detr_shine", "--video_features", "simulated:", "--output_dir", str(tmp_path)]
        + ["--use_cpu", "true", *options]
    )
    with pytest.raises(Built):
        run_recipe(recipe)
