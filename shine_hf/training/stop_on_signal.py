"""Stop training on a signal without losing a step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# From Ctrl-C, `kill` and schedulers, a closed terminal, Slurm's `--signal=USR1@60`, and the CPU time limit. Windows lacks some of them.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)
)


class TrainingStopped(Exception):
    """A signal ended training early.

    Args:
        signal_number: The signal.
        step, max_steps: The last step of this run, and the planned number of steps.
        checkpoint: Folder in which that step is saved; None if it is not.
        advice: Complete sentences about what is saved and how to continue.
    """

    def __init__(self, signal_number: int, step: int, max_steps: int, checkpoint: str | None, advice: str):
        self.signal_number, self.step, self.max_steps, self.checkpoint = signal_number, step, max_steps, checkpoint
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name} after step {step} of {max_steps}. {advice}")

    @property
    def exit_status(self) -> int:
        """The exit status that a shell reports for a process killed by the signal."""
        return 128 + self.signal_number


class StopOnSignal(TrainerCallback):
    """
    On a signal, end training after the current step, with a checkpoint from which the run can resume exactly.

    This is also a context manager that handles signals while `trainer.train()` runs. A second Ctrl-C interrupts immediately. In a distributed
    run, the signal may reach only one process, or different processes during different steps. Therefore, the processes agree on the step to stop
    at, which is one later than the first possible one.

    Attributes:
        stopped_by (`int`): The signal that ended training; 0 if none did.

    Example:
        >>> with StopOnSignal() as stop:
        ...     trainer.add_callback(stop)
        ...     trainer.train()
    """

    def __init__(self):
        self.stopped_by = 0
        self._received = 0
        self._previous_handlers = {}
        self._group = None
        self._pending = None

    def __enter__(self) -> StopOnSignal:
        # Only the main thread can set handlers. In other threads, the signal kills the process, as it would without this callback.
        if threading.current_thread() is threading.main_thread():
            # A signal that the parent process ignores stays ignored, e.g. SIGHUP under `nohup`.
            wanted = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._previous_handlers = {number: signal.signal(number, self._receive) for number in wanted}
        return self

    def __exit__(self, exception_type, *_) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        if self._received and not self.stopped_by and exception_type is None:
            # The signal came after the last step, so nothing is left to stop, but it must not be lost.
            signal.raise_signal(self._received)

    def _receive(self, number, frame) -> None:
        self._received = self._received or number
        if number == signal.SIGINT:
            # Unbuffered: a handler may run in the middle of another write.
            os.write(2, b"\nStopping after this step. Press Ctrl-C again to stop at once.\n")
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            # On the CPU, so that no step waits for its device.
            self._group = distributed.new_group(backend="gloo", timeout=args.ddp_timeout_delta)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if not self.stopped_by and (number := self._agreed()):
            self.stopped_by = number
            control.should_training_stop = True
            # `on_epoch_end`, which follows, saves.
            control.should_save = False

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.stopped_by:
            control.should_log = control.should_save = True
            # In the middle of an epoch, its evaluation is not due yet: the resumed run continues the epoch.
            control.should_evaluate = control.should_evaluate and state.epoch.is_integer()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self._pending is not None:
            self._pending[1].wait()

    def _agreed(self) -> int:
        """Return the signal that has reached any process, or 0. With several processes, only signals before the end of the previous step count."""
        if self._group is None:
            return self._received
        agreed = 0
        if self._pending is not None:
            number, work = self._pending
            work.wait()
            agreed = int(number)
        number = torch.tensor(self._received, dtype=torch.int32)
        self._pending = (
            number,
            distributed.all_reduce(number, distributed.ReduceOp.MAX, group=self._group, async_op=True),
        )
        return agreed


def ignore_foreign_signals(worker_init_fn: Callable[[int], None] | None, worker: int) -> None:
    """Keep a data loader worker alive when a signal is sent to all processes, since the trainer needs it until the step is done.

    The worker only exits on a SIGTERM from its parent, with which torch stops it in the end.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    # macOS does not report who sent a signal. There, SIGTERM kills the workers, and training fails.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()
    if worker_init_fn is not None:
        worker_init_fn(worker)


def _exit_on_sigterm_from(process: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(0)
