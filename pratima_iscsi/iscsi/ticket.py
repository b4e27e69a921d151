"""One SCSI command as its initiator sees it, from its submission to its outcome.

One rule: ``done`` is told exactly once.
"""

from collections.abc import Callable

from pratima_iscsi.iscsi.pdu import RESERVED_TAG
from pratima_iscsi.operations import Buffer


class Ticket:
    """One command under way, and then its outcome.

    ``status`` is the SCSI status, -1 while there is none; ``data`` its data-in; ``residual`` is
    positive for an underflow and negative for an overflow; ``failure`` tells why the command ended
    without a response (rejected, connection lost), else it is empty. ``issued_ns`` and
    ``settled_ns`` are set by the edge (``time.monotonic_ns``).
    """

    __slots__ = (
        "cdb",
        "data",
        "data_out",
        "done",
        "failure",
        "issued_ns",
        "itt",
        "received",
        "residual",
        "sense",
        "settled",
        "settled_ns",
        "status",
        "tag",
    )

    def __init__(
        self,
        cdb: bytes,
        data_out: Buffer = b"",
        data_in_bytes: int = 0,
        done: Callable[["Ticket"], None] | None = None,
        tag: object = None,
    ) -> None:
        self.cdb = cdb
        self.data_out = data_out
        self.data = bytearray(data_in_bytes)
        self.received = 0
        self.done = done
        self.tag = tag
        """Whatever the caller wants to find again."""
        self.itt = RESERVED_TAG
        self.status = -1
        self.sense = b""
        self.residual = 0
        self.failure = ""
        self.settled = False
        self.issued_ns = 0
        self.settled_ns = 0

    @property
    def good(self) -> bool:
        """Whether it ended in GOOD."""
        return self.settled and not self.failure and self.status == 0

    @property
    def sense_triple(self) -> tuple[int, int, int]:
        """Sense key, ASC and ASCQ; zeros without sense data."""
        if len(self.sense) < 14:
            return (0, 0, 0)
        return (self.sense[2] & 0x0F, self.sense[12], self.sense[13])

    def settle(self, failure: str = "") -> None:
        """Tell ``done``, once."""
        if not self.settled:
            self.settled = True
            self.failure = failure
            del self.data[self.received :]
            if self.done is not None:
                self.done(self)
