"""Linear maps, dropout and PReLU, where torch's own are slow on a CPU: together they halve the training step. Elsewhere these are torch's.

The figures are those of benchmarks/step.py.
"""

import torch
from torch import nn

# Elsewhere MKL, to which torch gives linear maps in float32, has nothing to catch up.
USES_ONEDNN = (
    torch.backends.cpu.get_cpu_capability() == "AVX512"
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


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


class Linear(nn.Linear):
    """`nn.Linear`, in float32 on a CPU with AVX-512 by way of oneDNN instead of MKL.

    MKL leaves AVX-512 to Intel's own processors: on an AMD EPYC oneDNN takes less than half of its time. Torch asks it for linear maps in bfloat16,
    and in float32 in what it compiles for inference (by the operator used here) and for convolutions.
    """

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if (
            not USES_ONEDNN
            or states.device.type != "cpu"
            or states.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(states)
        if not torch.is_grad_enabled():
            return torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
        if states.dim() < 3 or len(states) == 1:
            # Torch does a convolution over a batch of one without oneDNN.
            return super().forward(states)
        # A convolution of width 1 over the last axis but one. In memory this already is the order "channels last": nothing is copied.
        channels = states.contiguous().flatten(0, -3).unsqueeze(1).permute(0, 3, 1, 2)
        mapped = nn.functional.conv2d(channels, self.weight[..., None, None], self.bias)
        return mapped.permute(0, 2, 3, 1).reshape(*states.shape[:-1], -1)


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
