"""A link's degraded mark: on disk before the first write that completes without the replica.

One small preallocated file per link, kept open; setting or erasing it is ONE write with O_DSYNC, so
it costs one trip to the disk and cannot fail for want of space. One rule: a mark that cannot be
read, or was never written, says degraded.
"""

import os
import stat
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_hexdigest, xxh3_128_digest

MARK_BYTES: Final = 512
"""One sector: it is written whole or not at all."""
_MAGIC: Final = b"PRDM1"
_FLAGS: Final = os.O_RDWR | os.O_DSYNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class DegradedMark:
    """The mark of one link; ``degraded`` is what the disk says."""

    def __init__(self, directory: Path, link: str) -> None:
        """Open the mark of ``link``, making it (degraded) where there is none. Raises OSError."""
        self._link = link
        self._path = directory / f"degraded-{xxh3_64_hexdigest(link.encode())}"
        self._fd = self._open(directory)
        self.degraded = _decode(os.pread(self._fd, MARK_BYTES, 0), link)

    def _open(self, directory: Path) -> int:
        try:
            fd = os.open(self._path, _FLAGS)
        except FileNotFoundError:
            fd = os.open(self._path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            _write(fd, _encode(self._link, True))
            parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(f"{self._path} is no regular file")
        return fd

    def write(self, degraded: bool) -> None:
        """Set or erase the mark; on stable storage on return. After an OSError it may be either."""
        _write(self._fd, _encode(self._link, degraded))
        self.degraded = degraded

    def close(self) -> None:
        """Release the file; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def _encode(link: str, degraded: bool) -> bytes:
    head = _MAGIC + bytes((degraded,))
    body = head + xxh3_128_digest(head + link.encode())
    return body.ljust(MARK_BYTES, b"\0")


def _decode(data: bytes, link: str) -> bool:
    return data != _encode(link, False)


def _write(fd: int, data: bytes) -> None:
    written = os.pwrite(fd, data, 0)
    if written != len(data):
        raise OSError(f"{written} of {len(data)} bytes of a mark written")
