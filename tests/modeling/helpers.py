"""Tiny models and made-up batches."""

import torch

from shine_hf import MomentDetrConfig, MomentDetrForMomentRetrieval, QDDetrConfig, QDDetrForMomentRetrieval

TINY = dict(
    video_dim=12,
    text_dim=8,
    hidden_size=16,
    num_attention_heads=2,
    intermediate_size=24,
    num_queries=4,
    max_text_length=8,
)
CLASSES = {
    "qd_detr": (QDDetrConfig, QDDetrForMomentRetrieval),
    "moment_detr": (MomentDetrConfig, MomentDetrForMomentRetrieval),
}


def tiny_model(name: str, seed: int = 0, **overrides):
    config_class, model_class = CLASSES[name]
    torch.manual_seed(seed)
    return model_class(config_class(**TINY | overrides))


def batch(lengths=(9, 5, 7), text_lengths=(6, 3, 4), negatives=2, seed=0, with_labels=True) -> dict:
    """Return padded inputs with `negatives` per query (the last one irrelevant) and one window per query."""
    generator = torch.Generator().manual_seed(seed)
    size, longest, tokens = len(lengths), max(lengths), max(text_lengths)
    video_mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    text_mask = torch.arange(tokens) < torch.tensor(text_lengths)[:, None]
    inputs = {
        "video_features": torch.randn(size, longest, 12, generator=generator) * video_mask[..., None],
        "video_attention_mask": video_mask.long(),
        "text_features": torch.randn(size, tokens, 8, generator=generator) * text_mask[..., None],
        "text_attention_mask": text_mask.long(),
    }
    if negatives:
        inputs["negative_text_features"] = torch.randn(size, negatives, 5, 8, generator=generator)
        inputs["negative_text_attention_mask"] = torch.ones(size, negatives, 5, dtype=torch.long)
    if with_labels:
        saliency = torch.zeros(size, longest)
        saliency[:, 1:3] = 1
        spans = torch.stack([torch.tensor([2 / n, 2 / n]) for n in lengths]).unsqueeze(1)
        inputs["labels"] = {
            "spans": spans,
            "span_mask": torch.ones(size, 1, dtype=torch.bool),
            "saliency": saliency,
            "positive_clips": torch.tensor([[1, 2]] * size),
            "negative_clips": torch.tensor([[0, 4]] * size),
        }
    return inputs
