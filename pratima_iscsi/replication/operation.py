"""An operation on its way through a group: what a front end asked for, and how it ended."""

from typing import Final

from pratima_iscsi.operations import Done, RecordKind, Transform, UpdateDone
from pratima_iscsi.records import Record

WRITE: Final = int(RecordKind.WRITE)
ZERO: Final = int(RecordKind.ZERO)
RESIZE: Final = int(RecordKind.RESIZE)
"""``length`` is the volume's new size; it is admitted when every side has room for it."""
FLUSH: Final = int(RecordKind.FLUSH)
UPDATE: Final = 64
"""Reads, transforms and writes; it is admitted as a WRITE. Never on the wire."""


class Operation:
    """A write, zero, update, resize or flush on its way; ``done`` is told once, with ``error``."""

    __slots__ = (
        "changed",
        "done",
        "error",
        "fua",
        "kind",
        "length",
        "offset",
        "payload",
        "record",
        "sequence",
        "started",
        "transform",
        "update_done",
        "volume",
    )

    def __init__(
        self,
        kind: int,
        volume: int,
        offset: int,
        length: int,
        payload: bytes = b"",
        *,
        fua: bool = False,
        done: Done | None = None,
        transform: Transform | None = None,
        update_done: UpdateDone | None = None,
    ) -> None:
        self.kind = kind
        self.volume = volume
        self.offset = offset
        self.length = length
        self.payload = payload
        self.fua = fua
        self.done = done
        self.transform = transform
        self.update_done = update_done
        self.changed = False
        self.record: Record | None = None
        self.sequence = 0
        self.started = 0.0
        self.error: OSError | None = None

    def tell(self) -> None:
        """Tell whoever asked how it ended."""
        if self.update_done is not None:
            self.update_done(self.changed, self.error)
        elif self.done is not None:
            self.done(self.error)
