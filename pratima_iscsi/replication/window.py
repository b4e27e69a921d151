"""A link's window: the frames that were sent in this session and are not RECEIVED yet.

One rule: what is outstanding never exceeds the credit that the replica gave, but for one frame that
goes when nothing else is under way.
"""

from collections import deque

from pratima_iscsi import limits
from pratima_iscsi.ordered_log import LinkQueue


class Window:
    """Counts bytes of frames against the credit, and bytes of records against the log's share."""

    __slots__ = (
        "batch_bytes",
        "credit",
        "frames",
        "highest_n",
        "log_share",
        "outstanding",
        "progress_at",
    )

    def __init__(self, log_share: int) -> None:
        self.log_share = log_share
        """Bytes of records sent and not confirmed: all links' shares leave some of the log."""
        self.credit = 0
        self.batch_bytes = 0
        """Payload of one batch: several must fit into the window."""
        self.outstanding = 0
        self.frames: deque[tuple[int, int, int]] = deque()
        """Frames not RECEIVED: last link sequence, bytes, last counted sequence (0: none)."""
        self.highest_n = 0
        """Link sequence of the last record sent."""
        self.progress_at = 0.0
        """When RECEIVED last moved, or could first have moved."""

    def give(self, credit: int) -> None:
        """The replica lets so many bytes be under way."""
        self.credit = credit
        self.batch_bytes = min(limits.BATCH_BYTES_MAX, credit // 4)

    def is_full(self, queue: LinkQueue) -> bool:
        """Whether the next batch of ``queue`` must wait."""
        least = min(queue.unsent_bytes, self.batch_bytes)
        return not self.holds(queue, max(least, queue.first_cost))

    def has_room(self, queue: LinkQueue) -> bool:
        """Whether a whole batch could go now: a replica that takes nothing leaves no such room."""
        return self.holds(queue, self.batch_bytes)

    def holds(self, queue: LinkQueue, size: int) -> bool:
        """Whether ``size`` bytes more are within the credit and within the log's share, or nothing
        is under way."""
        if not self.frames and not queue.sent:
            return True
        return self.outstanding + size <= self.credit and queue.sent_bytes + size <= self.log_share

    def sent(self, last_n: int, size: int, sequence: int, now: float) -> None:
        """A frame of ``size`` bytes with records up to ``last_n`` went out."""
        self.highest_n = max(self.highest_n, last_n)
        if not self.frames:
            self.progress_at = now
        self.frames.append((last_n, size, sequence))
        self.outstanding += size

    def received(self, n: int, now: float) -> int:
        """The replica has RECEIVED up to ``n``: the last counted sequence among it, 0 for none."""
        counted = 0
        while self.frames and self.frames[0][0] <= n:
            _, size, sequence = self.frames.popleft()
            self.outstanding -= size
            self.progress_at = now
            counted = max(counted, sequence)
        return counted

    def stalled(self, now: float) -> bool:
        """Whether frames are under way and none was RECEIVED for too long."""
        return bool(self.frames) and now - self.progress_at >= limits.STALL_SECONDS

    def close(self) -> None:
        """The session is over."""
        self.outstanding = 0
        self.frames.clear()
