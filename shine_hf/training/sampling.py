"""Order the rows so that batches contain videos of similar length, independent of the number of processes and accumulated batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler, Sampler, SequentialSampler
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices
from transformers.trainer_utils import has_length

STRATEGIES = ("group_by_length", "random", "sequential")


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """
    A `LengthGroupedSampler` whose order depends only on seed and epoch.

    The original draws from the global generator, which dropout advances differently in each process, and whose state differs in a resumed
    run.

    Args:
        batch_size (`int`): Rows per step, over all processes and accumulated batches.
        lengths (`list`): A number per row that grows with its length.
        seed (`int`): Seed of the order.
        epoch (`Callable[[], int]`): Returns the current epoch. A `set_epoch` call would not get through the wrappers of a distributed run
            that is resumed in the middle of an epoch.
    """

    def __init__(self, batch_size: int, lengths: Sequence[float], seed: int, epoch: Callable[[], int]):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, epoch

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))


def training_sampler(rows: Any, args: TrainingArguments, batch_size: int, epoch: Callable[[], int]) -> Sampler | None:
    """Return the sampler of the training rows for `args.train_sampling_strategy`; None for a stream, which has its own order.

    Args:
        rows: The training set.
        args: Arguments of the trainer.
        batch_size: Rows per step, over all processes and accumulated batches.
        epoch: See [`EpochLengthGroupedSampler`].
    """
    if not has_length(rows):
        return None
    if args.train_sampling_strategy == "sequential":
        return SequentialSampler(rows)
    lengths = row_lengths(rows, args)
    if lengths is None:
        return RandomSampler(rows)
    seed = args.data_seed if args.data_seed is not None else args.seed
    return EpochLengthGroupedSampler(batch_size, lengths, seed, epoch)


def longest_first(rows: Any, args: TrainingArguments) -> list[int] | None:
    """Return the indices of the rows in evaluation order; None for a stream.

    The longest videos come first, so batches have little padding, and a batch that does not fit in memory fails immediately.
    """
    if not has_length(rows):
        return None
    lengths = row_lengths(rows, args) or [0.0] * len(rows)
    return np.argsort(-np.asarray(lengths), kind="stable").tolist()


def row_lengths(rows: Any, args: TrainingArguments) -> Sequence[float] | None:
    """Return the length of each row; None if rows are not grouped by length, or have no column with it."""
    grouped = args.train_sampling_strategy == "group_by_length"
    if not grouped or args.length_column_name not in (getattr(rows, "column_names", None) or ()):
        return None
    return list(rows[args.length_column_name])


def restore_order(values: Any, order: Sequence[int] | None) -> Any:
    """Return arrays `(N, …)`, or a tuple of them, in row order again, after they were computed for the rows in `order`."""
    if values is None or order is None:
        return values
    if isinstance(values, tuple):
        return tuple(restore_order(value, order) for value in values)
    return values[np.argsort(order)] if len(values) == len(order) else values
