"""Compare a training step and an evaluation with the style of the public code.

    python -m benchmarks.speed.step [--repeats 7] [--threads 2] [--device cpu] [--output FILE.json]

Shape: batch 32, 64 clips of 1,024 features and 2 endpoint features, 12 words, three hard negatives and an irrelevant query, full base loss.
The reference style uses our own modules and gives the same loss (checked before timing): a separate pass, with decoder, for the query and for
each negative, torch's own kernels, plain attention, glibc's defaults, and a loop over the samples for the losses. Each variant has its own process,
because malloc settings apply per process. The variants alternate, and medians are compared. As a lower bound for the entire step, only its matrix
products are timed too, in the same shapes and layouts, with our kernels and with torch's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from shine_hf.losses import ShineLoss
from shine_hf.modeling import QDDetrConfig, QDDetrForMomentRetrieval
from shine_hf.modeling.moment_retrieval_loss import moment_retrieval_loss
from shine_hf.training.cpu_kernels import fast_cpu_kernels
from shine_hf.training.memory import keep_freed_memory

from .turns import interleaved

BATCH, CLIPS, WORDS, HARD_NEGATIVES = 32, 64, 12, 3
VIDEO_DIM, TEXT_DIM = 1024, 512


def make_model(device: str = "cpu", **overrides) -> QDDetrForMomentRetrieval:
    """Return a QD-DETR of the paper's size."""
    torch.manual_seed(0)
    return QDDetrForMomentRetrieval(QDDetrConfig(video_dim=VIDEO_DIM, text_dim=TEXT_DIM, **overrides)).to(device)


def make_batch(batch=BATCH, clips=CLIPS, words=WORDS, negatives=HARD_NEGATIVES + 1, device="cpu") -> dict:
    """Return made-up inputs of one training step; the moment is the second quarter of each video."""
    generator = torch.Generator().manual_seed(0)
    saliency = torch.zeros(batch, clips)
    saliency[:, clips // 4 : clips // 2] = 1
    inputs = {
        "video_features": torch.randn(batch, clips, VIDEO_DIM, generator=generator),
        "video_attention_mask": torch.ones(batch, clips),
        "text_features": torch.randn(batch, words, TEXT_DIM, generator=generator),
        "text_attention_mask": torch.ones(batch, words),
        "negative_text_features": torch.randn(batch, negatives, words, TEXT_DIM, generator=generator),
        "negative_text_attention_mask": torch.ones(batch, negatives, words),
        "labels": {
            "spans": torch.tensor([[[0.375, 0.25]]]).repeat(batch, 1, 1),
            "span_mask": torch.ones(batch, 1, dtype=torch.bool),
            "saliency": saliency,
        },
    }
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), inputs)


def our_loss(model, inputs, shine: ShineLoss | None) -> torch.Tensor:
    """Compute the loss as [`ShineTrainer`] does."""
    if shine is None:
        inputs = inputs | {name: inputs[name][:, -1:] for name in inputs if name.startswith("negative")}
    outputs = model(**inputs)
    if shine is None:
        return outputs.loss
    ranking, _ = shine(
        outputs.saliency_scores,
        outputs.negative_saliency_scores,
        inputs["labels"]["saliency"],
        inputs["video_attention_mask"],
    )
    return outputs.loss + ranking


def reference_style_loss(model, inputs, shine: ShineLoss | None) -> torch.Tensor:
    """Compute the same loss with one pass (including the decoder) per query and a loop over the samples."""
    video, mask, labels = inputs["video_features"], inputs["video_attention_mask"], inputs["labels"]
    text, text_mask = inputs["negative_text_features"], inputs["negative_text_attention_mask"]
    if shine is None:
        text, text_mask = text[:, -1:], text_mask[:, -1:]
    positive = model(video, mask, inputs["text_features"], inputs["text_attention_mask"])
    scores = [model(video, mask, text[:, n], text_mask[:, n]).saliency_scores for n in range(text.shape[1])]
    negatives = torch.stack(scores, dim=1)
    auxiliary = positive.auxiliary_outputs
    logits = torch.stack([*(a["logits"] for a in auxiliary), positive.logits])
    spans = torch.stack([*(a["pred_spans"] for a in auxiliary), positive.pred_spans])
    total = 0.0
    for i in range(len(video)):
        one = slice(i, i + 1)
        total = (
            total
            + moment_retrieval_loss(
                logits[:, one],
                spans[:, one],
                positive.saliency_scores[one],
                negatives[one, -1],
                text_mask[one, -1].any(dim=-1),
                {name: value[one] for name, value in labels.items()},
                mask[one],
                model.config,
            )[0]
        )
        if shine is not None:
            total = total + shine(positive.saliency_scores[one], negatives[one], labels["saliency"][one], mask[one])[0]
    return total / len(video)


class Step:
    """One kind of training step that can be repeated."""

    def __init__(
        self,
        loss: Callable,
        inputs: dict,
        shine: ShineLoss | None,
        device: str,
        bf16: bool = False,
        our_kernels: bool = True,
    ):
        self.model = make_model(device).train()
        self.kernels = fast_cpu_kernels if our_kernels and device == "cpu" else contextlib.nullcontext
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.loss, self.inputs, self.shine, self.device, self.bf16 = loss, inputs, shine, device, bf16

    def __call__(self) -> None:
        with self.kernels(self.model):
            with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
                loss = self.loss(self.model, self.inputs, self.shine)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        self.optimizer.zero_grad()


