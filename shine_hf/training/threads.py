"""Choose the number of threads of a training on a CPU by what the steps take.

A step is cut into one part per thread, and the slowest thread decides. On two idle cores, two threads need two thirds of the time of one; next
to a busy process they need four times as long, and one thread is not disturbed at all (`benchmarks/speed/busy_cores.py`).
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
"""Steps that are timed with each number of threads."""
FIRST_PAUSE_STEPS, LONGEST_PAUSE_STEPS = 50, 400
"""Steps between two trials: doubled while the trials change nothing."""
GAIN = 0.9
"""The other number of threads must take less than this share of the time."""
SLOWDOWN = 1.4
"""Steps that take this many times as long as after the last decision call for a trial at once."""


class AdaptThreads(TrainerCallback):
    """
    Try half or twice as many threads now and then, and keep the number with which the steps are fastest.

    A context manager around `trainer.train()`, after which torch has its threads again. The number of threads decides in which order numbers
    are summed up, and so the last digits of the weights. It therefore stays as it is where the user fixed it (`OMP_NUM_THREADS`) or
    asked for `full_determinism`; also with workers of the data loader, which need cores too, and in a distributed run.

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
            # With fewer threads than cores, the first steps are never much slower than they could be.
            self._keep(self._most // 2, FIRST_PAUSE_STEPS)
            # The first steps are slower than the others, and the first trial follows right after them.
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
        """Start a trial with twice or half as many threads, in turns as far as both exist."""
        if self._kept == (self._most if self._tries_more else 1):
            self._tries_more = not self._tries_more
        self._is_trial = True
        self._times.clear()
        torch.set_num_threads(min(2 * self._kept, self._most) if self._tries_more else self._kept // 2)

    def _judge(self) -> None:
        """End the trial when it is certain: a bad one after its first step, which may be many times slower."""
        assert self._kept_seconds is not None
        if sum(self._times) >= TRIAL_STEPS * GAIN * self._kept_seconds:
            self._tries_more = not self._tries_more
            self._keep(self._kept, min(2 * self._pause, LONGEST_PAUSE_STEPS))
        elif len(self._times) == TRIAL_STEPS:
            self._keep(torch.get_num_threads(), FIRST_PAUSE_STEPS)

    def _keep(self, threads: int, pause: int) -> None:
        """Go on with a number of threads, and measure it again before the next trial."""
        torch.set_num_threads(threads)
        self._kept, self._kept_seconds, self._is_trial = threads, None, False
        self._pause = self._left = pause
        self._times.clear()
