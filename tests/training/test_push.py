"""Training with pushes to a local Hub: the content of each revision, resuming from one, and Hub failures."""

import json
import logging
import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from shine_hf import QDDetrForMomentRetrieval, ShineTrainer
from shine_hf.cards.eval_results import EVAL_RESULTS_FILE
from shine_hf.cli import main
from shine_hf.training.recipe import parse_recipe
from shine_hf.training.run import run_recipe

from ..hub.hub_server import READ_TOKEN, WRITE_TOKEN
from ..made_up import write_charades_cg
from .test_run import arguments, losses

REPO = "shine/made-up"
STEPS = ("--max_steps", "8", "--save_steps", "4", "--eval_strategy", "steps", "--eval_steps", "4", "--logging_steps", "2", "--eval_splits",
         "novel_composition", "--eval_during_training", "validation")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_charades_cg(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(data, tmp_path):
    """Return a function that runs a recipe with pushes into `tmp_path / name`."""

    def run(strategy="every_save", *more, name="made-up"):
        push = ("--push_to_hub", "true", "--hub_strategy", strategy, *more)
        return run_recipe(parse_recipe(arguments(data, tmp_path / name, *STEPS, *push)))

    return run


def commits(hub):
    """Return title and content of every commit except the empty first one, oldest first."""
    repository = hub.repository(REPO, "models")
    oid, found = repository.branches["main"], []
    while repository.commits[oid].parent is not None:
        found.append((oid, repository.commits[oid]))
        oid = repository.commits[oid].parent
    return found[::-1]


def revisions(hub):
    """Return title and files of every commit except the empty first one, oldest first."""
    return [(commit.title, {path: file.content for path, file in commit.files.items()}) for _, commit in commits(hub)]


def write(files, folder):
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def python_blocks(card: bytes) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.decode(), re.S)


# ---- what is pushed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy", ["end", pytest.param("every_save", marks=pytest.mark.slow), "checkpoint", "all_checkpoints"]
)
def test_every_revision_is_complete(hub, online, train, data, tmp_path, strategy):
    train(strategy, "--hub_always_push", "true")
    found = revisions(hub)
    steps = [] if strategy == "end" else ["Training in progress, step 4", "Training in progress, step 8"]
    assert [title for title, _ in found] == [*steps, "Training in progress, model", "End of training"]
    for title, files in found:
        folder = write(files, tmp_path / "loaded" / title)
        QDDetrForMomentRetrieval.from_pretrained(folder)
        state = {path for path in files if path.endswith((".pt", ".pth", ".bin", "trainer_state.json"))}
        assert all(path.startswith(("last-checkpoint/", "checkpoint-")) for path in state)
        assert bool(state) == (strategy in ("checkpoint", "all_checkpoints"))
        for path, content in files.items():
            for secret in (WRITE_TOKEN, str(tmp_path), str(data), str(tmp_path / "made-up")):
                assert secret.encode() not in content, f"{path} of {title!r} holds {secret}"
        card = files["README.md"].decode()
        assert "(simulated features)" in card and "| validation (simulated) |" in card
        assert ("| novel_composition (simulated) |" in card) == (title == "End of training")
    folders = {path.partition("/")[0] for path in found[-1][1] if "/" in path}
    expected = {"checkpoint": {"last-checkpoint"}, "all_checkpoints": {"checkpoint-4", "checkpoint-8"}}
    assert folders == {"figures", ".eval_results"} | expected.get(strategy, set())
    assert not (tmp_path / "made-up" / ".unpushed").exists()


def test_every_revision_loads_without_the_package_and_its_card_examples_run(hub, online, train, run_client, capsys):
    train("all_checkpoints")
    with_package, without_package = python_blocks(revisions(hub)[-1][1]["README.md"])
    names = [oid for oid, _ in commits(hub)]
    code = f"""
import sys
sys.modules["shine_hf"] = None  # Importing it raises ImportError.
from transformers import AutoFeatureExtractor, AutoModel
for revision in {names}:
    model = AutoModel.from_pretrained("{REPO}", revision=revision, trust_remote_code=True)
    processor = AutoFeatureExtractor.from_pretrained("{REPO}", revision=revision, trust_remote_code=True)
    print(type(model).__name__, processor.video_dim)
"""
    printed = run_client(code + without_package).split("\n")
    assert len(names) == 4 and printed[:4] == ["QDDetrForMomentRetrieval 16"] * 4 and "'start'" in printed[4]
    capsys.readouterr()
    exec(with_package, {})
    assert "Moment(start=" in capsys.readouterr().out


def test_model_fine_tuned_from_a_folder_does_not_name_it(hub, online, train, tmp_path):
    train(name="start")
    train("every_save", "--model", str(tmp_path / "start"), "--hub_model_id", REPO, name="tuned")
    assert hub.repository("shine/start", "models") and len(revisions(hub)) > 1
    for path, content in revisions(hub)[-1][1].items():
        assert str(tmp_path).encode() not in content, path


