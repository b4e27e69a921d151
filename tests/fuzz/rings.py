"""A TCMU ring whose every byte the input may set, behind a real session and unit.

One rule: whatever a kernel might put there, the ring's named error is the only one that comes out,
nothing beyond the mapping is touched, and what was accepted is answered.
"""

from contextlib import suppress

from pratima_iscsi.tcmu.ring import RingError
from tests.fuzz.reader import Reader
from tests.support.tcmu_kernel import BLOCK_BYTES, Kernel
from tests.unit.tcmu.lab import BLOCKS, Lab, read_10, write_10

STEPS_MAX = 32


def ring(data: bytes) -> None:
    """Commands as a kernel sends them, with any bytes of mailbox, entries and head overwritten."""
    reader = Reader(data)
    kernel = Kernel(features=reader.choice((7, 1, 3, reader.number())))
    _damage(reader, kernel, 128)
    with suppress(RingError):
        lab = Lab(kernel, deferred=bool(reader.number() & 1))
        for _ in range(STEPS_MAX):
            if not reader.left:
                break
            _step(reader, lab)
        lab.serve()
        lab.storage.complete()
        if not lab.session.ring.waiting:
            assert not lab.session.commands
            assert not lab.session.ring.outstanding


def _step(reader: Reader, lab: Lab) -> None:
    kernel = lab.kernel
    kind = reader.number()
    if kind & 3 == 0:
        lab.serve()
    elif kind & 3 == 1:
        lab.storage.complete(1 + (kind >> 2))
        if lab.session.ring.unpublished:
            lab.session.ring.publish()
    elif kind & 3 == 2:
        _damage(reader, kernel, 1024)
    elif kernel.room(256) and len(kernel.free) > 4:
        _send(reader, kernel)


def _send(reader: Reader, kernel: Kernel) -> None:
    shape = reader.number()
    size = reader.choice((0, 512, 1024, BLOCK_BYTES, reader.number(2) % (3 * BLOCK_BYTES)))
    if shape < 64:
        kernel.send(read_10(reader.number() % BLOCKS, -(-size // 512)), expect=size)
    elif shape < 128:
        kernel.send(write_10(reader.number() % BLOCKS, -(-size // 512)), data=bytes(size))
    elif shape < 160:
        ids = [reader.number() for _ in range(reader.number() % 16)]
        kernel.notify(reader.number(), ids)
    else:
        cdb = reader.take(16)
        kernel.send(cdb, data=bytes(size)) if shape & 1 else kernel.send(cdb, expect=size)


def _damage(reader: Reader, kernel: Kernel, reach: int) -> None:
    """Overwrite some bytes among the first ``reach``; mostly none."""
    for _ in range(max(reader.number() - 250, 0)):
        at = reader.number(2) % reach
        new = reader.take(reader.choice((1, 2, 4, 8)))
        kernel.area[at : at + len(new)] = new
