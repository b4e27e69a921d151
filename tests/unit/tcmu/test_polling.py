"""Pauses of a ring as machines have them: whether they are looked through or slept through."""

import pytest

from pratima_iscsi.limits import TCMU_PAUSE_SECONDS_MAX, TCMU_POLL_SECONDS_MAX
from pratima_iscsi.tcmu.polling import TRY_EVERY, WORTH, Polling

MICROSECOND = 1e-6
MANY = 40 * TRY_EVERY


def run(polling: Polling, pauses: int, think: float, waking: float) -> tuple[int, float]:
    """So many pauses of an initiator that sends its next command after ``think`` seconds, on a
    machine that needs ``waking`` to wake up: how many were slept through, and seconds of looking.
    """
    slept, looking = 0, 0.0
    for _ in range(pauses):
        patience = polling.patience()
        assert patience <= TCMU_POLL_SECONDS_MAX
        if patience >= think:
            looking += think
            polling.ended(think)
        else:
            slept += not patience
            looking += patience
            polling.ended(think + waking)
    return slept, looking


@pytest.mark.parametrize("scale", [1, 30])
def test_short_pauses_are_looked_through_on_quick_machines_and_on_slow_ones(scale: int) -> None:
    polling = Polling(True)
    think, waking = 25 * scale * MICROSECOND, 15 * scale * MICROSECOND
    run(polling, MANY, think, waking)
    slept, _ = run(polling, MANY, think, waking)
    assert slept == MANY // TRY_EVERY, "but for the trials none"


def test_pauses_far_longer_than_waking_are_slept_through() -> None:
    polling = Polling(True)
    think, waking = 800 * MICROSECOND, 15 * MICROSECOND
    run(polling, MANY, think, waking)
    slept, looking = run(polling, MANY, think, waking)
    assert slept == MANY - MANY // TRY_EVERY
    assert looking <= 1.1 * think * MANY / TRY_EVERY, "no more is looked than in trials"


def test_an_idle_device_is_hardly_looked_at() -> None:
    polling = Polling(True)
    run(polling, MANY, 1.0, 15 * MICROSECOND)
    _, looking = run(polling, MANY, 1.0, 15 * MICROSECOND)
    assert looking <= 1.01 * TCMU_POLL_SECONDS_MAX * MANY / TRY_EVERY


def test_an_initiator_that_gets_busy_again_is_noticed() -> None:
    polling = Polling(True)
    run(polling, MANY, 1.0, 15 * MICROSECOND)
    assert not polling.worthwhile
    run(polling, 2 * TRY_EVERY, 25 * MICROSECOND, 15 * MICROSECOND)
    assert polling.worthwhile


def test_a_look_costs_at_most_so_much_more_than_it_saves() -> None:
    waking = 20 * MICROSECOND
    for think, worthwhile in ((0.9 * WORTH * waking, True), (1.2 * WORTH * waking, False)):
        polling = Polling(True)
        run(polling, MANY, think, waking)
        assert polling.worthwhile is worthwhile


def test_a_long_pause_counts_as_a_bounded_one() -> None:
    polling = Polling(True)
    run(polling, 2 * TRY_EVERY, 3600.0, 0.0)
    assert polling._looked <= TCMU_PAUSE_SECONDS_MAX
    assert polling._slept <= TCMU_PAUSE_SECONDS_MAX


def test_where_there_is_but_one_processor_nobody_looks() -> None:
    assert run(Polling(False), 100, 25 * MICROSECOND, 15 * MICROSECOND) == (100, 0.0)
