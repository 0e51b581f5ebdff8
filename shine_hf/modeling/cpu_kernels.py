"""Dropout and PReLU, where torch's own are slow on a CPU: together a fifth of a training step. Elsewhere these are torch's.

The figures are those of benchmarks/step.py.
"""

import torch
from torch import nn


def drop(states: torch.Tensor, p: float, training: bool = True) -> torch.Tensor:
    """As `nn.functional.dropout`. Torch draws a random number per element on a CPU; 16 random bits are enough.

    The share that is dropped is p to the nearest 1/65536, and what is kept is scaled by exactly its inverse.
    """
    threshold = round(p * 65536)
    if not training or not 0 < threshold < 65536 or states.device.type != "cpu":
        return nn.functional.dropout(states, p, training)
    words = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    draws = words.view(torch.int16)[: states.numel()].view(states.shape)
    # Written as numbers at once: multiplying by a boolean mask would convert it anew, forward and backward.
    mask = torch.ge(draws, threshold - 32768, out=states.new_empty(states.shape))
    return states * mask.mul_(65536 / (65536 - threshold))


class Dropout(nn.Dropout):
    """`nn.Dropout` by way of [`drop`]."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return drop(states, self.p, self.training)


class PReLU(nn.PReLU):
    """`nn.PReLU` with one slope, the backward pass of which takes a quarter of the time on a CPU."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if states.device.type != "cpu":
            return super().forward(states)
        return _PReLUOnCPU.apply(states, self.weight)


class _PReLUOnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, states, slope):
        ctx.save_for_backward(states, slope)
        return nn.functional.prelu(states, slope.to(states.dtype))

    @staticmethod
    def backward(ctx, gradient):
        states, slope = ctx.saved_tensors
        # Torch writes the slope's gradient for every element before it sums up.
        of_slope = torch.dot(gradient.reshape(-1), states.clamp(max=0).reshape(-1)).to(slope.dtype).view_as(slope)
        of_states = torch.ops.aten.leaky_relu_backward(gradient, states, slope.item(), False)
        return of_states, of_slope
