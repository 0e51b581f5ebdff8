"""A training takes the number of threads with which its steps are fastest."""

from types import SimpleNamespace

import pytest
import torch

from shine_hf.training import threads
from shine_hf.training.threads import AdaptThreads


class Machine:
    """How long a step takes depends on the number of threads, and on what else runs."""

    def __init__(self, monkeypatch, seconds):
        self.threads, self.seconds = max(seconds), seconds
        self.now, self.used = 0.0, []
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(threads.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", self.set_threads)

    def set_threads(self, count):
        self.threads = count

    def train(self, callback, steps, **settings):
        usual = {
            "world_size": 1,
            "dataloader_num_workers": 0,
            "device": torch.device("cpu"),
            "full_determinism": False,
        }
        args = SimpleNamespace(**usual | settings)
        if not self.used:
            callback.on_train_begin(args, None, None)
        for _ in range(steps):
            callback.on_step_begin(args, None, None)
            self.used.append(self.threads)
            self.now += self.seconds[self.threads]
            callback.on_step_end(args, None, None)


def test_it_follows_what_the_steps_take(monkeypatch):
    machine = Machine(monkeypatch, {2: 1.0, 1: 1.5})
    with AdaptThreads() as callback:
        machine.train(callback, 500)
        # Idle: two threads after the first steps. The trials cost little, and fewer and fewer.
        assert machine.used[:20].count(1) < 10 and machine.used[20:].count(1) <= 0.02 * 500
        machine.seconds = {2: 30.0, 1: 1.6}
        machine.train(callback, 100)
        # A slowdown is noticed after a few steps, not at the next regular trial.
        assert machine.used[500:600].count(2) <= 4
        machine.seconds = {2: 1.0, 1: 1.5}
        machine.train(callback, 450)
        assert machine.used[-20:] == [2] * 20
        machine.seconds = {2: 3.0, 1: 1.6}
        machine.train(callback, 50)
        assert machine.threads == 1
    assert machine.threads == 2


def test_next_to_a_busy_process_a_trial_ends_with_its_first_step(monkeypatch):
    machine = Machine(monkeypatch, {2: 30.0, 1: 1.6})
    with AdaptThreads() as callback:
        machine.train(callback, 1000)
    assert 1 <= machine.used.count(2) <= 5


def test_it_finds_a_number_in_between(monkeypatch):
    machine = Machine(monkeypatch, {8: 4.0, 4: 2.0, 2: 1.0, 1: 1.9})
    with AdaptThreads() as callback:
        machine.train(callback, 300)
        assert machine.threads == 2
        machine.seconds = {8: 0.6, 4: 0.8, 2: 1.0, 1: 1.9}
        machine.train(callback, 1000)
        assert machine.used[-100:].count(8) > 90


@pytest.mark.parametrize(
    "settings",
    [{"world_size": 2}, {"dataloader_num_workers": 1}, {"device": torch.device("meta")}, {"full_determinism": True}],
)
def test_the_number_stays_where_others_need_the_cores_or_results_must_repeat(monkeypatch, settings):
    machine = Machine(monkeypatch, {2: 3.0, 1: 1.0})
    with AdaptThreads() as callback:
        machine.train(callback, 100, **settings)
    assert set(machine.used) == {2}


def test_a_number_that_the_user_fixed_stays(monkeypatch):
    machine = Machine(monkeypatch, {2: 3.0, 1: 1.0})
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with AdaptThreads() as callback:
        machine.train(callback, 100)
    assert set(machine.used) == {2}
