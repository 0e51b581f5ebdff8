"""Choose the number of threads for training on a CPU by timing the steps.

A step is divided among the threads, and the slowest one determines its time. On two idle cores, two threads take two thirds of the time of one.
Next to a busy process, they take many times as long, but a single thread is not slowed down (`benchmarks/speed/busy_cores.py`).
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
"""Steps to time with each number of threads."""
FIRST_PAUSE_STEPS, LONGEST_PAUSE_STEPS = 50, 400
"""Steps between two trials. The pause doubles after each trial that changes nothing."""
GAIN = 0.9
"""To be kept, another number of threads must take less than this share of the current time."""
SLOWDOWN = 1.4
"""If steps become this many times as slow as after the last decision, a trial starts immediately."""


class AdaptThreads(TrainerCallback):
    """
    Try half or twice as many threads now and then, and keep the number with the fastest steps.

    This is also a context manager around `trainer.train()`, which restores torch's number of threads in the end. The number of threads affects
    the order of sums, and thus the last digits of the weights. It therefore does not change if the user fixed it (`OMP_NUM_THREADS`) or set
    `full_determinism`; nor with data loader workers, which need cores too, or in a distributed run.

    Example:
        >>> with AdaptThreads() as threads:
        ...     trainer.add_callback(threads)
        ...     trainer.train()
    """

    def __init__(self):
        self._most = self._kept = torch.get_num_threads()
        self._is_on, self._is_trial = False, False
        self._tries_more = True
        self._times: deque[float] = deque(maxlen=TRIAL_STEPS)
        self._kept_seconds: float | None = None
        self._pause = self._left = 0
        self._began = 0.0

    def __enter__(self) -> AdaptThreads:
        return self

    def __exit__(self, *_) -> None:
        if self._is_on:
            torch.set_num_threads(self._most)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        is_alone = args.world_size == 1 and args.dataloader_num_workers == 0 and args.device.type == "cpu"
        is_fixed = "OMP_NUM_THREADS" in os.environ or args.full_determinism
        self._is_on = is_alone and not is_fixed and self._most > 1
        if self._is_on:
            # Start with half of the threads: if other processes are busy, all threads could be many times slower.
            self._keep(self._most // 2, FIRST_PAUSE_STEPS)
            # The first steps are slower than later ones, so the first trial comes right after them.
            self._left = 2 * TRIAL_STEPS

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._began = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self._is_on:
            return
        self._times.append(time.perf_counter() - self._began)
        if self._is_trial:
            self._judge()
            return
        self._left -= 1
        if len(self._times) < TRIAL_STEPS:
            return
        seconds = statistics.median(self._times)
        if self._kept_seconds is None:
            self._kept_seconds = seconds
        if self._left <= 0 or seconds > SLOWDOWN * self._kept_seconds:
            self._kept_seconds = seconds
            self._try()

    def _try(self) -> None:
        """Start a trial with twice or half as many threads, alternating if both are possible."""
        if self._kept == (self._most if self._tries_more else 1):
            self._tries_more = not self._tries_more
        self._is_trial = True
        self._times.clear()
        torch.set_num_threads(min(2 * self._kept, self._most) if self._tries_more else self._kept // 2)

    def _judge(self) -> None:
        """End the trial once its result is certain. A bad one may end after its first step, which can be many times slower."""
        assert self._kept_seconds is not None
        if sum(self._times) >= TRIAL_STEPS * GAIN * self._kept_seconds:
            self._tries_more = not self._tries_more
            self._keep(self._kept, min(2 * self._pause, LONGEST_PAUSE_STEPS))
        elif len(self._times) == TRIAL_STEPS:
            self._keep(torch.get_num_threads(), FIRST_PAUSE_STEPS)

    def _keep(self, threads: int, pause: int) -> None:
        """Continue with a number of threads. Its steps are timed again before the next trial."""
        torch.set_num_threads(threads)
        self._kept, self._kept_seconds, self._is_trial = threads, None, False
        self._pause = self._left = pause
        self._times.clear()
