"""Machine and data faults: after any of them, the same command resumes to exactly the results of an uninterrupted run, or explains why not.

Longer checks, e.g. kills at random times, are in `benchmarks/faults/`.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerState

from shine_hf import QDDetrForMomentRetrieval, ShineTrainer
from shine_hf.io import atomic_dir
from shine_hf.training import checkpoints, last_complete_checkpoint
from shine_hf.training.checkpoints import is_complete
from shine_hf.training.loss_watch import LossWatch, describe
from shine_hf.training.recipe import parse_recipe
from shine_hf.training.run import TrainingStopped, run_recipe

from ..made_up import write_charades_cg
from ..modeling.helpers import batch, tiny_model
from .test_run import REPOSITORY, arguments, losses

STEPS = 12
# An epoch has 5 steps. Every evaluation gives a new best model, so every fault hits all kinds of saved files.
SETTINGS = ("--max_steps", str(STEPS), "--save_steps", "4", "--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "4",
            "--metric_for_best_model", "validation_loss", "--greater_is_better", "false", "--eval_during_training", "validation", "--eval_splits",
            "novel_word", "--save_total_limit", "2", "--resume_from_checkpoint", "true")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_charades_cg(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Skip the figures, which take most of the time of such a small run."""
    monkeypatch.setattr("shine_hf.cards.model_card._figures", lambda facts: {})


def outcome(output: Path) -> tuple[dict[int, float], dict[str, torch.Tensor]]:
    return losses(output), QDDetrForMomentRetrieval.from_pretrained(output).state_dict()


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("uninterrupted")
    run_recipe(parse_recipe(arguments(data, output, *SETTINGS)))
    return outcome(output)


@pytest.fixture
def train(data, tmp_path):
    def run(*more):
        return run_recipe(parse_recipe(arguments(data, tmp_path / "out", *SETTINGS, *more)))

    run.output = tmp_path / "out"
    return run


def assert_same(output: Path, uninterrupted) -> None:
    """To the bit."""
    curve, weights = outcome(output)
    assert curve == uninterrupted[0] and list(curve) == list(range(1, STEPS + 1))
    assert all(torch.equal(weights[name], value) for name, value in uninterrupted[1].items())


# ---- signals ---------------------------------------------------------------------------------------------------------


def at_step(step: int, action):
    """Return a `training_step` that runs an action before the given step."""
    training_step = ShineTrainer.training_step

    def interrupted(trainer, *args, **kwargs):
        if trainer.state.global_step + 1 == step:
            action()
        return training_step(trainer, *args, **kwargs)

    return ShineTrainer, "training_step", interrupted


# First step, last step of an epoch, mid-epoch, a step with a checkpoint, and the last step. With a limit of 1, `Trainer` would end by
# deleting every checkpoint except the best.
@pytest.mark.parametrize("limit", ["1", "2"])
@pytest.mark.parametrize("step", [1, 5, 7, 8, STEPS])
def test_signal_at_any_step_saves_it_and_the_run_resumes_there(train, uninterrupted, monkeypatch, step, limit):
    with monkeypatch.context() as patch:
        patch.setattr(*at_step(step, lambda: signal.raise_signal(signal.SIGTERM)))
        with pytest.raises(
            TrainingStopped,
            match=rf"by SIGTERM after step {step} of {STEPS}. Step {step} is saved in .*-{step}: continue .* true\.",
        ):
            train("--save_total_limit", limit)
    assert last_complete_checkpoint(str(train.output)).endswith(f"checkpoint-{step}")
    assert not (train.output / "all_results.json").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train("--save_total_limit", limit)
    assert_same(train.output, uninterrupted)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGUSR1, signal.SIGXCPU)),
    ],
)
def test_every_termination_signal_saves_the_step_even_in_a_resumed_run(train, uninterrupted, monkeypatch, number):
    handler = signal.getsignal(number)
    for step in (6, 9, 11):
        with monkeypatch.context() as patch:
            patch.setattr(*at_step(step, lambda: signal.raise_signal(number)))
            with pytest.raises(TrainingStopped, match=f"Step {step} is saved") as stopped:
                train("--save_total_limit", "1")
        assert stopped.value.exit_status == 128 + number and signal.getsignal(number) == handler
        assert [path.name for path in train.output.glob("checkpoint-*")] == [f"checkpoint-{step}"]
    train("--save_total_limit", "1")
    assert_same(train.output, uninterrupted)
    # The newest checkpoint is kept after training, so nothing is trained again.
    assert [path.name for path in train.output.glob("checkpoint-*")] == [f"checkpoint-{STEPS}"]


