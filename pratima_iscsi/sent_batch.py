"""A batch that was sent and is not durable yet: what its link's queue keeps of it.

Most batches are a host's writes alone, and all that is ever asked of them is to be durable. Such a
batch is kept as the frame that carried it: the memory of its writes is free for the next ones while
the processor's cache still has it. Its records are made again only where a session ends too early.
One rule: records that are made again are, byte for byte, those that were sent.
"""

from collections.abc import Sequence

from pratima_iscsi.operations import Buffer
from pratima_iscsi.records import ENTRY, Record, next_history


class SentBatch:
    """Records that were sent in one frame."""

    __slots__ = ("_records", "area", "cost", "count", "plain")

    def __init__(self, records: list[Record], cost: int, *, plain: bool) -> None:
        self._records = records
        self.area: memoryview | None = None
        """Where their payloads lie with room for the rest of their frame, until ``keep``."""
        self.count = len(records)
        self.cost = cost
        """Bytes that they count for in the ordered log."""
        self.plain = plain
        """Whether they are known to be a host's WRITEs and ZEROs alone."""

    @property
    def records(self) -> list[Record]:
        """Every record, in order."""
        return self._records

    @property
    def entries(self) -> bytes:
        """Their table entries, one behind the other."""
        return b"".join([record.entry for record in self._records])

    @property
    def payloads(self) -> list[Buffer]:
        """Their payloads."""
        return [record.payload for record in self._records]

    @property
    def last_counted(self) -> tuple[int, bytes]:
        """Sequence and history digest of the last record that the position counts; 0: none."""
        for record in reversed(self._records):
            if sequence := record.sequence:
                return sequence, record.history
        return 0, b""


class SentWrites(SentBatch):
    """Writes that went from the log's tail right into a frame; no other queue holds them."""

    __slots__ = ("_before", "_data", "_entries", "_last", "_payloads")

    def __init__(
        self,
        entries: Sequence[bytes],
        payloads: list[Buffer],
        cost: int,
        *,
        before: bytes,
        last: tuple[int, bytes],
        area: memoryview | None = None,
    ) -> None:
        """``before`` is the history digest before the first of them, ``last`` sequence and digest
        of the last."""
        super().__init__([], cost, plain=True)
        self.count = len(entries)
        self._entries = b"".join(entries)
        self._payloads = payloads
        self._data: memoryview | None = None
        self._before = before
        self._last = last
        self.area = area

    def keep(self, data: memoryview) -> None:
        """``data`` is their payloads, one behind the other, in the frame: keep that instead."""
        self._data = data
        self._payloads = []
        self.area = None

    @property
    def records(self) -> list[Record]:
        """Every record, made again."""
        records: list[Record] = []
        data = memoryview(b"".join(self._payloads)) if self._data is None else self._data
        at, start, digest = 0, 0, self._before
        for fields in ENTRY.iter_unpack(self._entries):
            entry = self._entries[start : start + ENTRY.size]
            payload = bytes(data[at : at + fields[3]])
            digest = next_history(digest, entry, payload)
            record = Record(entry, payload, digest)
            record.links = 1
            records.append(record)
            start += ENTRY.size
            at += len(payload)
        assert digest == self._last[1], "a frame has changed since it was made"
        return records

    @property
    def entries(self) -> bytes:
        """Their table entries, one behind the other."""
        return self._entries

    @property
    def payloads(self) -> list[Buffer]:
        """Their payloads, until ``keep`` puts the frame in their place."""
        return self._payloads

    @property
    def last_counted(self) -> tuple[int, bytes]:
        """Sequence and history digest of the last of them."""
        return self._last
