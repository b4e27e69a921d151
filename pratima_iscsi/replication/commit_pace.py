"""When a replica's journal is synced for records that nobody waits for.

A sync that comes soon bounds what a power cut takes, and lets the source free what it holds; one
that comes too often leaves the disk no time for anything else. So the disk's own speed decides. One
rule: a sync is followed by COMMIT_REST times its own duration without one, but by no less than
COMMIT_SECONDS_MIN and no more than COMMIT_SECONDS_MAX.
"""

from pratima_iscsi.limits import COMMIT_REST, COMMIT_SECONDS_MAX, COMMIT_SECONDS_MIN


class CommitPace:
    """Measures each sync. All times are the caller's monotonic seconds."""

    __slots__ = ("_began", "delay")

    def __init__(self) -> None:
        self._began: float | None = None
        self.delay = COMMIT_SECONDS_MAX
        """How long written records may wait for others before they are synced together."""

    def begin(self, now: float) -> None:
        """A journal job that syncs starts."""
        self._began = now

    def end(self, now: float) -> None:
        """That job is over, if there was one."""
        if self._began is not None:
            rest = (now - self._began) * COMMIT_REST
            self.delay = min(max(rest, COMMIT_SECONDS_MIN), COMMIT_SECONDS_MAX)
            self._began = None
