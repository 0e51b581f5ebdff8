"""A training step does not depend on how it is split over processes or accumulated batches, even on rows that lack loss terms."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_map_only
from transformers import set_seed

from shine_hf import ShineLoss
from shine_hf.modeling.moment_retrieval_loss import mean_terms
from shine_hf.training import ShineTrainer
from shine_hf.training.recipe import parse_recipe
from shine_hf.training.run import build_trainer
from shine_hf.training.step_loss import StepLoss

from ..modeling.helpers import batch, tiny_model
from .runs import arguments, history, launch, metrics, run_here, weights, write_rows

TOLERANCE = dict(rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows"))


def run(dataset, output, batch_size: int, *more) -> None:
    run_here(arguments(dataset, output, "--per_device_train_batch_size", str(batch_size), *more))


def assert_same_training(one, other) -> None:
    expected, found = history(one), history(other)
    assert len(expected) == len(found) == 20
    for step, (want, got) in enumerate(zip(expected, found), start=1):
        assert_close(got, want, **TOLERANCE, msg=lambda text, step=step: f"step {step}: {text}")
    assert_close(weights(other), weights(one), **TOLERANCE)


@pytest.fixture(scope="module")
def single_process(dataset, tmp_path_factory):
    """Train in one process with batches of 32. There are 75 rows, so the last batch of each epoch is short."""
    output = tmp_path_factory.mktemp("single_process")
    run(dataset, output, 32)
    return output


@pytest.fixture(scope="module")
def two_processes(dataset, tmp_path_factory):
    """Train in two processes, started by `accelerate launch`, with batches of 16."""
    output = tmp_path_factory.mktemp("two_processes")
    launch("cpu", arguments(dataset, output, "--per_device_train_batch_size", "16"))
    return output


def test_two_processes_with_batch_16_equal_one_with_batch_32(single_process, two_processes):
    assert_same_training(single_process, two_processes)


def test_eight_accumulated_rows_equal_a_batch_of_eight(dataset, tmp_path):
    run(dataset, tmp_path / "full", 8)
    run(dataset, tmp_path / "rows", 1, "--gradient_accumulation_steps", "8")
    assert_same_training(tmp_path / "full", tmp_path / "rows")


@pytest.mark.slow
def test_losses_beyond_the_paper_do_not_depend_on_processes_or_accumulation(dataset, tmp_path):
    more = ["--decoder_negative_weight", "0.5", "--decoder_negative_form", "ranking", "--clip_contrast_weight", "0.5"]
    more += ["--weigh_changed_words", "true"]
    run(dataset, tmp_path / "full", 16, *more)
    run(dataset, tmp_path / "rows", 2, "--gradient_accumulation_steps", "8", *more)
    two_processes = arguments(dataset, tmp_path / "two", "--per_device_train_batch_size", "8", *more)
    launch("cpu", two_processes)
    assert_same_training(tmp_path / "full", tmp_path / "rows")
    assert_same_training(tmp_path / "full", tmp_path / "two")
    assert {"loss_decoder_negative", "loss_clip_contrast"} <= history(tmp_path / "full")[0].keys()


def test_averaging_partial_losses_would_change_the_loss(dataset, tmp_path, monkeypatch):
    """Check that the test rows are sensitive: without the counts of the full step, the losses are off by far more than the tolerance."""
    get_batch_samples = ShineTrainer.get_batch_samples
    run(dataset, tmp_path / "full", 8, "--max_steps", "2")
    monkeypatch.setattr(ShineTrainer, "get_batch_samples", lambda *args: (get_batch_samples(*args)[0], None))
    run(dataset, tmp_path / "rows", 1, "--gradient_accumulation_steps", "8", "--max_steps", "2")
    want, got = history(tmp_path / "full")[0], history(tmp_path / "rows")[0]
    for name in ("loss", "loss_span", "loss_saliency_margin", "loss_coarse_intra", "loss_fine"):
        assert abs(got[name] - want[name]) > 0.01 * want[name], name


def test_two_processes_evaluate_every_query_once(dataset, two_processes, tmp_path):
    """Evaluate 11 rows in batches of 4 on two processes, so the second round has 3 rows. One process then evaluates the saved model."""
    run_here(arguments(dataset, tmp_path, "--model", str(two_processes), "--do_train", "false"))
    one, two = metrics(tmp_path), metrics(two_processes)
    assert one.keys() == two.keys() and {"test_R1@0.5", "test_mIoU", "test_loss", "test_loss_fine"} <= one.keys()
    losses = {name for name in one if name.startswith("test_loss")}
    assert {name: one[name] for name in one.keys() - losses} == {name: two[name] for name in one.keys() - losses}
    # The same numbers are summed in another order.
    assert {name: two[name] for name in losses} == pytest.approx({name: one[name] for name in losses}, rel=1e-5)


def test_evaluation_loss_does_not_depend_on_batch_size(dataset, single_process, tmp_path):
    for batch_size in ("1", "11"):
        evaluation = [
            "--model",
            str(single_process),
            "--do_train",
            "false",
            "--per_device_eval_batch_size",
            batch_size,
        ]
        run_here(arguments(dataset, tmp_path / batch_size, *evaluation))
    assert metrics(tmp_path / "1") == pytest.approx(metrics(tmp_path / "11"), rel=1e-4)


@pytest.mark.parametrize(("name", "overrides"), [("qd_detr", {}), ("moment_detr", {"contrastive_loss_weight": 0.02})])
def test_sums_and_counts_of_half_batches_add_up(name, overrides):
    """Include rows without an irrelevant query, without a window, with more windows than candidates, and without clip pairs."""
    model, inputs = (
        tiny_model(name, num_queries=2, **overrides).eval(),
        batch(lengths=(9, 5, 7, 8), text_lengths=(6, 3, 4, 5)),
    )
    labels = inputs["labels"]
    inputs["negative_text_attention_mask"][1, -1] = 0
    labels["spans"] = labels["spans"].repeat(1, 3, 1)
    labels["span_mask"] = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0]]).bool()
    labels["positive_clips"][3] = labels["negative_clips"][3] = -1
    halves = [
        tree_map_only(torch.Tensor, lambda tensor, rows=rows: tensor[rows], inputs) for rows in (slice(2), slice(2, 4))
    ]
    full, parts = model(**inputs), [model(**half) for half in halves]
    counts = [model.loss_counts(**half) for half in halves]
    sums = {key: torch.cat([part.loss_sums[key] for part in parts]) for key in full.loss_sums}
    counts = {key: torch.cat([count[key] for count in counts]) for key in counts[0]}
    loss, terms = model.weigh_losses(mean_terms(sums, counts))
    assert_close(loss, full.loss)
    assert_close(terms, full.loss_dict)
    assert abs(sum(part.loss for part in parts) / 2 - full.loss) > 0.01


def test_bf16_keeps_the_losses_in_float32(dataset, tmp_path, monkeypatch):
    half, dtypes = [], {}
    compute_sums = StepLoss.sums

    def record(*args):
        sums = compute_sums(*args)
        dtypes.update({name: value.dtype for name, value in sums.items()})
        return sums

    # The output type of the heads' linear layers shows whether the forward pass ran in half precision.
    watch = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, output: half.append(output.dtype) if type(module).__name__ == "Linear" else None
    )
    monkeypatch.setattr(StepLoss, "sums", record)
    set_seed(3)
    # The decay moves weights that get no gradient, those after the zeros that the decoder starts from.
    argv = arguments(
        dataset, tmp_path, "--bf16", "true", "--max_steps", "6", "--learning_rate", "1e-3", "--weight_decay", "0.1"
    )
    start = build_trainer(parse_recipe(argv))[0].model.state_dict()
    start = {name: value.clone() for name, value in start.items()}
    try:
        run_here(argv)
    finally:
        watch.remove()
    assert torch.bfloat16 in half
    assert set(dtypes.values()) == {torch.float32}
    assert torch.tensor([list(entry.values()) for entry in history(tmp_path)]).isfinite().all()
    assert [name for name, value in weights(tmp_path).items() if torch.equal(start[name], value)] == []


def test_fp16_keeps_the_losses_in_float32():
    """Bypass the trainer: on a CPU, Accelerate silently ignores `fp16` and computes in float32."""
    model, inputs = tiny_model("qd_detr").train(), batch()
    negatives = inputs["negative_text_attention_mask"].any(dim=-1)
    masks = (inputs["labels"]["saliency"], inputs["video_attention_mask"], negatives)
    with torch.autocast("cpu", torch.float16):
        outputs = model(**inputs)
        ranking = ShineLoss(fine_margins=(0.25, 0.25)).hinges(
            outputs.saliency_scores, outputs.negative_saliency_scores, *masks
        )
    assert outputs.logits.dtype == torch.float16
    assert {rows.dtype for rows in (outputs.loss_sums | ranking).values()} == {torch.float32}
    (outputs.loss + sum(rows.sum() for rows in ranking.values())).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
