"""A small but real run of `train.py` for the fault scripts in this folder, and its comparison with an uninterrupted run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from shine_hf.training.checkpoints import is_complete
from tests.made_up import write_charades_cg

REPOSITORY = Path(__file__).resolve().parents[2]
SAVE_STEPS = 10


class Run:
    """
    A training run in its own folder, with a command that always resumes from the last complete checkpoint.

    Args:
        folder: Folder for `data`, which all runs of a script share, and for the output folder `name`.
        name: Name of the output folder.
        max_steps: Number of steps, with a checkpoint and an evaluation every `SAVE_STEPS`.
        launcher: Command that starts `train.py`; by default, Python.
        more: Additional options for `train.py`.
    """

    def __init__(
        self, folder: Path, name: str, max_steps: int, launcher: Sequence[str] = (), more: Sequence[str] = ()
    ):
        data, self.output, self.max_steps = folder / "data", folder / name, max_steps
        if not data.exists():
            write_charades_cg(data)
        options = {
            "config": "charades_cg_qd_detr_shine", "data_dir": data, "output_dir": self.output, "video_features": "simulated:dim=16,noise=0.5",
            "text_features": "words:dim=12", "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_queries": 4,
            "validation_fraction": 0.2, "per_device_train_batch_size": 4, "max_steps": max_steps, "save_steps": SAVE_STEPS, "logging_steps": 1,
            "eval_strategy": "steps", "eval_steps": SAVE_STEPS, "eval_splits": "novel_word", "eval_during_training": "validation",
            "save_total_limit": 2, "use_cpu": "true", "disable_tqdm": "true", "resume_from_checkpoint": "true",
        }  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.command = [*(launcher or [sys.executable]), str(REPOSITORY / "train.py"), *words, *more]

    def start(self) -> subprocess.Popen:
        """Start the command in its own process group."""
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        with open(self.output.with_suffix(".log"), "ab") as log:
            return subprocess.Popen(
                self.command, stdout=log, stderr=log, env=environment, cwd=REPOSITORY, start_new_session=True
            )

    def finish(self) -> None:
        """Run the command and wait for it to finish.

        Raises:
            RuntimeError: if the command fails. The message contains the end of the log.
        """
        if self.start().wait() != 0:
            raise RuntimeError(self.log()[-2000:])

    def log(self) -> str:
        """Return the output of all runs of the command."""
        return self.output.with_suffix(".log").read_text(errors="replace")

    def last_step(self) -> int:
        """Return the step of the newest checkpoint, complete or not."""
        return max((int(path.name.split("-")[1]) for path in self.output.glob("checkpoint-*")), default=0)

    def last_complete_step(self) -> int:
        """Return the step of the newest complete checkpoint."""
        steps = [int(path.name.split("-")[1]) for path in self.output.glob("checkpoint-*") if is_complete(str(path))]
        return max(steps, default=0)

    def is_same_as(self, other: Run) -> bool:
        """Return whether all losses and weights are identical bit for bit."""
        weights, others = load_file(self.output / "model.safetensors"), load_file(other.output / "model.safetensors")
        return self.losses() == other.losses() and all(torch.equal(weights[name], others[name]) for name in others)

    def losses(self) -> dict[int, float]:
        state = json.loads((self.output / "trainer_state.json").read_text())
        return {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
