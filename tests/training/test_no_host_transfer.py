"""Losses and matcher synchronize with the host only if several windows must be assigned: the training step runs on `meta` tensors.

On the `meta` device there is nothing to read: whatever asks for a value (`.item()`, `.cpu()`, `if tensor:`, a boolean index) raises. So what
runs there never reads from a GPU. (Small copies to it, e.g. a tensor made of Python numbers, look like any other operation here and are kept out
by reading the code.)
"""

import pytest
import torch
from torch.utils._pytree import tree_map_only

from shine_hf.losses import ShineLoss

from ..modeling.helpers import batch, tiny_model


def step_on_meta(name: str, inputs: dict) -> None:
    model = tiny_model(name).train().to("meta")
    inputs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), inputs)
    outputs = model(**inputs, decode_negatives=True)
    beyond = dict(decoder_negative_weight=1.0, decoder_negative_form="ranking", clip_contrast_weight=1.0)
    ranking, _ = ShineLoss(fine_margins=(0.25, 0.25), **beyond)(
        outputs.saliency_scores,
        outputs.negative_saliency_scores,
        inputs["labels"]["saliency"],
        inputs["video_attention_mask"],
        negative_mask=inputs["negative_text_attention_mask"].any(dim=-1),
        **{key: outputs[key] for key in ("logits", "negative_logits", "matched_candidates")},
    )
    (outputs.loss + ranking).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    torch.optim.AdamW(model.parameters()).step()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["qd_detr", "moment_detr"])
def test_training_step_reads_no_value_from_the_device(name):
    step_on_meta(name, batch())


def test_several_windows_are_assigned_on_the_host():
    inputs = batch()
    inputs["labels"]["spans"] = inputs["labels"]["spans"].repeat(1, 2, 1)
    inputs["labels"]["span_mask"] = inputs["labels"]["span_mask"].repeat(1, 2)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        step_on_meta("qd_detr", inputs)
