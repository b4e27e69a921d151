"""Making room for a volume that is to grow, and knowing what it grows by.

One rule: room is durable before anybody is told of it, and what is not durable does not show.
"""

import contextlib

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.edges.files import File
from pratima_iscsi.errors import SyncError


def make_room(file: File, old: int, size: int) -> bool:
    """Let ``file`` hold ``size`` bytes; whether all behind the first ``old`` is known to read as
    zeros. Raises OSError when it cannot (a block device must have been extended before), SyncError
    when nobody knows what is durable now."""
    before = file.size
    if before < size:
        file.truncate(size)
        try:
            file.fdatasync()
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise SyncError.of(error) from None
    return reads_zeros(file, old, size)


def reads_zeros(file: File, offset: int, end: int) -> bool:
    """Whether bytes ``offset`` to ``end`` are known to be zeros, by reading no more than a block of
    them."""
    whole = min(end, -(-offset // BLOCK_BYTES) * BLOCK_BYTES)
    if whole > offset and file.pread(whole - offset, offset).strip(b"\0"):
        return False
    return whole >= end or file.is_hole(whole, end - whole)
