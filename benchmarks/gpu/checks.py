"""Check that models, losses and trainer compute the same on a device as on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils._pytree import tree_map_only

from shine_hf import MomentDetrConfig, MomentDetrForMomentRetrieval, QDDetrConfig, QDDetrForMomentRetrieval
from shine_hf.losses import ShineLoss

from ..speed.step import TEXT_DIM, VIDEO_DIM, make_batch, our_loss
from .training import make_trainer

TINY = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_queries": 5}
MODELS = {
    "qd_detr": (QDDetrConfig, QDDetrForMomentRetrieval),
    "moment_detr": (MomentDetrConfig, MomentDetrForMomentRetrieval),
}


def check_model(name: str, device: str) -> None:
    """Check that outputs, loss and gradients on both devices agree within 1e-3 (float32 without TF32, with padding)."""
    config_class, model_class = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config_class(video_dim=VIDEO_DIM, text_dim=TEXT_DIM, **TINY)).eval()
    inputs = make_batch(batch=4, clips=24, words=6)
    inputs["video_attention_mask"][1, 15:] = 0
    inputs["text_attention_mask"][2, 3:] = 0
    found = []
    for where in ("cpu", device):
        moved = copy.deepcopy(model).to(where)
        batch = tree_map_only(torch.Tensor, lambda tensor, where=where: tensor.to(where), inputs)
        loss = our_loss(moved, batch, ShineLoss())
        loss.backward()
        gradients = [parameter.grad.cpu() for parameter in moved.parameters() if parameter.grad is not None]
        outputs = moved(**batch)
        found.append(
            [
                loss.detach().cpu(),
                outputs.pred_spans.detach().cpu(),
                outputs.saliency_scores.detach().cpu(),
                *gradients,
            ]
        )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


def check_bfloat16(name: str, device: str) -> None:
    """Check that the loss under autocast is within 5 % of the float32 loss and every gradient is finite."""
    config_class, model_class = MODELS[name]
    torch.manual_seed(0)
    model = model_class(config_class(video_dim=VIDEO_DIM, text_dim=TEXT_DIM, **TINY)).to(device).eval()
    inputs, shine = make_batch(batch=4, clips=24, words=6, device=device), ShineLoss()
    plain = our_loss(model, inputs, shine).item()
    with torch.autocast(device, torch.bfloat16):
        loss = our_loss(model, inputs, shine)
    loss.backward()
    if abs(loss.item() - plain) > 0.05 * abs(plain):
        raise AssertionError(f"loss {loss.item()} in bfloat16, {plain} in float32")
    for parameter, values in model.named_parameters():
        if values.grad is not None and not values.grad.isfinite().all():
            raise AssertionError(f"the gradient of {parameter} is not finite in bfloat16")


def check_trainer(device: str, folder: Path) -> None:
    """Check that a run learns, and that a run resumed halfway ends with the same loss."""
    losses = []
    for name, resume in (("entire", None), ("resumed", folder / "entire" / "checkpoint-6")):
        trainer = make_trainer(
            folder / name,
            device,
            rows=48,
            videos=24,
            steps=12,
            model=TINY,
            save_strategy="steps",
            save_steps=6,
            logging_steps=1,
        )
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    entire, resumed = losses
    if not min(entire[-3:]) < entire[0]:
        raise AssertionError(f"the loss did not decrease: {entire}")
    torch.testing.assert_close(torch.tensor(resumed[-6:]), torch.tensor(entire[-6:]), rtol=1e-3, atol=1e-3)


def run_checks(device: str, folder: Path) -> dict[str, str]:
    """Run all checks. Return check -> `ok` or the error."""
    checks: dict[str, Callable[[], None]] = {}
    for name in MODELS:
        checks[f"{name} as on the CPU"] = lambda name=name: check_model(name, device)
        checks[f"{name} in bfloat16"] = lambda name=name: check_bfloat16(name, device)
    checks["trainer learns and resumes"] = lambda: check_trainer(device, folder)
    found = {}
    for title, check in checks.items():
        try:
            check()
            found[title] = "ok"
        except Exception as error:
            found[title] = f"{type(error).__name__}: {error}"
    return found
