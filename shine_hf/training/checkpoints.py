"""Find, check, load and remove checkpoints on disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection
from fnmatch import fnmatch

import torch
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import TrainingArguments
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME

from ..hub.push import BEST_MODEL_FOLDER
from ..io import atomic_dir

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.json"
# What a checkpoint must contain -> patterns of its files or folders, with one process or several, FSDP or DeepSpeed.
STATE_PATTERNS = {
    "optimizer": ("optimizer*", "global_step*"),
    "learning-rate schedule": ("scheduler.pt",),
    "random number generators": ("rng_state*",),
}


def is_complete(checkpoint: str) -> bool:
    """Return whether a checkpoint was saved completely. The trainer's state is written last, so after an interruption it is missing or invalid."""
    return saved_step(checkpoint) is not None


def saved_step(checkpoint: str | None) -> int | None:
    """Return the step of a complete checkpoint; None for anything else."""
    if checkpoint is None:
        return None
    try:
        with open(os.path.join(checkpoint, STATE_FILE), encoding="utf-8") as file:
            return int(json.load(file).get("global_step", 0))
    except (OSError, ValueError, AttributeError):
        return None


def missing_state(checkpoint: str) -> list[str]:
    """Return which parts of the training state a complete checkpoint lacks.

    Without them, `Trainer` would silently continue with different losses. They are missing after an interrupted copy or download, or with
    `save_only_model`.
    """
    names = os.listdir(checkpoint)
    return [
        what
        for what, patterns in STATE_PATTERNS.items()
        if not any(fnmatch(name, pattern) for name in names for pattern in patterns)
    ]


def last_complete_checkpoint(output_dir: str) -> str | None:
    """Return the complete checkpoint with the highest step in a folder; None if there is none."""
    return next((folder for folder in reversed(sort_checkpoints(output_dir)) if is_complete(folder)), None)


def remove_incomplete_checkpoints(output_dir: str) -> None:
    """Remove the remains of interrupted saves, which take up space and would count toward `save_total_limit`."""
    for folder in sort_checkpoints(output_dir):
        if not is_complete(folder):
            shutil.rmtree(folder)


def remove_old_checkpoints(output_dir: str, limit: int, keep: Collection[str | None]) -> None:
    """Remove the oldest checkpoints until `limit` are left, but never the ones in `keep`."""
    kept = {os.path.abspath(folder) for folder in keep if folder is not None}
    others = [folder for folder in sort_checkpoints(output_dir) if os.path.abspath(folder) not in kept]
    others.sort(key=os.path.getmtime)
    for folder in others[: max(0, len(others) + len(kept) - limit)]:
        shutil.rmtree(folder, ignore_errors=True)


def load_full_weights(model: torch.nn.Module, folder: str) -> None:
    """Load saved weights into a model that is sharded across processes (FSDP).

    The first process reads the file and broadcasts the weights. Every process must call this.
    """
    is_reader = not distributed.is_initialized() or distributed.get_rank() == 0
    weights = load_file(os.path.join(folder, SAFE_WEIGHTS_NAME)) if is_reader else {}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=distributed.is_initialized())
    set_model_state_dict(model, weights, options=options)


def restore_best_model(checkpoint: str, output_dir: str) -> None:
    """Copy the best model out of a pushed checkpoint into `output_dir`, unless one is there already."""
    source, target = os.path.join(checkpoint, BEST_MODEL_FOLDER), os.path.join(output_dir, BEST_MODEL_FOLDER)
    if os.path.isdir(source) and not os.path.isdir(target):
        os.makedirs(output_dir, exist_ok=True)
        with atomic_dir(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """Resolve `args.resume_from_checkpoint`: a folder, or `true` for the newest complete checkpoint in `output_dir`, if any.

    Raises:
        ValueError: for a checkpoint that is incomplete or lacks a part of the training state.
    """
    checkpoint = _find_checkpoint(args)
    if checkpoint is not None and (missing := missing_state(checkpoint)):
        raise ValueError(
            f"{checkpoint} lacks the state of: {', '.join(missing)}. Copy or download it again, or start a new run from its weights with --model "
            f"{checkpoint}"
        )
    return checkpoint


def _find_checkpoint(args: TrainingArguments) -> str | None:
    wanted = args.resume_from_checkpoint
    if wanted is None or str(wanted).lower() in ("false", ""):
        return None
    if str(wanted).lower() != "true":
        if not is_complete(wanted):
            raise ValueError(
                f"{wanted} is not a complete checkpoint: it is missing, or saving it was interrupted. The last complete one of this run is "
                f"{last_complete_checkpoint(args.output_dir)}"
            )
        if args.should_save:
            restore_best_model(wanted, args.output_dir)
        return wanted
    checkpoint = last_complete_checkpoint(args.output_dir)
    logger.info("resuming from %s", checkpoint) if checkpoint else logger.info(
        "no checkpoint yet: starting from scratch"
    )
    return checkpoint
