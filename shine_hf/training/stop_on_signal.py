"""Stop a training on a signal without losing a step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

# Ctrl-C, `kill` and schedulers, a closed terminal, Slurm's `--signal=USR1@60`, and the limit on CPU time. Windows lacks some of them.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name)
)


class TrainingStopped(Exception):
    """A signal ended the training early.

    Args:
        signal_number: Which signal.
        step, max_steps: How far the training got.
        checkpoint: Where that step is saved.
        advice: What is saved and how to go on, in sentences of their own.
    """

    def __init__(self, signal_number: int, step: int, max_steps: int, checkpoint: str | None, advice: str):
        self.signal_number, self.step, self.max_steps, self.checkpoint = signal_number, step, max_steps, checkpoint
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name} after step {step} of {max_steps}. {advice}")

    @property
    def exit_status(self) -> int:
        """The status that a shell reports for a process that died by the signal."""
        return 128 + self.signal_number


class StopOnSignal(TrainerCallback):
    """
    On a signal, end the training after the step it is in, with a checkpoint from which it resumes exactly.

    A context manager around `trainer.train()` that receives the signals of its block. A second Ctrl-C interrupts at once. In a distributed run
    the signal may reach only one process, or all of them during different steps: they agree on a step to stop at, one later than the first
    possible one.

    Attributes:
        stopped_by (`int`): The signal that ended the training; 0 if none did.

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
        # Only the main thread can set handlers; elsewhere a training dies by the signal, as it would without this callback.
        if threading.current_thread() is threading.main_thread():
            # A signal that the parent process ignores stays ignored, e.g. SIGHUP under `nohup`.
            wanted = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._previous_handlers = {number: signal.signal(number, self._receive) for number in wanted}
        return self

    def __exit__(self, exception_type, *_) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        if self._received and not self.stopped_by and exception_type is None:
            # It came after the last step: there is nothing left to stop, but it must not be lost.
            signal.raise_signal(self._received)

    def _receive(self, number, frame) -> None:
        self._received = self._received or number
        if number == signal.SIGINT:
            # Unbuffered: a handler may run in the middle of another write.
            os.write(2, b"\nStopping after this step. Press Ctrl-C again to stop at once.\n")
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            # On the CPU, whatever the training runs on, so that no step waits for its device.
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
            # The epoch continues after the resumption, so its evaluation is not due yet.
            control.should_evaluate = control.should_evaluate and state.epoch.is_integer()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self._pending is not None:
            self._pending[1].wait()

    def _agreed(self) -> int:
        """Return the signal that has reached any process: by now with one process, by the end of the previous step with several; 0 for none."""
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
    """Keep a worker of a data loader alive when a signal goes to all processes: the trainer still needs it until its step is done.

    The worker ends only on a SIGTERM of its parent, by which torch gets rid of it in the end.
    """
    for number in STOP_SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    # macOS does not say who sent a signal; there the workers die on SIGTERM, and the training with them.
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()
    if worker_init_fn is not None:
        worker_init_fn(worker)


def _exit_on_sigterm_from(process: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != process:
        pass
    os._exit(0)
