"""Let a training on a CPU use the cores that other processes leave it.

A step is cut into one part per thread, and the slowest thread decides. On two cores, with one other busy process, two threads took 1.5 times as
long as on one core, where no other process disturbs them; without one, 0.7 times as long. Where the threads run changes no result, unlike
their number.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

TRIAL_STEPS = 4
"""Steps that are timed on each set of cores."""
FIRST_PAUSE_STEPS, LONGEST_PAUSE_STEPS = 50, 400
"""Steps between two trials: doubled while the trials change nothing."""
GAIN = 0.9
"""The other set of cores must take less than this share of the time."""


class FollowFreeCores(TrainerCallback):
    """
    Time a few steps on half of the cores now and then, and stay there as long as that is faster.

    A context manager around `trainer.train()`, after which the process runs on all its cores again. It does nothing with one thread, with
    workers of the data loader, which need cores too, in a distributed run, and outside Linux.

    Example:
        >>> with FollowFreeCores() as cores:
        ...     trainer.add_callback(cores)
        ...     trainer.train()
    """

    def __init__(self):
        self._all: set[int] = set()
        self._on_half = False
        self._recent: deque[float] = deque(maxlen=TRIAL_STEPS)
        self._trial: list[float] | None = None
        self._pause = self._left = FIRST_PAUSE_STEPS
        self._rotation = 0
        self._began = 0.0

    def __enter__(self) -> FollowFreeCores:
        return self

    def __exit__(self, *_) -> None:
        if self._all:
            _run_on(self._all)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        is_alone = args.world_size == 1 and args.dataloader_num_workers == 0 and args.device.type == "cpu"
        if is_alone and hasattr(os, "sched_setaffinity") and torch.get_num_threads() > 1:
            cores = os.sched_getaffinity(0)
            self._all = cores if len(cores) > 1 else set()
        # The first trial follows as soon as the first steps, which are slower, are over.
        self._left = 2 * TRIAL_STEPS

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._all:
            return
        seconds = time.perf_counter() - self._began
        if self._trial is not None:
            self._trial.append(seconds)
            if len(self._trial) == TRIAL_STEPS:
                self._decide(statistics.median(self._trial) < GAIN * statistics.median(self._recent))
            return
        self._recent.append(seconds)
        self._left -= 1
        if self._left <= 0 and len(self._recent) == TRIAL_STEPS:
            self._trial = []
            self._place(not self._on_half)

    def _decide(self, is_better: bool) -> None:
        if is_better:
            self._on_half = not self._on_half
            self._pause = FIRST_PAUSE_STEPS
        else:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_STEPS)
            self._place(self._on_half)
        self._trial, self._left = None, self._pause
        self._recent.clear()

    def _place(self, on_half: bool) -> None:
        cores = sorted(self._all)
        if on_half:
            # Another half each time: a process that is bound to a core cannot give way.
            self._rotation += 1
            start = self._rotation % len(cores)
            cores = (cores[start:] + cores[:start])[: len(cores) // 2]
        _run_on(set(cores))


def _run_on(cores: set[int]) -> None:
    """Move all threads of this process. A thread that has just ended is passed over."""
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setaffinity(int(thread), cores)
        except OSError:
            continue