def test_second_ctrl_c_interrupts_at_once(train, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(*at_step(6, twice))
    with pytest.raises(KeyboardInterrupt):
        train("--save_total_limit", "1")
    assert [path.name for path in train.output.glob("checkpoint-*")] == ["checkpoint-4"]


@pytest.mark.parametrize(("limit", "left"), [("1", {6}), ("3", {6, 8, 12})])
def test_run_resumed_from_an_earlier_step_keeps_and_names_its_own_checkpoint(train, monkeypatch, limit, left):
    """Checkpoints with higher numbers are older here, by less than the file system's time resolution."""
    train("--save_total_limit", "3")
    monkeypatch.setattr(*at_step(6, lambda: signal.raise_signal(signal.SIGTERM)))
    wanted = f"{train.output}/checkpoint-6"
    option = "true" if limit == "1" else wanted
    with pytest.raises(TrainingStopped, match=rf"saved in {wanted}: continue .* --resume_from_checkpoint {option}\."):
        train("--save_total_limit", limit, "--resume_from_checkpoint", f"{train.output}/checkpoint-4")
    assert {int(path.name.split("-")[1]) for path in train.output.glob("checkpoint-*")} == left
    assert is_complete(wanted)


def fail(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError),
        (MemoryError("no more"), MemoryError),
        (IndexError("a bug"), IndexError),
    ],
)
def test_step_errors_say_what_is_saved_and_lose_nothing_else(train, uninterrupted, monkeypatch, error, raised):
    for step, saved in ((6, 4), (11, 8)):
        with monkeypatch.context() as patch:
            patch.setattr(*at_step(step, fail(error)))
            with pytest.raises(raised) as failed:
                train("--save_total_limit", "1")
        said = " ".join([str(failed.value), *getattr(failed.value, "__notes__", ())])
        assert (
            f"fter step {step - 1} of {STEPS}" in said
            and f"Step {saved} is saved in {train.output}/checkpoint-{saved}: continue" in said
        )
        assert ("per_device_train_batch_size" in said) == (raised is MemoryError)
    train("--save_total_limit", "1")
    assert_same(train.output, uninterrupted)


def test_early_stopped_run_keeps_its_newest_checkpoint_and_takes_no_further_step(train):
    settings = (
        "--save_total_limit",
        "1",
        "--early_stopping_patience",
        "1",
        "--learning_rate",
        "0",
        "--eval_steps",
        "2",
        "--save_steps",
        "2",
    )
    train(*settings)
    assert [path.name for path in train.output.glob("checkpoint-*")] == ["checkpoint-4"]
    before = (train.output / "trainer_state.json").read_text()
    train(*settings)
    assert json.loads((train.output / "trainer_state.json").read_text())["global_step"] == 4
    evaluations = [entry for entry in json.loads(before)["log_history"] if "eval_validation_loss" in entry]
    assert len(evaluations) == 2


def test_sigterm_to_all_processes_ends_the_command_with_143(data, uninterrupted, tmp_path):
    """Signal all processes as a scheduler does, including the data loader workers."""
    output, more = tmp_path / "out", ("--dataloader_num_workers", "1", "--dataloader_persistent_workers", "true")
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *arguments(data, output, *SETTINGS, *more)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    while last_complete_checkpoint(str(output)) is None and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    if "stopped by SIGTERM" in errors:
        assert process.returncode == 143 and "Traceback" not in errors
    else:
        # The signal came after training, when there is nothing left to save.
        assert process.returncode == -signal.SIGTERM and (output / "config.json").exists()
    run_recipe(parse_recipe(arguments(data, output, *SETTINGS)))
    assert_same(output, uninterrupted)


class Killed(BaseException):
    """Like SIGKILL: nothing here catches it to clean up."""


def kill_instead(place, name, nth, before=lambda *args: None):
    """Return a patch that dies at the `nth` call of a function, after `before` has done part of its work."""
    original, calls = getattr(place, name), iter(range(10**6))

    def call(*args, **kwargs):
        if next(calls) == nth - 1:
            before(*args)
            raise Killed
        return original(*args, **kwargs)

    return place, name, call


def write_half_weights(self, folder, *_):
    os.mkdir(folder)
    Path(folder, "model.safetensors").write_bytes(b"half")


