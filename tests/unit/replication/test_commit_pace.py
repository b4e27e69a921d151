"""How soon a replica's journal is synced again."""

import pytest

from pratima_iscsi.limits import COMMIT_REST, COMMIT_SECONDS_MAX, COMMIT_SECONDS_MIN
from pratima_iscsi.replication.commit_pace import CommitPace


@pytest.mark.parametrize(
    ("sync_seconds", "delay"),
    [
        (0.0, COMMIT_SECONDS_MIN),
        (0.003, 0.003 * COMMIT_REST),
        (0.5, COMMIT_SECONDS_MAX),
    ],
)
def test_the_last_sync_decides_within_the_bounds(sync_seconds: float, delay: float) -> None:
    pace = CommitPace()
    pace.begin(100.0)
    pace.end(100.0 + sync_seconds)
    assert pace.delay == pytest.approx(delay)


def test_before_the_first_sync_the_disk_counts_as_slow() -> None:
    assert CommitPace().delay == COMMIT_SECONDS_MAX


def test_a_job_that_did_not_sync_says_nothing_of_the_disk() -> None:
    pace = CommitPace()
    pace.begin(100.0)
    pace.end(100.0)
    pace.end(200.0)
    assert pace.delay == COMMIT_SECONDS_MIN
