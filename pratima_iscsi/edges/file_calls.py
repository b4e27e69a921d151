"""System calls on an open file or device, each doing the whole of its work: for volumes and for the
files of a state directory.

One rule: a range that is punched reads as zeros afterwards, whatever the file system can; and what
is not known of a hole is data.
"""

import ctypes
import errno
import os
from typing import Final

from pratima_iscsi.limits import MIB
from pratima_iscsi.operations import Buffer

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_CANNOT_PUNCH: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})
_CANNOT_SEEK_DATA: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP})
ZEROS: Final = bytes(MIB)
"""What a range is overwritten with where nothing can zero it faster."""

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


def read_all(fd: int, length: int, offset: int) -> bytes:
    """``length`` bytes from ``offset``; what lies beyond the end reads as zeros."""
    data = os.pread(fd, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    got = len(data)
    while parts[-1] and got < length:
        parts.append(os.pread(fd, length - got, offset + got))
        got += len(parts[-1])
    return b"".join(parts) + bytes(length - got)


def write_all(fd: int, data: Buffer, offset: int, name: str) -> None:
    """Write all of ``data``; a short write goes on until all is written or its cause shows."""
    done = os.pwrite(fd, data, offset)
    if done != len(data):
        write_rest(fd, data, offset, done, name)


def write_rest(fd: int, data: Buffer, offset: int, done: int, name: str) -> None:
    """Go on with a write of which the first ``done`` bytes are written."""
    with memoryview(data).cast("B") as view:
        while done < len(view):
            with view[done:] as rest:
                step = os.pwritev(fd, (rest,), offset + done)
            if step == 0:
                raise OSError(errno.EIO, "it takes no more bytes", name)
            done += step


def punch_hole(fd: int, offset: int, length: int) -> int:
    """``fallocate`` with PUNCH_HOLE and KEEP_SIZE; the errno, 0 for success."""
    while True:
        if _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, length) == 0:
            return 0
        code = ctypes.get_errno()
        if code != errno.EINTR:
            return code


def make_zeros(
    fd: int, offset: int, length: int, name: str, unable: frozenset[int] = frozenset()
) -> None:
    """Punch a range of at least one byte, or overwrite it with zeros where that cannot be done;
    ``unable``: errnos that say so beside the usual ones.

    Never BLKDISCARD, after which a device may read as anything.
    """
    code = punch_hole(fd, offset, length)
    if code == 0:
        return
    if code not in _CANNOT_PUNCH | unable:
        raise OSError(code, os.strerror(code), name)
    with memoryview(ZEROS) as zeros:
        for at in range(offset, offset + length, len(ZEROS)):
            with zeros[: offset + length - at] as part:
                write_all(fd, part, at, name)


def data_run(fd: int, offset: int, length: int) -> tuple[bool, int] | None:
    """Whether the byte at ``offset`` has space, and for how many bytes that stays so (at least 1,
    ``length`` at the most); None where the file system does not say."""
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
        if data > offset:
            return False, min(length, data - offset)
        hole = os.lseek(fd, offset, os.SEEK_HOLE)
        return True, max(1, min(length, hole - offset))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False, length
        if error.errno not in _CANNOT_SEEK_DATA:
            raise
        return None
