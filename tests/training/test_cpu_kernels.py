"""The CPU kernels for linear layers, dropout and PReLU against torch, and how they are swapped into and out of a model."""

import pickle

import pytest
import torch

from shine_hf.training import cpu_kernels
from shine_hf.training.cpu_kernels import dropout, fast_cpu_kernels, linear, prelu

from ..modeling.helpers import batch, tiny_model


@pytest.fixture
def onednn(monkeypatch):
    """Use oneDNN on any machine."""
    monkeypatch.setattr(cpu_kernels, "USES_ONEDNN", True)


def drop(states: torch.Tensor, p: float, training: bool = True) -> torch.Tensor:
    return dropout(torch.nn.Dropout(p).train(training), states)


def output_and_gradients(run, layer, leaf) -> list[torch.Tensor]:
    leaf = leaf.clone().requires_grad_()
    layer.zero_grad()
    output = run(leaf)
    (output * output.detach().cos()).sum().backward()
    return [output, leaf.grad, *(p.grad.clone() for p in layer.parameters())]


def contents(model) -> dict[str, list[str]]:
    return {name: sorted(vars(module)) for name, module in model.named_modules()}


@pytest.mark.parametrize("shape", [(3, 17, 6), (2, 3, 5, 6), (1, 17, 6), (17, 6)])
def test_linear_matches_torch(shape, onednn):
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 10)
    leaf = torch.linspace(-1, 2, torch.Size(shape).numel()).view(shape)
    ours = output_and_gradients(lambda states: linear(layer, states), layer, leaf)
    for mine, reference in zip(ours, output_and_gradients(layer, layer, leaf)):
        torch.testing.assert_close(mine, reference)
    assert ours[0].is_contiguous()
    for without_gradient in (torch.no_grad(), torch.inference_mode()):
        with without_gradient:
            torch.testing.assert_close(linear(layer, leaf), layer(leaf))


def test_linear_uses_the_convolution_only_in_float32(onednn, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *_: torch.zeros(2, 10, 1, 5))
    layer, states = torch.nn.Linear(6, 10), torch.ones(2, 5, 6)
    assert not linear(layer, states).any()
    assert linear(layer.bfloat16(), states.bfloat16()).any()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(layer.float(), states).any()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_the_given_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    states = torch.full((1001, 333), 3.0, requires_grad=True)
    dropped = drop(states, p)
    kept = dropped != 0
    assert (~kept).float().mean().item() == pytest.approx(p, abs=0.005)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 3 / (1 - p)), rtol=2e-4, atol=0)
    # Neighbors in memory share a random word but must be dropped independently.
    flat = (~kept).flatten().float() - p
    for distance in (1, 2, 3, 4):
        assert abs((flat[distance:] * flat[:-distance]).mean().item()) < 0.003
    dropped.sum().backward()
    torch.testing.assert_close(states.grad, kept * (dropped[kept][0].item() / 3))


def test_dropout_is_reproducible_and_off_in_evaluation():
    states = torch.randn(7, 5)
    torch.manual_seed(1)
    first = drop(states, 0.3)
    torch.manual_seed(1)
    assert torch.equal(drop(states, 0.3), first)
    assert drop(states, 0.3, training=False) is states
    assert not drop(states, 1.0).any()
    assert drop(states.bfloat16(), 0.3).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_prelu_matches_torch(dtype):
    torch.manual_seed(0)
    layer, states = torch.nn.PReLU().to(dtype), torch.randn(3, 50, 4, dtype=dtype)
    tolerance = 1e-5 if dtype != torch.bfloat16 else 3e-2
    ours = output_and_gradients(lambda leaf: prelu(layer, leaf.transpose(0, 1)), layer, states)
    reference = output_and_gradients(lambda leaf: layer(leaf.transpose(0, 1)), layer, states)
    for mine, theirs in zip(ours, reference):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def test_prelu_with_a_slope_per_channel_is_left_to_torch():
    layer, states = torch.nn.PReLU(4), torch.randn(3, 4)
    assert torch.equal(prelu(layer, states), layer(states))


@pytest.mark.parametrize("name", ["qd_detr", "moment_detr"])
def test_step_with_kernels_equals_step_without(name, onednn):
    model, inputs = tiny_model(name, dropout=0.0, input_dropout=0.0), batch()
    model(**inputs).loss.backward()
    want = {key: parameter.grad.clone() for key, parameter in model.named_parameters()}
    model.zero_grad()
    with fast_cpu_kernels(model):
        model(**inputs).loss.backward()
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, want[key], msg=key)


def test_kernels_are_removed_from_the_model_even_after_an_error(onednn):
    model = tiny_model("qd_detr")
    before = contents(model)
    with pytest.raises(RuntimeError, match="inside"), fast_cpu_kernels(model):
        replaced = {type(module).__name__ for module in model.modules() if "forward" in vars(module)}
        assert replaced == {"Linear", "Dropout", "PReLU"}
        with fast_cpu_kernels(model):
            pass
        assert any("forward" in vars(module) for module in model.modules())
        raise RuntimeError("inside")
    assert not any("forward" in vars(module) for module in model.modules())
    assert contents(model) == before
    pickle.dumps(model)


def test_layers_with_their_own_forward_are_unchanged():
    class Doubled(torch.nn.Linear):
        def forward(self, states):
            return 2 * super().forward(states)

    model = torch.nn.Sequential(Doubled(2, 2), torch.nn.Linear(2, 2))
    model[1].forward = kept = lambda states: states
    with fast_cpu_kernels(model):
        assert "forward" not in vars(model[0])
        assert model[1].forward is kept


def test_gradient_checkpointing_uses_the_same_dropout_masks(onednn):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model("qd_detr", dropout=0.3).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(3)
        with fast_cpu_kernels(model):
            model(**batch()).loss.backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, want in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], want, msg=key)
