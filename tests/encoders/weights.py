"""Random weights in the layouts of public files."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def pytorchvideo_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of SlowFast R50 8x8 to those of PyTorchVideo, which counts stages from 0 and has other names for norms."""
    renamed = {"blocks.6.proj.weight": torch.zeros(400, 2304), "blocks.6.proj.bias": torch.zeros(400)}
    for name, tensor in state.items():
        stage, _, rest = name.partition(".")
        block = int(stage[1]) - 1
        rest = rest.replace("branch1.", "branch1_conv.").replace("branch1_bn.", "branch1_norm.")
        for letter in "abc":
            rest = rest.replace(f"branch2.{letter}.", f"branch2.conv_{letter}.")
            rest = rest.replace(f"branch2.{letter}_bn.", f"branch2.norm_{letter}.")
        if stage.endswith("fuse"):
            rest = rest.replace("conv_f2s", "conv_fast_to_slow").replace("bn.", "norm.")
            rest = f"multipathway_fusion.{rest}"
        else:
            pathway, _, rest = rest.partition(".")
            number, kind = pathway.removeprefix("pathway").split("_")
            where = "" if kind == "stem" else f"res_blocks.{kind.removeprefix('res')}."
            rest = f"multipathway_blocks.{number}.{where}{rest if where else rest.replace('bn.', 'norm.')}"
        renamed[f"blocks.{block}.{rest}"] = tensor
    return renamed
