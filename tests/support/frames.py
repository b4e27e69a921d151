"""Frames of records that a test makes."""

from collections.abc import Sequence

from pratima_iscsi.records import Record
from pratima_iscsi.replication.standing import CheckedFrame, Standing
from pratima_iscsi.replication.walk import Walk
from pratima_iscsi.replication.wire import BatchHeader, decode_batch, encode_batch


def frame_of(header: BatchHeader, records: Sequence[Record]) -> bytearray:
    """The frame that carries ``records``."""
    entries = b"".join(record.entry for record in records)
    return encode_batch(header, entries, [record.payload for record in records])


def checked_frame(frame: bytearray, before: Standing, capacities: Sequence[int]) -> CheckedFrame:
    """``frame`` as a replica that stands at ``before`` takes it."""
    batch = decode_batch(memoryview(frame))
    return Walk(before, batch.header.generation, capacities).checked(batch)
