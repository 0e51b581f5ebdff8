"""A small golden file of our own for both models and the losses, for tests that need only the repository.

The numbers come from this implementation, recorded while it matched the golden files of the public implementations (see record.py).
The weights keep attention far from uniform and spans far from 0.5; freshly initialized weights would hide errors in either.
"""

import zlib
from pathlib import Path

import numpy as np
import torch

from shine_hf import ShineLoss
from shine_hf.losses import coarse_ranking_loss, fine_ranking_loss

from ..modeling.helpers import CLASSES, tiny_model

FILE = Path(__file__).with_name("network.safetensors")
VARIANTS = {
    "qd_detr": {"decoder_layers": 3},
    "qd_detr_coupled": {"batch_coupled_text_mask": True},
    "moment_detr": {"contrastive_loss_weight": 0.02},
}
# Scales by part of a parameter's name (first match), chosen for sharp attention and spread-out spans.
GAINS = {
    "qd_detr": {
        "cross_attention.q_": 3.0, "cross_attention.k_": 3.0, "cross_attention.v_": 3.0, "cross_attention.o_": 2.0,
        "self_attention": 2.0, "q_": 1.7, "k_": 1.7, "position_head": 1.7, "refinement_head": 0.8, "anchor_logits": 1.2, "span_head": 1.2,
    },
    "moment_detr": {
        "cross_attention.q_": 1.5, "cross_attention.k_": 1.5, "cross_attention.v_": 3.0, "cross_attention.o_": 2.0,
        "self_attention": 1.0, "q_": 1.7, "k_": 1.7, "query_vectors": 2.5, "span_head": 3.0,
    },
}  # fmt: skip


def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw normal numbers that depend only on a name; NumPy keeps this generator stable across versions."""
    return torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)).float()


def make_model(variant: str, attention: str = "sdpa"):
    name = next(name for name in CLASSES if variant.startswith(name))
    model = tiny_model(name, dropout=0.0, input_dropout=0.0, attn_implementation=attention, **VARIANTS[variant])
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = draw(key, tuple(parameter.shape))
            gain = next((gain for part, gain in GAINS[name].items() if part in key), 1.0)
            if key.endswith("norm.weight") or ("norms." in key and key.endswith("weight")):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 2 and key.endswith("weight"):
                parameter.copy_(gain * noise * parameter.shape[1] ** -0.5)
            elif "activation" in key:
                parameter.copy_(0.25 + 0.1 * noise)
            else:
                parameter.copy_(gain * noise if key in ("model.anchor_logits", "model.query_vectors") else 0.3 * noise)
    return model


def make_inputs(variant: str) -> dict:
    """Make four videos and queries of different lengths, with one or two windows each and every kind of missing negative.

    The coupled mask lets samples influence each other, so with it an absent query would make the results undefined.
    """
    lengths, words, negative_words = torch.tensor([11, 6, 16, 3]), torch.tensor([6, 3, 5, 1]), 7
    clips, tokens, levels = int(lengths.max()), int(words.max()), 4
    video_mask = (torch.arange(clips) < lengths[:, None]).long()
    text_mask = (torch.arange(tokens) < words[:, None]).long()
    negative_lengths = torch.tensor([[6, 5, 7, 2], [3, 0, 4, 6], [5, 5, 5, 0], [0, 0, 0, 4]])
    negative_lengths = negative_lengths.clamp(min=1 if variant == "qd_detr_coupled" else 0)
    negative_mask = (torch.arange(negative_words) < negative_lengths[..., None]).long()
    saliency = torch.zeros(4, clips)
    saliency[0, 2:5], saliency[1, 1:3], saliency[2, 3:13], saliency[3, :3] = 1.0, 0.6, 3.0, 1.0
    saliency[2, 5], saliency[0, 8], saliency[1, 4] = 7.0, 0.4, 0.5
    return {
        "video_features": draw("video", (4, clips, 12)) * video_mask[..., None],
        "video_attention_mask": video_mask,
        "text_features": draw("text", (4, tokens, 8)) * text_mask[..., None],
        "text_attention_mask": text_mask,
        "negative_text_features": draw("negatives", (4, levels, negative_words, 8)) * negative_mask[..., None],
        "negative_text_attention_mask": negative_mask,
        "labels": {
            "spans": torch.tensor(
                [[[0.32, 0.27], [0, 0]], [[0.33, 0.33], [0.75, 0.17]], [[0.5, 0.63], [0, 0]], [[0.5, 1.0], [0, 0]]]
            ),
            "span_mask": torch.tensor([[True, False], [True, True], [True, False], [True, False]]),
            "saliency": saliency,
            "positive_clips": torch.tensor([[2, 4], [1, 2], [3, 12], [-1, 0]]),
            "negative_clips": torch.tensor([[0, 9], [4, -1], [1, 15], [-1, -1]]),
        },
    }


def measure_model(variant: str, attention: str = "sdpa") -> dict[str, torch.Tensor]:
    """Return outputs, loss terms, and the norm and a random projection of each parameter's gradient."""
    model, inputs = make_model(variant, attention), make_inputs(variant)
    output = model(**inputs)
    ranking, terms = ShineLoss()(
        output.saliency_scores,
        output.negative_saliency_scores,
        inputs["labels"]["saliency"],
        inputs["video_attention_mask"],
        inputs["negative_text_attention_mask"].any(dim=-1),
    )
    (output.loss + ranking).backward()
    valid = inputs["video_attention_mask"]
    exists = inputs["negative_text_attention_mask"].any(dim=-1)[..., None]
    measured = {
        "pred_spans": output.pred_spans,
        "logits": output.logits,
        "saliency_scores": output.saliency_scores * valid,
        "negative_saliency_scores": output.negative_saliency_scores * valid[:, None] * exists,
        "loss": output.loss,
        **output.loss_dict,
        **terms,
    }
    for key, parameter in model.named_parameters():
        gradient = parameter.grad if parameter.grad is not None else torch.full_like(parameter, torch.nan)
        measured[f"gradient.{key}"] = torch.stack([gradient.norm(), (gradient * draw(key, gradient.shape)).sum()])
    return {key: value.detach() for key, value in measured.items()}


