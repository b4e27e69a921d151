"""What the ring holds is checked before it is used: hostile entries are refused, each by name."""

import struct

import pytest

from pratima_iscsi.tcmu import ring as layout
from pratima_iscsi.tcmu.ring import Request, Ring, RingError, TaskManagement
from tests.support.tcmu_kernel import Kernel
from tests.unit.tcmu.lab import read_10

ENTRY = layout.MAILBOX_BYTES


def taken(ring: Ring) -> Request | TaskManagement | None:
    """The next entry, whenever it came."""
    ring.look(0.0)
    return ring.take()


def ring_with_a_read() -> tuple[Kernel, Ring]:
    kernel = Kernel()
    kernel.send(read_10(0, 16), expect=8192)
    return kernel, Ring(kernel.view)


def test_what_came_after_the_look_is_not_taken_and_what_did_has_a_bound_for_its_age() -> None:
    kernel, ring = ring_with_a_read()
    ring.look(7.0)
    later = kernel.send(read_10(0, 16), expect=8192)
    assert isinstance(ring.take(), Request)
    assert ring.take() is None and not ring.seen and ring.waiting
    ring.look(9.0)
    assert ring.since == 7.0
    ring.look(11.0)
    assert ring.since == 7.0, "what is seen and not taken grows older"
    found = ring.take()
    assert isinstance(found, Request) and found.id == later
    ring.look(12.0)
    ring.look(13.0)
    assert ring.since == 12.0 and not ring.seen


def test_a_command_is_private_before_its_entry_is_overlaid() -> None:
    kernel, ring = ring_with_a_read()
    found = taken(ring)
    assert isinstance(found, Request)
    kernel.area[ENTRY + 8 : ENTRY + 128] = bytes(120)
    assert found.cdb == read_10(0, 16).ljust(16, b"\0")
    assert found.iovecs == ((kernel.data_start, 8192),)
    assert taken(ring) is None


@pytest.mark.parametrize(
    ("offset", "form", "value", "problem"),
    [
        (0, "=I", 0, "an entry of 0 bytes"),
        (0, "=I", 104 | 1, "a command in 104 bytes"),
        (0, "=I", 0xFFFFFFF8 | 1, "the head at"),
        (0, "=I", 3968 | 1, "the head at"),
        (0, "=I", 128 | 5, "an entry of kind 5"),
        (0, "=I", 16 | 2, "task management in 16 bytes"),
        (0, "=I", 128 | 2, "ids in 128 bytes"),
        (8, "=I", 6, "iovecs in 128 bytes"),
        (8, "=I", 0xFFFFFFFF, "iovecs in 128 bytes"),
        (12, "=I", 0xFFFFFFFF, "iovecs in 128 bytes"),
        (16, "=I", 0xFFFFFFFF, "iovecs in 128 bytes"),
        (24, "=Q", 0, "the CDB"),
        (24, "=Q", ENTRY + 128, "the CDB"),
        (24, "=Q", 1 << 63, "the CDB"),
        (24, "=Q", ENTRY + 120, "a CDB of"),
        (48, "=Q", 0, "an iovec of"),
        (48, "=Q", ENTRY, "an iovec of"),
        (48, "=Q", (1 << 64) - 8192, "an iovec of"),
        (56, "=Q", 1 << 40, "an iovec of"),
        (56, "=Q", (1 << 64) - 1, "an iovec of"),
    ],
)
def test_a_hostile_entry_is_refused(offset: int, form: str, value: int, problem: str) -> None:
    kernel, ring = ring_with_a_read()
    if problem == "ids in 128 bytes":
        struct.pack_into("=I", kernel.area, ENTRY + 12, 200)
    kernel.area[ENTRY + 120 : ENTRY + 128] = b"\x28" * 8 if "a CDB" in problem else bytes(8)
    struct.pack_into(form, kernel.area, ENTRY + offset, value)
    with pytest.raises(RingError, match=problem):
        taken(ring)


@pytest.mark.parametrize("head", [4, 4096 - 128, 0xFFFFFFF8])
def test_a_head_outside_of_the_ring_is_refused(head: int) -> None:
    kernel, ring = ring_with_a_read()
    kernel.head = head
    with pytest.raises(RingError, match="the head is at"):
        taken(ring)


@pytest.mark.parametrize(
    ("offset", "form", "value", "problem"),
    [
        (0, "=H", 1, "version 1"),
        (2, "=H", 2, "in their order"),
        (4, "=I", 64, "at 64"),
        (4, "=I", 132, "at 132"),
        (8, "=I", 0, "of 0 bytes"),
        (8, "=I", 1 << 30, "beyond the mapping"),
        (64, "=I", 1 << 30, "the tail is at"),
        (64, "=I", 3, "the tail is at"),
    ],
)
def test_a_mailbox_that_is_not_understood_is_refused(
    offset: int, form: str, value: int, problem: str
) -> None:
    kernel = Kernel()
    struct.pack_into(form, kernel.area, offset, value)
    with pytest.raises(RingError, match=problem):
        Ring(kernel.view)


def test_a_mapping_that_is_too_small_is_refused() -> None:
    with pytest.raises(RingError, match="holds no ring"):
        Ring(memoryview(bytearray(64)))


def test_a_variable_length_cdb_is_as_long_as_it_says_within_its_entry() -> None:
    kernel = Kernel()
    cdb = bytes([0x7F, *bytes(6), 24, *range(24)])
    kernel.send(cdb)
    found = taken(Ring(kernel.view))
    assert isinstance(found, Request)
    assert found.cdb == cdb
    kernel = Kernel()
    kernel.send(bytes([0x7F, *bytes(6), 0xF0, *range(24)]))
    with pytest.raises(RingError, match="a CDB of 248 bytes"):
        taken(Ring(kernel.view))
