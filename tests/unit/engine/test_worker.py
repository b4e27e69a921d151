"""One thread for jobs: their order, its end, and a job that is a bug."""

import logging
import threading

import pytest

from pratima_iscsi.engine.worker import Worker


def test_jobs_run_in_their_order_in_one_thread_of_their_own() -> None:
    worker, ran = Worker("worker"), list[tuple[int, int]]()
    for number in range(100):
        worker.submit(lambda number=number: ran.append((number, threading.get_ident())))  # type: ignore[misc]
    worker.wait()
    assert [number for number, _ in ran] == list(range(100))
    assert len({thread for _, thread in ran} | {threading.get_ident()}) == 2
    worker.finish()


def test_finish_waits_for_what_was_submitted_and_ends_the_thread() -> None:
    worker, go_on, ran = Worker("ends"), threading.Event(), list[str]()
    worker.submit(go_on.wait)
    worker.submit(lambda: ran.append("last"))
    threading.Timer(0.01, go_on.set).start()
    worker.finish()
    assert ran == ["last"]
    assert "ends" not in [thread.name for thread in threading.enumerate()]


def test_a_worker_without_a_job_has_no_thread_to_end() -> None:
    Worker("idle").finish()
    assert "idle" not in [thread.name for thread in threading.enumerate()]


def test_a_job_that_raises_is_logged_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker, ran = Worker("worker"), list[str]()

    def bug() -> None:
        raise ValueError("a bug")

    with caplog.at_level(logging.ERROR):
        worker.submit(bug)
        worker.submit(lambda: ran.append("next"))
        worker.finish()
    assert ran == ["next"]
    assert "a bug" in caplog.text and "thread worker" in caplog.text


def test_a_job_after_the_last_is_refused() -> None:
    worker = Worker("worker")
    worker.finish()
    with pytest.raises(AssertionError, match="after the last"):
        worker.submit(lambda: None)
