import pytest

from shine_hf.negatives.llm import pacing


class Clock:
    """Time that passes only when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pacing.time, "monotonic", clock.monotonic)
    return clock


def send(pacer, clock, seconds, *, limit=None, unpaced_rate=500.0, random_share=0.0):
    """Requests for so long against a limit (a bucket of ten); returns how many were accepted and refused."""
    end, tokens, last = clock.now + seconds, 10.0, clock.now
    accepted = refused = 0
    while clock.now < end:
        clock.now += pacer.reserve_turn()
        clock.now += 1 / unpaced_rate
        tokens, last = min(10.0, tokens + (clock.now - last) * (limit or 1e9)), clock.now
        turned_away = (accepted + refused) % 100 < 100 * random_share
        if tokens >= 1 and not turned_away:
            tokens -= 1
            accepted += 1
            pacer.accepted()
        else:
            refused += 1
            pacer.refused(1.0)
    return accepted, refused


def test_no_refusals_no_limit(clock):
    pacer = pacing.Pacer()
    assert send(pacer, clock, 5) == (pytest.approx(2500, abs=5), 0)
    assert pacer.rate is None


@pytest.mark.parametrize("limit", [20, 100, 300])
def test_finds_the_limit_and_uses_nearly_all_of_it(clock, limit):
    pacer = pacing.Pacer()
    send(pacer, clock, 3, limit=limit)
    accepted, refused = send(pacer, clock, 20, limit=limit)
    assert accepted > 0.9 * 20 * limit
    assert refused < 0.5 * accepted


def test_refusals_at_random_do_not_slow_it_down(clock):
    accepted, _ = send(pacing.Pacer(), clock, 10, random_share=0.15)
    assert accepted > 0.8 * 10 * 500


def test_a_lifted_limit_is_noticed(clock):
    pacer = pacing.Pacer()
    send(pacer, clock, 5, limit=20)
    send(pacer, clock, 5)
    accepted, _ = send(pacer, clock, 1)
    assert accepted > 400


def test_waits_as_asked_when_nothing_is_accepted(clock):
    pacer = pacing.Pacer()
    for _ in range(30):
        clock.now += 0.02
        pacer.refused(7.0)
    assert 6.0 < pacer.reserve_turn() <= 7.0
