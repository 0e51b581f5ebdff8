"""Time several variants in alternation, each in its own process, so that other load on the machine affects all of them."""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch


class Worker:
    """A process that creates a variant and runs it on its turn."""

    def __init__(self, make: Callable[[], Callable[[], None]], threads: int, device: str):
        context = multiprocessing.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self.process = context.Process(target=self._serve, args=(far_end, make, threads, device), daemon=True)
        self.process.start()
        far_end.close()

    def take_turn(self) -> float:
        """Return the mean seconds per run, over at least a fifth of a second."""
        self.connection.send("run")
        return self.connection.recv()

    def stop(self) -> None:
        self.connection.close()
        self.process.join()

    @staticmethod
    def _serve(connection: Connection, make, threads: int, device: str) -> None:
        torch.set_num_threads(threads)
        run = make()
        with contextlib.suppress(EOFError):
            while connection.recv():
                begin, runs, elapsed = time.perf_counter(), 0, 0.0
                while elapsed < 0.2:
                    run()
                    if device == "cuda":
                        torch.cuda.synchronize()
                    runs, elapsed = runs + 1, time.perf_counter() - begin
                connection.send(elapsed / runs)


def interleaved(variants: dict[str, Callable], repeats: int, threads: int, device: str, warm_up=3) -> dict[str, float]:
    """Return the median seconds of each variant; the variants alternate, so that other load affects all of them."""
    workers = {name: Worker(make, threads, device) for name, make in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warm_up + repeats):
        for name, worker in workers.items():
            elapsed = worker.take_turn()
            if turn >= warm_up:
                seconds[name].append(elapsed)
    for worker in workers.values():
        worker.stop()
    return {name: statistics.median(values) for name, values in seconds.items()}