def measure_losses() -> dict[str, torch.Tensor]:
    """Return all forms of the ranking losses and their gradients for random scores: long moments, none, everything, one clip."""
    scores, negatives = draw("scores", (6, 40)), draw("negative scores", (6, 4, 40))
    valid = torch.arange(40) < torch.tensor([40, 33, 25, 40, 12, 30])[:, None]
    labels = torch.zeros(6, 40)
    labels[0, 4:30], labels[1, 10:20], labels[3], labels[4, 3], labels[5, 3:9] = 1.0, 0.7, 1.0, 1.0, 2.0
    exists = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 1]]).bool()
    measured = {}

    def measure(name, loss):
        leaves = scores.clone().requires_grad_(), negatives.clone().requires_grad_()
        values = loss(*leaves)
        values = values if isinstance(values, tuple) else (values,)
        sum(values).backward()
        measured[f"{name}.value"] = torch.stack(values).detach()
        for leaf, kind in zip(leaves, ("scores", "negatives")):
            measured[f"{name}.gradient.{kind}"] = leaf.grad if leaf.grad is not None else torch.zeros(())

    for name, mask in (("all", None), ("some", exists)):
        irrelevant = None if mask is None else mask[:, -1]
        measure(
            f"coarse.{name}",
            lambda s, n, m=irrelevant: coarse_ranking_loss(s, n[:, -1], labels, valid, irrelevant_mask=m),
        )
        for compare_to in ("previous", "first"):
            for distance in ("cross_entropy", "saliency"):
                measure(
                    f"fine.{name}.{compare_to}.{distance}",
                    lambda s, n, m=mask, c=compare_to, d=distance: fine_ranking_loss(
                        s, n, labels, valid, margins=(0.2, 0.3, 0.4, 0.6), compare_to=c, distance=d, negative_mask=m
                    ),
                )
    shine = ShineLoss(coarse_weight=0.5, fine_weight=2.0, fine_margins=(0.1, 0.2, 0.3, 0.4, 0.5))
    measure("shine", lambda s, n: shine(s, n, labels, valid, exists)[0])
    return measured


def measure() -> dict[str, torch.Tensor]:
    """Return the entire content of the golden file."""
    measured = {f"losses.{key}": value for key, value in measure_losses().items()}
    for variant in VARIANTS:
        measured |= {f"{variant}.{key}": value for key, value in measure_model(variant).items()}
    return {key: value.contiguous() for key, value in measured.items()}
