"""Jobs that may wait: which run on the loop, which in the thread, and in what order they end."""

import asyncio
import resource
import threading
import time

import pytest

from pratima_iscsi import limits
from pratima_iscsi.engine.lane import Event, InlinePace, Lane
from tests.support.on_loop import on_loop


class Jobs:
    """Jobs of one lane, and what they did."""

    def __init__(self) -> None:
        self.lane = Lane(asyncio.get_running_loop(), "lane")
        self.ended: list[str] = []
        self.threads: dict[str, int] = {}
        self.go_on = threading.Event()

    def job(self, name: str, *, waits: bool = False) -> Event:
        if waits:
            assert self.go_on.wait(30)
        self.threads[name] = threading.get_ident()
        return lambda: self.ended.append(name)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.ended) < count:
                await asyncio.sleep(0)


@on_loop
async def test_a_short_job_runs_on_the_loop_while_nothing_is_under_way() -> None:
    jobs = Jobs()
    assert jobs.lane.try_here(lambda: jobs.job("here"))
    assert jobs.ended == ["here"] and jobs.threads["here"] == threading.get_ident()
    jobs.lane.finish()


@on_loop
async def test_jobs_end_in_the_order_in_which_they_began() -> None:
    jobs = Jobs()
    jobs.lane.submit(lambda: jobs.job("first", waits=True), lambda event: event())
    assert not jobs.lane.is_idle
    assert not jobs.lane.try_here(lambda: jobs.job("second"))
    jobs.lane.submit(lambda: jobs.job("second"), lambda event: event())
    jobs.go_on.set()
    await jobs.until(2)
    assert jobs.ended == ["first", "second"]
    assert threading.get_ident() not in jobs.threads.values()
    assert jobs.lane.is_idle and jobs.lane.try_here(lambda: jobs.job("third"))
    jobs.lane.finish()


@on_loop
async def test_nothing_runs_on_the_loop_before_the_loop_knows_that_the_thread_is_done() -> None:
    jobs = Jobs()
    jobs.lane.submit(lambda: jobs.job("first"), lambda event: event())
    jobs.lane.wait()  # the thread is done, and the loop has not run since
    assert not jobs.lane.try_here(lambda: jobs.job("second"))
    await jobs.until(1)
    jobs.lane.finish()


@on_loop
async def test_a_job_with_a_bug_is_told_to_the_loop_and_the_lane_goes_on() -> None:
    jobs = Jobs()
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: told.append(context["exception"])
    )

    def broken() -> Event:
        raise ValueError("a bug")

    jobs.lane.submit(broken, lambda event: event())
    jobs.lane.submit(lambda: jobs.job("next"), lambda event: event())
    await jobs.until(1)
    assert [str(error) for error in told] == ["a bug"]
    jobs.lane.finish()


class Clock:
    """The clock and the count of waits that a pace looks at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.waits = 7
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(resource, "getrusage", self._usage)

    def _usage(self, who: int) -> resource.struct_rusage:
        return resource.struct_rusage([0] * 14 + [self.waits, 0])

    def call(self, pace: InlinePace, seconds: float, waits: int) -> None:
        pace.begin(self.now)
        self.now += seconds
        self.waits += waits
        pace.end()


SLOW = limits.INLINE_SLOW_SECONDS * 2


def test_calls_that_wait_long_leave_the_loop_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), InlinePace()
    clock.call(pace, SLOW, waits=1)
    assert pace.allows(clock.now)  # nobody counted then
    clock.call(pace, SLOW, waits=1)
    assert not pace.allows(clock.now)
    clock.now += limits.WRITER_DWELL_SECONDS
    assert pace.allows(clock.now)


def test_calls_that_were_only_preempted_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), InlinePace()
    for _ in range(5):
        clock.call(pace, SLOW, waits=0)
    assert pace.allows(clock.now)


def test_quick_calls_stay_though_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pace = Clock(monkeypatch), InlinePace()
    for _ in range(5):
        clock.call(pace, limits.INLINE_SLOW_SECONDS / 2, waits=1)
    assert pace.allows(clock.now)
