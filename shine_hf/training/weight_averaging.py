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

    The decay grows over the first steps, so that the average does not cling to the initial weights. The training itself is not changed: the
    optimizer goes on with the weights of the last step, and checkpoints hold both.

    Args:
        trainer (`Trainer`): Whose model is averaged.
        decay (`float`): d, between 0 and 1.
    """

    def __init__(self, trainer: Trainer, decay: float):
        self.trainer, self.decay = trainer, decay
        self._average: dict[str, torch.Tensor] | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        """Begin with the weights of the model, or with the average of the checkpoint from which the run is resumed.

        Raises:
            ValueError: if the model is sharded over processes, or the checkpoint has no average.
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
                    f"{self.trainer.last_checkpoint} was saved without ema_decay, so the average of its weights is unknown. Go on without it, "
                    f"or start again from its weights with --model {self.trainer.last_checkpoint}"
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
        """Give the model its averaged weights within the block; nothing changes outside a training."""
        average, self._average = self._average, None  # Blocks within the block find the weights in place.
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
        # Copied, not exchanged: optimizers, compiled steps and CUDA graphs go on with the same tensors.
        for name, weight in self._weights().items():
            weight.copy_(values[name])
