"""An exponential moving average of the weights, which is evaluated, selected and saved instead of the weights of a single step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

AVERAGE_FILE = "averaged_weights.safetensors"


class WeightAveraging(TrainerCallback):
    r"""Average the weights after each step:

    $$ \bar w_t = d_t \, \bar w_{t-1} + (1 - d_t) \, w_t, \qquad d_t = \min\Big(d, \frac{1 + t}{10 + t}\Big) $$

    The decay grows over the first steps, so that the initial weights do not dominate the average. Training itself does not change: the
    optimizer continues with the weights of the last step, and checkpoints contain both.

    Args:
        trainer (`Trainer`): Trainer whose model is averaged.
        decay (`float`): d, between 0 and 1.
    """

    def __init__(self, trainer: Trainer, decay: float):
        self.trainer, self.decay = trainer, decay
        self._average: dict[str, torch.Tensor] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Start with the weights of the model, or with the average in the checkpoint from which the run is resumed.

        Raises:
            ValueError: if the model is sharded across processes, or the checkpoint has no average.
        """
        if self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled:
            raise ValueError(
                "ema_decay needs the entire model in each process: it does not work with FSDP or DeepSpeed"
            )
        self._average = {name: weight.detach().clone() for name, weight in self._weights().items()}
        if state.global_step:
            path = os.path.join(self.trainer.last_checkpoint, AVERAGE_FILE)
            if not os.path.isfile(path):
                raise ValueError(
                    f"{self.trainer.last_checkpoint} was saved without ema_decay, so the average of its weights is unknown. Continue without ema_decay, "
                    f"or start a new run from its weights with --model {self.trainer.last_checkpoint}"
                )
            self._average = load_file(path, device=str(args.device))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Add the weights of this step to the average."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        weights = self._weights()
        average = [self._average[name] for name in weights]
        get_ema_multi_avg_fn(decay)(average, [weight.detach() for weight in weights.values()], None)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """End with the averaged weights."""
        self._load(self._average)
        self._average = None

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the averaged weights within the block. Outside training, nothing changes."""
        average, self._average = self._average, None  # In nested blocks, the averaged weights are already loaded.
        if average is None:
            yield
            return
        weights = {name: weight.detach().clone() for name, weight in self._weights().items()}
        self._load(average)
        try:
            yield
        finally:
            self._load(weights)
            self._average = average

    def save(self, folder: str) -> None:
        """Write the average into a checkpoint."""
        if self._average is not None and self.trainer.args.should_save:
            save_file(self._average, os.path.join(folder, AVERAGE_FILE))

    def _weights(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.trainer.model.named_parameters())

    @torch.no_grad()
    def _load(self, values: dict[str, torch.Tensor]) -> None:
        # Copied in place, since optimizers, compiled steps and CUDA graphs keep using the same tensors.
        for name, weight in self._weights().items():
            weight.copy_(values[name])
