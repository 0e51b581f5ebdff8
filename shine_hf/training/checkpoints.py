"""What a fault leaves on the disk: which checkpoints are whole, and folders that are there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from fnmatch import fnmatch

import torch
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers.trainer_utils import sort_checkpoints
from transformers.utils import SAFE_WEIGHTS_NAME

from ..hub.push import BEST_MODEL_FOLDER
from ..io import atomic_dir

STATE_FILE = "trainer_state.json"
# Files or folders, one of which holds the state: of one process or of several, of FSDP or of DeepSpeed.
STATE_PATTERNS = {
    "optimiser": ("optimizer*", "global_step*"),
    "schedule of the learning rate": ("scheduler.pt",),
    "random numbers": ("rng_state*",),
}


def is_whole(checkpoint: str) -> bool:
    """Whether a checkpoint was saved to its end: the trainer's state is written last, so it is missing or cut short where the rest may be."""
    try:
        with open(os.path.join(checkpoint, STATE_FILE), encoding="utf-8") as file:
            json.load(file)
    except (OSError, ValueError):
        return False
    return True


def missing_state(checkpoint: str) -> list[str]:
    """
    What a checkpoint that is whole lacks of the state of the training, without which `Trainer` would go on to other losses and not say so: a
    copy or a download of it was cut short, or it was saved with `save_only_model`.
    """
    names = os.listdir(checkpoint)
    return [
        what
        for what, patterns in STATE_PATTERNS.items()
        if not any(fnmatch(name, pattern) for name in names for pattern in patterns)
    ]


def last_complete_checkpoint(output_dir: str) -> str | None:
    """The newest checkpoint of a run that was saved to its end; None where there is none."""
    return next((folder for folder in reversed(sort_checkpoints(output_dir)) if is_whole(folder)), None)


def remove_half_written(output_dir: str) -> None:
    """Remove what interrupted saves left: it takes room, and the limit on the number of checkpoints would count it as one to keep."""
    for folder in sort_checkpoints(output_dir):
        if not is_whole(folder):
            shutil.rmtree(folder)


def load_full_weights(model: torch.nn.Module, folder: str) -> None:
    """Load saved weights into a model that is sharded over the processes (FSDP): the first one reads, the others get their parts from it. Every
    process must call this."""
    is_reader = not distributed.is_initialized() or distributed.get_rank() == 0
    weights = load_file(os.path.join(folder, SAFE_WEIGHTS_NAME)) if is_reader else {}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=distributed.is_initialized())
    set_model_state_dict(model, weights, options=options)


def restore_best_model(checkpoint: str, output_dir: str) -> None:
    """Put the best model that a pushed checkpoint brought along where the trainer looks for it, unless there is one."""
    source, target = os.path.join(checkpoint, BEST_MODEL_FOLDER), os.path.join(output_dir, BEST_MODEL_FOLDER)
    if os.path.isdir(source) and not os.path.isdir(target):
        os.makedirs(output_dir, exist_ok=True)
        with atomic_dir(target) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
