"""How long a training step and an evaluation take, against a step in the style of the public code.

    python benchmarks/step.py [--repeats 5] [--threads 2] [--device cpu] [--output FILE.json]

The yardstick's shape: batch 32, 64 clips of 1,024 features and 2 endpoint features, 12 words, three hard negatives and an irrelevant query, full base loss.
The reference style is made of our own modules and gives the same loss (checked before anything is timed): a pass of its own, with decoder, for the
query and for each negative, torch's dropout, and losses in a loop over the samples. All variants take turns in one run, and the medians
are compared. Beside them stands the time of the step's matrix products alone, on the same shapes and layouts: what no arrangement of the rest can save.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from shine_hf.losses import ShineLoss
from shine_hf.modeling import QDDetrConfig, QDDetrForMomentRetrieval, cpu_kernels, layers
from shine_hf.modeling.moment_retrieval_loss import moment_retrieval_loss
from shine_hf.training.memory import keep_freed_memory

BATCH, CLIPS, WORDS, HARD_NEGATIVES = 32, 64, 12, 3
VIDEO_DIM, TEXT_DIM = 1024, 512


def make_model(device: str = "cpu", **overrides) -> QDDetrForMomentRetrieval:
    """QD-DETR of the paper's size."""
    torch.manual_seed(0)
    return QDDetrForMomentRetrieval(QDDetrConfig(video_dim=VIDEO_DIM, text_dim=TEXT_DIM, **overrides)).to(device)


def make_batch(batch=BATCH, clips=CLIPS, words=WORDS, negatives=HARD_NEGATIVES + 1, device="cpu") -> dict:
    """Made-up inputs of one training step; the moment is the second quarter of each video."""
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
    """What [`ShineTrainer`] computes."""
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
    """The same loss, from a pass with decoder per query and a loop over the samples."""
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


@contextlib.contextmanager
def reference_style():
    """Torch's own dropout and PReLU instead of ours (and glibc's defaults: see `Step`)."""
    with (
        mock.patch.object(layers, "drop", nn.functional.dropout),
        mock.patch.object(cpu_kernels, "drop", nn.functional.dropout),
        mock.patch.object(cpu_kernels.PReLU, "forward", nn.PReLU.forward),
    ):
        yield


class Step:
    """One kind of training step, ready to be repeated."""

    def __init__(self, loss: Callable, inputs: dict, shine: ShineLoss | None, device: str, bf16: bool = False):
        self.model = make_model(device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.loss, self.inputs, self.shine, self.device, self.bf16 = loss, inputs, shine, device, bf16

    def __call__(self) -> None:
        is_reference = self.loss is reference_style_loss
        keep_freed_memory(not is_reference)
        with (
            reference_style() if is_reference else contextlib.nullcontext(),
            torch.autocast(self.device, torch.bfloat16, enabled=self.bf16),
        ):
            loss = self.loss(self.model, self.inputs, self.shine)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Evaluation:
    """Moments of a batch, without labels; the reference style also encodes and decodes an irrelevant query, as the public code does."""

    def __init__(self, inputs: dict, device: str, with_irrelevant: bool):
        self.model = make_model(device).eval()
        names = ("video_features", "video_attention_mask", "text_features", "text_attention_mask")
        self.inputs, self.with_irrelevant = {name: inputs[name] for name in names}, with_irrelevant

    @torch.no_grad()
    def __call__(self) -> None:
        for _ in range(1 + self.with_irrelevant):
            self.model(**self.inputs)


class MatrixProducts(TorchDispatchMode):
    """Records the matrix products of what runs under it, forward and backward, and repeats them on made-up numbers."""

    OPERATORS = {
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten.baddbmm.default,
    }

    def __init__(self):
        super().__init__()
        self.calls: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self.OPERATORS:
            left, right = args[-2:]
            self.calls[tuple((tuple(t.shape), t.stride(), t.dtype, str(t.device)) for t in (left, right))] += 1
        return func(*args, **(kwargs or {}))

    @property
    def flops(self) -> int:
        return sum(
            n * 2 * left[0][-1] * right[0][-1] * _product(left[0][:-1]) for (left, right), n in self.calls.items()
        )

    def make_repeatable(self) -> Callable[[], None]:
        """A function that does all recorded products."""
        pairs = [
            (
                tuple(
                    torch.empty_strided(shape, stride, dtype=dtype, device=device).normal_()
                    for shape, stride, dtype, device in key
                ),
                n,
            )
            for key, n in self.calls.items()
        ]

        def repeat() -> None:
            for (left, right), times in pairs:
                for _ in range(times):
                    left @ right

        return repeat


def _product(numbers) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def interleaved(variants: dict[str, Callable[[], None]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each variant; they take turns, so that what disturbs the machine disturbs all."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats + 1):
        for name, run in variants.items():
            begin = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # The first turn warms up.
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def check_same_loss(device: str) -> None:
    """Both styles give the same loss, or a comparison of their time would mean nothing."""
    model, inputs, shine = make_model(device).eval(), make_batch(batch=4, device=device), ShineLoss()
    with torch.no_grad():
        ours, reference = our_loss(model, inputs, shine), reference_style_loss(model, inputs, shine)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


def measure(repeats: int, device: str) -> dict[str, float]:
    """Seconds of every variant, and the ratios that the README of this project's issue asks for."""
    check_same_loss(device)
    shine, inputs = ShineLoss(), make_batch(device=device)
    ours = Step(our_loss, inputs, shine, device)
    with MatrixProducts() as products:
        ours()
    seconds = interleaved(
        {
            "SHINE step, ours": ours,
            "SHINE step, ours, bf16": Step(our_loss, inputs, shine, device, bf16=True),
            "SHINE step, reference style": Step(reference_style_loss, inputs, shine, device),
            "SHINE step, matrix products alone": products.make_repeatable(),
            "base step, ours": Step(our_loss, inputs, None, device),
            "base step, reference style": Step(reference_style_loss, inputs, None, device),
        },
        repeats,
        device,
    )
    for size in (1, 32):
        batch = make_batch(batch=size, device=device)
        seconds |= interleaved(
            {
                f"evaluation of {size}, ours": Evaluation(batch, device, with_irrelevant=False),
                f"evaluation of {size}, reference style": Evaluation(batch, device, with_irrelevant=True),
            },
            repeats * 4,
            device,
        )
    reference = seconds["SHINE step, reference style"]
    ratios = {
        "float32 against reference style (target 1.2)": reference / seconds["SHINE step, ours"],
        "bf16 against reference style (target 2.2)": reference / seconds["SHINE step, ours, bf16"],
        "step over its matrix products (target at most 1.35)": seconds["SHINE step, ours"]
        / seconds["SHINE step, matrix products alone"],
        "base step against reference style": seconds["base step, reference style"] / seconds["base step, ours"],
        **{
            f"evaluation of {n} against reference style (target 2.1)": seconds[f"evaluation of {n}, reference style"]
            / seconds[f"evaluation of {n}, ours"]
            for n in (1, 32)
        },
    }
    return {"GFLOP of the matrix products": products.flops / 1e9} | seconds | ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures = measure(args.repeats, args.device)
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:8.3f}")
    if args.output:
        args.output.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
