"""Serve a volume in memory, or a plain file, through the portal: for real clients.

    python -m tests.support.memory_target --port 3261 [--file F] [--size BYTES] [--uvloop]

Prints the URL of LUN 0 once it listens. For development and conformance tests; it has neither
replication nor durability beyond the file system's.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys

from pratima_iscsi.edges.portal import Portal
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.iscsi.directory import Directory, ServedTarget
from pratima_iscsi.operations import Buffer, Done, ReadDone, Storage, Transform, UpdateDone
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.target import Target
from tests.support.memory_storage import MemoryStorage

NAME = "iqn.2024-01.test.pratima:memory"
SERIAL = "5f0c2a6e1d8b4f3c9a7e6b5d4c3b2a19"


class FileStorage:
    """A plain file with synchronous calls, as the contract wants it."""

    def __init__(self, path: str, size: int) -> None:
        self._volume = Volume.open(path, size=size)
        self._fd = self._volume.fileno()
        self.size = size
        self.transfer_bytes_max = 8 << 20
        self.thin = self._volume.thin

    def read(
        self, offset: int, length: int, done: ReadDone, room: memoryview | None = None
    ) -> None:
        """Read ``length`` bytes."""
        done(os.pread(self._fd, length, offset), None)

    def write(self, offset: int, data: Buffer, fua: bool, done: Done, lent: bool = False) -> None:
        """Write all of ``data``."""
        os.pwrite(self._fd, data, offset)
        if fua:
            os.fdatasync(self._fd)
        done(None)

    def zero(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """Make zeros, giving the space back."""
        self._volume.punch(offset, length)
        if fua:
            os.fdatasync(self._fd)
        done(None)

    def update(
        self, offset: int, length: int, transform: Transform, fua: bool, done: UpdateDone
    ) -> None:
        """Read, transform, write."""
        new = transform(os.pread(self._fd, length, offset))
        if new is not None:
            os.pwrite(self._fd, new, offset)
        done(new is not None, None)

    def flush(self, done: Done) -> None:
        """Bring the file to stable storage."""
        os.fdatasync(self._fd)
        done(None)

    def allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Whether there is space behind ``offset``, and how far that goes."""
        return self._volume.allocated(offset, length)

    def settle(self, done: object) -> None:
        """Nothing is ever under way."""
        assert callable(done)
        done()


def directory_of(storage: Storage, accounts: tuple[Account, ...] = ()) -> Directory:
    """One target with ``storage`` as LUN 0."""
    device = Target()
    device.add(0, LogicalUnit(storage, serial=SERIAL))
    return Directory.of([ServedTarget(NAME, device, accounts)], accounts)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    storage: Storage
    if options.file:
        storage = FileStorage(options.file, options.size)
    else:
        storage = MemoryStorage(options.size)
    accounts: tuple[Account, ...] = ()
    if options.chap:
        accounts = (Account(*options.chap.split(":")),)
    portal = Portal(directory_of(storage, accounts))
    host, port = portal.listen(options.host, options.port)
    print(f"iscsi://{host}:{port}/{NAME}/0", flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    await portal.close(0.2)


def main() -> None:
    """Read the options and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--file")
    parser.add_argument("--size", type=int, default=256 << 20)
    parser.add_argument("--chap", help="name:secret[:mutual name:mutual secret]")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--profile", help="write cProfile statistics to this file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING)
    if options.uvloop:
        import uvloop

        uvloop.install()
    with contextlib.suppress(KeyboardInterrupt):
        if options.profile:
            import cProfile

            profile = cProfile.Profile()
            profile.enable()
            asyncio.run(serve(options))
            profile.disable()
            profile.dump_stats(options.profile)
        else:
            asyncio.run(serve(options))


if __name__ == "__main__":
    main()
    sys.exit(0)
