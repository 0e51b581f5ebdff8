"""Small goldens of our own, for machines without ../shared: numbers of this implementation at a commit that agreed with the reference.

python -m tests.golden.small      # writes small.json anew; look at the difference before you commit it
"""

import json
import math
import zlib
from pathlib import Path

import torch

from shine_hf import ShineLoss

from ..modeling.helpers import CLASSES, batch, tiny_model

FILE = Path(__file__).with_name("small.json")
VARIANTS = {
    "qd_detr": {},
    "qd_detr_coupled": {"batch_coupled_text_mask": True},
    "moment_detr": {"contrastive_loss_weight": 0.02},
}


def wave(name: str, shape) -> torch.Tensor:
    """Numbers that depend on a name alone, on every machine and version."""
    count, phase = math.prod(shape), zlib.crc32(name.encode()) % 1000
    return torch.sin(torch.arange(count, dtype=torch.float64) * 1.7 + phase).float().view(shape)


def measure(variant: str) -> dict:
    """Outputs, loss terms and gradient norm of a tiny model with fixed weights on a fixed batch."""
    name = next(name for name in CLASSES if variant.startswith(name))
    model = tiny_model(name, dropout=0.0, input_dropout=0.0, **VARIANTS[variant])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(wave(key, parameter.shape) * scale)
    inputs = batch(negatives=4)
    for key in ("video_features", "text_features", "negative_text_features"):
        inputs[key] = wave(key, inputs[key].shape)
    output = model(**inputs)
    ranking, terms = ShineLoss()(
        output.saliency_scores,
        output.negative_saliency_scores,
        inputs["labels"]["saliency"],
        inputs["video_attention_mask"],
    )
    (output.loss + ranking).backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    scalars = {**output.loss_dict, **terms, "loss": output.loss, "gradient_norm": norm}
    tensors = {"pred_spans": output.pred_spans, "logits": output.logits, "saliency_scores": output.saliency_scores}
    return {
        "scalars": {key: round(value.item(), 6) for key, value in scalars.items()},
        "tensors": {key: [round(x, 5) for x in value.flatten().tolist()] for key, value in tensors.items()},
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps({variant: measure(variant) for variant in VARIANTS}, indent=1) + "\n")
