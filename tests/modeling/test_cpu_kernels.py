"""Ours against torch's linear maps, dropout and PReLU."""

import pytest
import torch

from shine_hf.modeling import cpu_kernels
from shine_hf.modeling.cpu_kernels import Linear, PReLU, drop


@pytest.mark.parametrize("shape", [(3, 17, 6), (2, 3, 5, 6), (1, 17, 6), (17, 6)])
def test_linear_and_its_gradients_are_torchs(shape, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "USES_ONEDNN", True)
    torch.manual_seed(0)
    ours, theirs = Linear(6, 10), torch.nn.Linear(6, 10)
    theirs.load_state_dict(ours.state_dict())
    gradients = []
    for module in (ours, theirs):
        leaf = torch.linspace(-1, 2, torch.Size(shape).numel()).view(shape).transpose(0, -2).requires_grad_()
        output = module(leaf)
        (output * output.detach().cos()).sum().backward()
        gradients.append((output, leaf.grad, module.weight.grad, module.bias.grad))
    for mine, reference in zip(*gradients):
        torch.testing.assert_close(mine, reference)
    assert ours(leaf).is_contiguous()
    for without_gradient in (torch.no_grad(), torch.inference_mode()):
        with without_gradient:
            torch.testing.assert_close(ours(leaf), theirs(leaf))


def test_linear_asks_for_a_convolution_in_float32_alone(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "USES_ONEDNN", True)
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *_: torch.zeros(2, 10, 1, 5))
    layer, states = Linear(6, 10), torch.ones(2, 5, 6)
    assert not layer(states).any()
    assert layer.bfloat16()(states.bfloat16()).any()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(states).any()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_the_share_and_keeps_the_mean(p):
    torch.manual_seed(0)
    states = torch.full((1001, 333), 3.0, requires_grad=True)
    dropped = drop(states, p)
    kept = dropped != 0
    assert (~kept).float().mean().item() == pytest.approx(p, abs=0.005)
    torch.testing.assert_close(dropped[kept], torch.full_like(dropped[kept], 3 / (1 - p)), rtol=2e-4, atol=0)
    # Neighbours in memory share a random word: their fates must not.
    flat = (~kept).flatten().float() - p
    for distance in (1, 2, 3, 4):
        assert abs((flat[distance:] * flat[:-distance]).mean().item()) < 0.003
    dropped.sum().backward()
    torch.testing.assert_close(states.grad, kept * (dropped[kept][0].item() / 3))


def test_dropout_repeats_under_a_seed_and_spares_evaluation():
    states = torch.randn(7, 5)
    torch.manual_seed(1)
    first = drop(states, 0.3)
    torch.manual_seed(1)
    assert torch.equal(drop(states, 0.3), first)
    assert drop(states, 0.3, training=False) is states
    assert not drop(states, 1.0).any()
    assert drop(states.bfloat16(), 0.3).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_prelu_and_its_gradients_are_torchs(dtype):
    torch.manual_seed(0)
    ours, theirs = PReLU(), torch.nn.PReLU()
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    states = torch.randn(3, 50, 4, dtype=dtype)
    gradients = []
    for module in (ours, theirs):
        leaf = states.clone().requires_grad_()
        output = module(leaf.transpose(0, 1))
        (output * output.detach().cos()).sum().backward()
        gradients.append((output, leaf.grad, module.weight.grad))
    tolerance = 1e-5 if dtype != torch.bfloat16 else 3e-2
    for mine, reference in zip(*gradients):
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)