class MatrixProducts(TorchDispatchMode):
    """Record the matrix products that run in its context, forward and backward, and repeat them on random numbers."""

    OPERATORS = {
        torch.ops.aten.mm,
        torch.ops.aten.addmm,
        torch.ops.aten.bmm,
        torch.ops.aten.baddbmm,
        # Linear layers, see shine_hf/training/cpu_kernels.py.
        torch.ops.aten.convolution,
        torch.ops.aten.convolution_backward,
    }

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[Callable, tuple]] = []
        self.made_up: dict[tuple, torch.Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in self.OPERATORS:
            self.calls.append((func, tree_map_only(torch.Tensor, self._make_up, args)))
        return func(*args, **(kwargs or {}))

    def _make_up(self, like: torch.Tensor) -> torch.Tensor:
        key = (like.shape, like.stride(), like.dtype, like.device)
        if key not in self.made_up:
            self.made_up[key] = torch.empty_strided(
                like.shape, like.stride(), dtype=like.dtype, device=like.device
            ).normal_()
        return self.made_up[key]

    def __call__(self) -> None:
        for func, args in self.calls:
            func(*args)


# ---- variants: each one is created and repeated in its own process ----------------------------------------------------


def our_step(shine: ShineLoss | None, device: str, bf16: bool = False) -> Step:
    keep_freed_memory()
    return Step(our_loss, make_batch(device=device), shine, device, bf16)


def products_of_our_step(shine: ShineLoss, device: str, use_torch_kernels: bool = False) -> MatrixProducts:
    step = Step(our_loss, make_batch(device=device), shine, device, our_kernels=not use_torch_kernels)
    with MatrixProducts() as products:
        step()
    return products


def reference_style_step(shine: ShineLoss | None, device: str) -> Step:
    return Step(reference_style_loss, make_batch(device=device), shine, device, our_kernels=False)


class Evaluation:
    """Inference on a batch without labels; the reference style also encodes and decodes an irrelevant query, like the public code."""

    def __init__(self, batch: int, device: str, in_reference_style: bool):
        if not in_reference_style:
            keep_freed_memory()
        self.kernels = contextlib.nullcontext if in_reference_style or device != "cpu" else fast_cpu_kernels
        self.model = make_model(device, attn_implementation="eager" if in_reference_style else None).eval()
        names = ("video_features", "video_attention_mask", "text_features", "text_attention_mask")
        inputs = make_batch(batch=batch, device=device)
        self.inputs, self.passes = {name: inputs[name] for name in names}, 1 + in_reference_style

    @torch.no_grad()
    def __call__(self) -> None:
        for _ in range(self.passes):
            with self.kernels(self.model):
                self.model(**self.inputs)


def check_same_loss(device: str) -> None:
    """Check that both styles give the same loss, so that comparing their time is meaningful."""
    model, inputs, shine = make_model(device).eval(), make_batch(batch=4, device=device), ShineLoss()
    with torch.no_grad():
        ours, reference = our_loss(model, inputs, shine), reference_style_loss(model, inputs, shine)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def measure(repeats: int, threads: int, device: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of each variant, and the important ratios by name. Names include the targets."""
    check_same_loss(device)
    shine = ShineLoss()
    seconds = interleaved(
        {
            "SHINE step, ours": partial(our_step, shine, device),
            "SHINE step, ours, bf16": partial(our_step, shine, device, bf16=True),
            "SHINE step, reference style": partial(reference_style_step, shine, device),
            "SHINE step, matrix products in our kernels": partial(products_of_our_step, shine, device),
            "SHINE step, matrix products in torch's kernels": partial(products_of_our_step, shine, device, True),
        },
        repeats,
        threads,
        device,
    )
    seconds |= interleaved(
        {
            "base step, ours": partial(our_step, None, device),
            "base step, reference style": partial(reference_style_step, None, device),
        },
        repeats,
        threads,
        device,
    )
    for batch in (1, 32):
        seconds |= interleaved(
            {
                f"evaluation of {batch}, {style}": partial(Evaluation, batch, device, style == "reference style")
                for style in ("ours", "reference style")
            },
            repeats * 2,
            threads,
            device,
        )
    reference = seconds["SHINE step, reference style"]
    ratios = {
        "SHINE step, float32, against reference style (target 1.2)": reference / seconds["SHINE step, ours"],
        "SHINE step, bf16, against reference style (target 2.2)": reference / seconds["SHINE step, ours, bf16"],
        **{
            f"SHINE step over its matrix products in {kernels} kernels (target at most 1.35)": seconds[
                "SHINE step, ours"
            ]
            / seconds[f"SHINE step, matrix products in {kernels} kernels"]
            for kernels in ("our", "torch's")
        },
    }
    for name, target in (
        ("base step", ""),
        ("evaluation of 1", " (target 2.1)"),
        ("evaluation of 32", " (target 2.1)"),
    ):
        ratios[f"{name} against reference style{target}"] = (
            seconds[f"{name}, reference style"] / seconds[f"{name}, ours"]
        )
    return seconds, ratios


def gigaflop_of_step(device: str) -> float:
    step = Step(our_loss, make_batch(device=device), ShineLoss(), device)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seconds, ratios = measure(args.repeats, args.threads, args.device)
    figures = {"matrix products of a SHINE step, GFLOP": gigaflop_of_step(args.device)}
    figures |= {f"{name}, ms": value * 1000 for name, value in seconds.items()} | ratios
    for name, value in figures.items():
        print(f"{name:<75} {value:9.2f}")
    if args.output:
        args.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
