"""A simulated ring, a volume in memory, and the session between them."""

from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.tcmu.ring import Ring
from pratima_iscsi.tcmu.session import Session
from tests.support.memory_storage import MemoryStorage
from tests.support.tcmu_kernel import Answer, Kernel

BLOCKS = 1024


def read_10(lba: int, count: int) -> bytes:
    return bytes([0x28, 0, *lba.to_bytes(4, "big"), 0, *count.to_bytes(2, "big"), 0])


def write_10(lba: int, count: int, flags: int = 0) -> bytes:
    return bytes([0x2A, flags, *lba.to_bytes(4, "big"), 0, *count.to_bytes(2, "big"), 0])


class Lab:
    """One device that is attached."""

    def __init__(self, kernel: Kernel | None = None, *, deferred: bool = False) -> None:
        self.kernel = kernel or Kernel()
        self.storage = MemoryStorage(BLOCKS * 512, deferred=deferred)
        self.unit = LogicalUnit(self.storage, serial="5" * 32)
        self.woken = 0
        self.session = Session(Ring(self.kernel.view), self.unit, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    def serve(self) -> None:
        """Execute what is in the ring."""
        self.session.ring.look(0.0)
        self.session.serve()

    def turn(self) -> dict[int, Answer]:
        """What the edge does with one wake-up, and the kernel with what it is told."""
        self.serve()
        return self.publish()

    def publish(self) -> dict[int, Answer]:
        if self.session.ring.unpublished:
            self.session.ring.publish()
        return self.kernel.collect()

    def run(self, cdb: bytes, *, expect: int = 0, data: bytes | None = None) -> Answer:
        """One command from its entry to its answer."""
        number = self.kernel.send(cdb, expect=expect, data=data)
        return self.turn()[number]