def write_half(self, path):
    text = json.dumps(vars(self), default=str)
    Path(path).write_text(text[: len(text) // 2])


@pytest.mark.parametrize(
    ("place", "name", "nth", "before"),
    [
        # Saves alternate: best model and checkpoint of step 4, then of steps 8 and 12.
        (ShineTrainer, "_save", 2, write_half_weights),
        (checkpoints.os, "rename", 2, lambda *_: None),
        (checkpoints.os, "rename", 3, lambda *_: None),
        (torch, "save", 5, lambda _, path: Path(path).write_bytes(b"half")),
        (TrainerState, "save_to_json", 2, write_half),
        (TrainerState, "save_to_json", 3, lambda *_: None),
        (shutil, "rmtree", 2, lambda *_: None),
    ],
)  # fmt: skip
def test_kill_while_saving_leaves_no_partial_file_that_looks_complete(
    train, uninterrupted, monkeypatch, place, name, nth, before
):
    with monkeypatch.context() as patch:
        patch.setattr(*kill_instead(place, name, nth, before))
        with pytest.raises(Killed):
            train()
    for folder in train.output.glob("checkpoint-*"):
        if is_complete(str(folder)):
            QDDetrForMomentRetrieval.from_pretrained(folder)
    if (train.output / "best").exists():
        QDDetrForMomentRetrieval.from_pretrained(train.output / "best")
    train()
    assert_same(train.output, uninterrupted)


def test_truncated_checkpoint_is_rejected_with_its_name(train, tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    with pytest.raises(
        ValueError, match=r"checkpoint-4 is not a complete checkpoint.*The last complete one of this run is None"
    ):
        train("--resume_from_checkpoint", str(tmp_path / "checkpoint-4"))


# ---- disk ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size_bytes: int):
    """Make writes beyond this size fail with an OS error, as on a full disk, even for root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# The best model and its weights are written first, the state of the optimizer is about twice as large.
@pytest.mark.parametrize(("size_bytes", "failing"), [(4_000, "best"), (150_000, "checkpoint-8")])
def test_full_disk_stops_training_with_advice_and_loses_nothing(
    train, uninterrupted, monkeypatch, size_bytes, failing
):
    save, limit = ShineTrainer.save_best_model, contextlib.ExitStack()

    def fill_disk(trainer):
        if trainer.state.global_step == 8:
            limit.enter_context(largest_file(size_bytes))
        return save(trainer)

    with monkeypatch.context() as patch, limit:
        patch.setattr(ShineTrainer, "save_best_model", fill_disk)
        with pytest.raises(
            OSError,
            match=rf"{failing} could not be saved: .* Fix the cause. Step 4 is saved in .*checkpoint-4: continue",
        ):
            train()
    assert not (train.output / "checkpoint-8").exists()
    best = QDDetrForMomentRetrieval.from_pretrained(train.output / "best")
    assert all(weight.isfinite().all() for weight in best.parameters())
    train()
    assert_same(train.output, uninterrupted)


def test_folder_is_replaced_atomically(tmp_path):
    folder = tmp_path / "best"
    for content in ("old", "new"):
        with atomic_dir(str(folder)) as new:
            Path(new, "a").write_text(content)
        assert [path.name for path in tmp_path.iterdir()] == ["best"] and (folder / "a").read_text() == content
    with pytest.raises(OSError, match="full"), atomic_dir(str(folder)) as new:
        raise OSError("full")
    assert (folder / "a").read_text() == "new"


# ---- non-finite losses -----------------------------------------------------------------------------------------------


def test_query_that_breaks_the_loss_is_named_even_if_found_later(train, monkeypatch):
    """One video has a NaN in its features. The loss is checked every fourth step, after the weights have become NaN."""
    collate, seen = ShineTrainer.get_train_dataloader, []

    def poisoned(trainer):
        original = trainer.data_collator

        def call(rows):
            inputs = original(rows)
            if trainer.state.global_step >= 5:
                inputs["video_features"][1, 0, 0] = float("nan")
                seen.append(rows[1]["qid"])
            return inputs

        trainer.data_collator = call
        return collate(trainer)

    monkeypatch.setattr(ShineTrainer, "get_train_dataloader", poisoned)
    with pytest.raises(FloatingPointError) as stopped:
        train("--logging_steps", "4", "--eval_strategy", "no", "--keep_best", "false")
    message = str(stopped.value)
    assert "at step 8, first at step" in message and "for 1 of 4 queries: " + seen[0] in message, message
    assert f"Step 4 is saved in {train.output}/checkpoint-4" in message
    # Non-finite weights are never saved.
    assert [path.name for path in train.output.glob("checkpoint-*")] == ["checkpoint-4"]


def test_loss_watch_reads_nothing_from_the_device_until_checked():
    """Run on the `meta` device, where any read that would make a GPU step wait for the host raises."""
    inputs = batch()
    with torch.no_grad():
        outputs = tiny_model("qd_detr")(**inputs)
    on_meta = {name: value.to("meta") for name, value in outputs.items() if isinstance(value, torch.Tensor)}
    labels = {name: value.to("meta") for name, value in inputs.pop("labels").items()} | {"qids": ["a", "b", "c"]}
    watch = LossWatch()
    watch.record(1, on_meta["loss"], on_meta, {k: v.to("meta") for k, v in inputs.items()} | {"labels": labels})
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        watch.first_broken()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([None, None], "an update of the weights broke them"),
        ([(3, ["a"], 4), (2, ["b", "c"], 4), None], "first at step 2, for 2 of 4 queries: b, c"),
        ([(2, ["a"], 2), (2, ["b"], 2)], "first at step 2, for 2 of 4 queries: a, b"),
        ([(2, ["a", "b"], 2), (2, ["c", "d"], 2)], "for all 4 queries of its batch, which points to the weights"),
        ([(2, [], 4)], "the loss itself overflowed"),
    ],
)
def test_findings_of_several_processes_are_merged_into_one_message(found, said):
    assert said in describe(found)
