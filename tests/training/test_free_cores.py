"""A training moves to the cores that other processes leave it, and back."""

import os
import threading
from types import SimpleNamespace

import pytest
import torch

from shine_hf.training import free_cores
from shine_hf.training.free_cores import FollowFreeCores

if not hasattr(os, "sched_setaffinity"):
    pytest.skip("only Linux binds threads to cores", allow_module_level=True)


class Machine:
    """Two cores. How long a step takes depends on how many of them it may use, and on what else runs."""

    def __init__(self, monkeypatch, cores=2):
        self.cores = self.all = set(range(cores))
        self.now, self.seconds, self.used = 0.0, {cores: 1.0, cores // 2: 1.5}, []
        monkeypatch.setattr(free_cores.os, "sched_getaffinity", lambda thread: self.all)
        monkeypatch.setattr(free_cores, "_run_on", self.run_on)
        monkeypatch.setattr(free_cores.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch, "get_num_threads", lambda: cores)

    def run_on(self, cores):
        self.cores = cores

    def train(self, callback, steps, **settings):
        args = SimpleNamespace(
            **{"world_size": 1, "dataloader_num_workers": 0, "device": torch.device("cpu")} | settings
        )
        if not self.used:
            callback.on_train_begin(args, None, None)
        for _ in range(steps):
            callback.on_step_begin(args, None, None)
            self.used.append(len(self.cores))
            self.now += self.seconds[len(self.cores)]
            callback.on_step_end(args, None, None)


def test_it_follows_what_the_steps_take(monkeypatch):
    machine = Machine(monkeypatch)
    with FollowFreeCores() as callback:
        machine.train(callback, 500)
        # Idle: the trials cost little, and fewer and fewer.
        assert machine.used[-1] == 2 and machine.used.count(1) <= 0.05 * 500
        machine.seconds = {2: 3.0, 1: 1.6}
        machine.train(callback, 450)
        assert machine.used[-20:] == [1] * 20
        machine.seconds = {2: 1.0, 1: 1.5}
        machine.train(callback, 450)
        assert machine.used[-20:] == [2] * 20
        machine.seconds = {2: 3.0, 1: 1.6}
        machine.train(callback, 450)
    assert machine.cores == machine.all


@pytest.mark.parametrize(
    "settings", [{"world_size": 2}, {"dataloader_num_workers": 1}, {"device": torch.device("meta")}]
)
def test_it_leaves_everything_as_it_is_when_others_need_the_cores(monkeypatch, settings):
    machine = Machine(monkeypatch)
    machine.seconds = {2: 3.0, 1: 1.0}
    with FollowFreeCores() as callback:
        machine.train(callback, 100, **settings)
    assert set(machine.used) == {2}


def test_all_threads_move():
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core only")
    done, found = threading.Event(), []
    thread = threading.Thread(target=lambda: (done.wait(30), found.append(os.sched_getaffinity(0))))
    thread.start()
    try:
        free_cores._run_on({min(cores)})
        assert os.sched_getaffinity(0) == {min(cores)}
        done.set()
        thread.join()
        assert found == [{min(cores)}]
    finally:
        free_cores._run_on(cores)
