"""Averaged weights are evaluated, selected and saved; training itself does not change."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from shine_hf.training.weight_averaging import AVERAGE_FILE

from .test_trainer import Toy, make_trainer, splits  # noqa: F401

DECAY = 0.9


class Weights(TrainerCallback):
    """Record the weights after each step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: weight.detach().clone() for name, weight in model.named_parameters()})


def train(splits, output, resume=None, **settings):  # noqa: F811
    torch.manual_seed(0)
    trainer = make_trainer(splits, output, Toy(), **{"max_steps": 8, "logging_steps": 1, **settings})
    weights = Weights()
    trainer.add_callback(weights)
    initial = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train(resume_from_checkpoint=resume)
    return trainer, initial, weights.steps


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def averages(initial, steps):
    """Return the average after each step, by definition."""
    found, average = [], initial
    for step, weights in enumerate(steps, start=1):
        decay = min(DECAY, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * weights[name] for name in weights}
        found.append(average)
    return found


def assert_close(model, expected):
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=1e-5, atol=1e-6)


def test_training_ends_with_the_average_and_is_otherwise_unchanged(splits, tmp_path):  # noqa: F811
    plain, _, plain_steps = train(splits, tmp_path / "plain")
    trainer, initial, steps = train(splits, tmp_path / "averaged", ema_decay=DECAY)
    assert losses(trainer) == losses(plain)
    for name, weight in plain_steps[-1].items():
        assert torch.equal(steps[-1][name], weight)
    assert_close(trainer.model, averages(initial, steps)[-1])
    assert not torch.equal(trainer.model.clip.weight, steps[-1]["clip.weight"])


def test_average_is_evaluated_and_saved_as_the_best_model(splits, tmp_path):  # noqa: F811
    settings = dict(
        ema_decay=DECAY,
        eval_strategy="steps",
        eval_steps=3,
        metric_for_best_model="validation_loss",
        greater_is_better=False,
    )
    trainer, initial, steps = train(splits, tmp_path, **settings)
    best = trainer.state.best_global_step
    assert best in (3, 6, 8)
    # The run ends with the best model, which evaluates to the recorded metrics.
    assert_close(trainer.model, averages(initial, steps)[best - 1])
    rows = trainer.eval_dataset["validation"]
    found = trainer.evaluate(rows, metric_key_prefix="eval_validation")["eval_validation_loss"]
    assert found == pytest.approx(trainer.state.best_metric, rel=1e-4)
    # Training continued with its own weights after each evaluation.
    plain, _, plain_steps = train(splits, tmp_path / "plain", **{**settings, "ema_decay": None})
    assert losses(trainer) == losses(plain) and torch.equal(steps[-1]["clip.weight"], plain_steps[-1]["clip.weight"])


def test_resumed_run_ends_with_the_same_average(splits, tmp_path):  # noqa: F811
    settings = dict(ema_decay=DECAY, save_strategy="steps", save_steps=3)
    uninterrupted, _, _ = train(splits, tmp_path / "a", **settings)
    checkpoint = tmp_path / "a" / "checkpoint-3"
    assert set(load_file(checkpoint / AVERAGE_FILE)) == {name for name, _ in Toy().named_parameters()}
    resumed, _, _ = train(splits, tmp_path / "b", resume=str(checkpoint), **settings)
    for one, other in zip(uninterrupted.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_checkpoint_without_average_is_rejected(splits, tmp_path):  # noqa: F811
    train(splits, tmp_path, save_strategy="steps", save_steps=3)
    with pytest.raises(ValueError, match="was saved without ema_decay"):
        train(splits, tmp_path, resume=str(tmp_path / "checkpoint-3"), ema_decay=DECAY)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5, -0.1])
def test_decay_that_averages_nothing_is_rejected(splits, tmp_path, decay):  # noqa: F811
    with pytest.raises(ValueError, match="ema_decay must be between 0 and 1"):
        make_trainer(splits, tmp_path, ema_decay=decay)
