"""The order of the training rows: rows of like length together, the same for any number of processes and accumulated steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """
    `LengthGroupedSampler` whose order depends on seed and epoch alone.

    The original draws from the global generator, which dropout moves on differently in each process, and a resumed run finds elsewhere.

    Args:
        batch_size (`int`): Rows of a whole step: of all processes and accumulated batches.
        lengths (`list`): A number per row that grows with its length.
        seed (`int`): Seed of the order.
        epoch (`Callable[[], int]`): Tells the epoch when one begins. It is asked for, since a `set_epoch` would not get through the wrappers of a
            run with several processes that is resumed in the middle of an epoch.
    """

    def __init__(self, batch_size: int, lengths: list[float], seed: int, epoch: Callable[[], int]):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