def test_last_revision_has_the_results(hub, online, train, tmp_path):
    results = train()
    files = revisions(hub)[-1][1]
    assert files == {path: (tmp_path / "made-up" / path).read_bytes() for path in files}
    card = ModelCard(files["README.md"].decode())
    mean = round(results["novel_composition"]["mIoU"], 2)
    found = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found["novel_composition", "mIoU"] == mean and f" {mean:.2f} |" in card.content
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(yaml.safe_load(files[EVAL_RESULTS_FILE]))}
    entry = entries["novel_composition_miou"]
    assert entry.value == mean and entry.dataset_id == "shine/charades-cg-negatives" and "simulated" in entry.notes
    assert not any(name.startswith("validation") for name in entries)


def test_run_resumed_from_a_pushed_checkpoint_equals_the_original(hub, online, train, data, tmp_path):
    # The best model is from step 4, so a resumed run can end with it only if the checkpoint includes it.
    best = ("--metric_for_best_model", "validation_loss", "--greater_is_better", "true")
    train("checkpoint", "--hub_always_push", "true", *best)
    title, files = revisions(hub)[0]
    assert title.endswith("step 4")
    elsewhere = write(files, tmp_path / "downloaded") / "last-checkpoint"
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(elsewhere / name, weights_only=True)
    resumed = arguments(data, tmp_path / "resumed", *STEPS, *best, "--resume_from_checkpoint", str(elsewhere))
    run_recipe(parse_recipe(resumed))
    assert losses(tmp_path / "resumed") == losses(tmp_path / "made-up")
    uninterrupted, again = (
        QDDetrForMomentRetrieval.from_pretrained(tmp_path / name).state_dict() for name in ("made-up", "resumed")
    )
    assert all(torch.equal(uninterrupted[name], again[name]) for name in uninterrupted)


def test_only_the_main_process_pushes(hub, online, train, monkeypatch):
    monkeypatch.setattr(ShineTrainer, "is_world_process_zero", lambda self: False)
    train("all_checkpoints")
    assert hub.requests == []


# ---- Hubs that fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"pattern": "POST .*/commit/", "status": 503}, marks=pytest.mark.slow),
        pytest.param({"pattern": "POST .*/commit/", "status": 429, "Retry_After": "7"}, marks=pytest.mark.slow),
        pytest.param({"pattern": "PUT /storage", "status": None}, marks=pytest.mark.slow),
        {"pattern": "POST .*/commit/", "status": None, "after_handling": True},
    ],
    ids=["5xx", "429", "dropped upload", "lost reply"],
)
def test_hub_with_a_temporary_outage_gets_everything_in_the_end(hub, online, train, fault):
    # More failures than one push retries, so the first push gives up.
    hub.fail(**fault, times=9)
    train("all_checkpoints")
    title, files = revisions(hub)[-1]
    assert title == "End of training" and b"| novel_composition" in files["README.md"]
    assert {"checkpoint-4/optimizer.pt", "checkpoint-8/optimizer.pt"} <= set(files)
    assert fault.get("Retry_After") is None or 7.0 in online


def test_training_without_network_finishes_and_explains_how_to_push(hub, online, train, tmp_path, caplog):
    hub.fail(".", times=10**6)
    with caplog.at_level(logging.WARNING), pytest.raises(ConnectionError, match="failed 6 times"):
        train("all_checkpoints", "--hub_model_id", REPO)
    output = tmp_path / "made-up"
    assert json.loads((output / "all_results.json").read_text())["novel_composition_mIoU"] >= 0
    assert "novel_composition" in (output / "README.md").read_text()
    by_hand = [re.search(r"by hand: (.*)", record.getMessage()) for record in caplog.records]
    commands = {found[1] for found in by_hand if found}
    assert f"shine-hf publish model {output} --repo-id {REPO}" in commands
    # Both checkpoints and the model are staged there, exactly as they would have been pushed.
    uploads = sorted(command.split() for command in commands if command.startswith("hf upload"))
    assert [words[2] for words in uploads] == [REPO] * 3 and "optimizer.pt" in [
        path.name for path in (tmp_path / uploads[0][3] / "checkpoint-4").iterdir()
    ]
    # The advice works.
    hub.faults.clear()
    assert main(["publish", "model", str(output), "--repo-id", REPO]) == 0
    assert "README.md" in hub.files(REPO, "models") and not any(
        "unpushed" in path for path in hub.files(REPO, "models")
    )


def test_read_only_token_is_rejected_before_training(hub, online, train, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(PermissionError, match="refused to write"):
        train()
    assert not (tmp_path / "made-up" / "checkpoint-4").exists()
