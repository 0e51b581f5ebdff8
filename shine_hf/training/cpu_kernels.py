"""Faster linear layers, dropout and PReLU for training on a CPU: together they halve the time of a step (benchmarks/speed/step.py).

The models consist of plain torch layers, so that they can be exported, quantized and saved like any other model. `fast_cpu_kernels`
replaces the `forward` of these layers only while a step runs, and leaves nothing in the model.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import nn

# Torch uses MKL for float32 linear layers. Without AVX-512, MKL is as fast as oneDNN.
USES_ONEDNN = (
    torch.backends.cpu.get_cpu_capability() == "AVX512"
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


@contextlib.contextmanager
def fast_cpu_kernels(model: nn.Module) -> Iterator[None]:
    """Run the `nn.Linear`, `nn.Dropout` and `nn.PReLU` layers of a model with the kernels of this file.

    Keep the backward pass in the block too: gradient checkpointing runs `forward` again and must draw the same dropout masks.
    Subclasses that define `forward`, and layers whose `forward` was already replaced, are left unchanged.
    """
    replaced = []
    try:
        for module in model.modules():
            kernel = _KERNELS.get(type(module).forward)
            if kernel is not None and "forward" not in vars(module):
                module.forward = functools.partial(kernel, module)
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            del module.forward


def linear(layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    """Compute `nn.Linear.forward`, using oneDNN instead of MKL for float32.

    MKL uses AVX-512 only on Intel processors. On an AMD EPYC, oneDNN takes less than half the time. Torch itself uses oneDNN for
    bfloat16 linear layers, for convolutions, and for float32 linear layers in models compiled for inference (through the operator below).
    """
    if (
        not USES_ONEDNN
        or states.device.type != "cpu"
        or states.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
    ):
        return nn.Linear.forward(layer, states)
    if not torch.is_grad_enabled():
        return torch.ops.mkldnn._linear_pointwise(states, layer.weight, layer.bias, "none", [], "")
    if states.dim() < 3 or len(states) == 1:
        # Torch does not use oneDNN for a convolution over a batch of one.
        return nn.Linear.forward(layer, states)
    # A convolution of width 1 over the second-to-last axis. The memory is already in channels-last order, so nothing is copied.
    channels = states.contiguous().flatten(0, -3).unsqueeze(1).permute(0, 3, 1, 2)
    mapped = nn.functional.conv2d(channels, layer.weight[..., None, None], layer.bias)
    return mapped.permute(0, 2, 3, 1).reshape(*states.shape[:-1], -1)


def dropout(layer: nn.Dropout, states: torch.Tensor) -> torch.Tensor:
    """Compute `nn.Dropout.forward` from 16 random bits per element; on a CPU, torch draws a full random number for each.

    The dropped share is p rounded to the nearest 1/65536, and the remaining elements are scaled to match it exactly.
    """
    threshold = round(layer.p * 65536)
    if not layer.training or not 0 < threshold < 65536 or states.device.type != "cpu":
        return nn.Dropout.forward(layer, states)
    words = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[: states.numel()].view(states.shape)
    # The mask is floating-point: a boolean mask would be converted in each multiplication, forward and backward.
    mask = torch.ge(draws, threshold - 32768, out=states.new_empty(states.shape))
    return states * mask.mul_(65536 / (65536 - threshold))


def prelu(layer: nn.PReLU, states: torch.Tensor) -> torch.Tensor:
    """Compute `nn.PReLU.forward` for a single slope; the backward pass takes a quarter of the time."""
    if states.device.type != "cpu" or layer.num_parameters != 1:
        return nn.PReLU.forward(layer, states)
    return _PReLU.apply(states, layer.weight)


class _PReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(states, slope)
        return nn.functional.prelu(states, slope.to(states.dtype))

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states, slope = ctx.saved_tensors
        # Torch would write out the slope's gradient for every element before summing.
        slope_gradient = torch.dot(gradient.reshape(-1), states.clamp(max=0).reshape(-1))
        states_gradient = torch.ops.aten.leaky_relu_backward(gradient, states, slope.item(), False)
        return states_gradient, slope_gradient.to(slope.dtype).view_as(slope)


_KERNELS = {nn.Linear.forward: linear, nn.Dropout.forward: dropout, nn.PReLU.forward: prelu}
