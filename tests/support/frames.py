"""Frames of records that a test makes."""

from collections.abc import Sequence

from pratima_iscsi.records import Record
from pratima_iscsi.replication.wire import BatchHeader, encode_batch


def frame_of(header: BatchHeader, records: Sequence[Record]) -> bytearray:
    """The frame that carries ``records``."""
    entries = b"".join(record.entry for record in records)
    return encode_batch(header, entries, [record.payload for record in records])
