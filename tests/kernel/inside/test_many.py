"""Thirty-two devices of one process at once: all served, none takes another's data, any may go."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.kernel.inside import rig

COUNT = 32
SIZE = 8 * rig.MIB
STAMP_BYTES = 4096
WRITES = 24


def fill(number: int, disk: Path) -> None:
    """Write blocks that say whose they are, all over the disk."""
    file = os.open(disk, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for place in range(WRITES):
            os.pwrite(file, expected(number, place), offset(place))
        os.fsync(file)
    finally:
        os.close(file)


def offset(place: int) -> int:
    return place * (SIZE // WRITES // STAMP_BYTES) * STAMP_BYTES


def expected(number: int, place: int) -> bytes:
    return f"disk {number} block {place} ".encode().ljust(64) * (STAMP_BYTES // 64)


def expect_filled(volume: Path, number: int) -> None:
    with volume.open("rb") as file:
        for place in range(WRITES):
            file.seek(offset(place))
            assert file.read(STAMP_BYTES) == expected(number, place), (volume, place)


def test_thirty_two_disks_at_once_and_again_after_a_restart(tmp_path: Path) -> None:
    with rig.Handler(tmp_path, [SIZE] * COUNT) as handler:
        handler.start()
        with rig.devices(handler.state, [SIZE] * COUNT) as made, rig.loopback(made) as disks:
            assert len(set(disks)) == COUNT
            with ThreadPoolExecutor(8) as writers:
                list(writers.map(fill, range(COUNT), disks))
            for number, volume in enumerate(handler.volumes):
                expect_filled(volume, number)

            assert handler.stop() == 0, handler.output()
            handler.start()
            rig.wait_attached(handler.state, COUNT)
            rig.drop_caches()
            for number, disk in enumerate(disks):
                expect_filled(disk, number)


def test_devices_come_and_go_while_others_work(tmp_path: Path) -> None:
    with rig.Handler(tmp_path, [SIZE, SIZE]) as handler:
        handler.start()
        with rig.devices(handler.state, [SIZE]) as first, rig.loopback(first) as (disk,):
            serials = rig.serials(handler.state, 2)
            for _ in range(3):
                second = rig.make_device("coming", serials[1], SIZE)
                rig.wait_attached(handler.state, 1, "coming")
                fill(1, disk)
                second.delete()
                rig.until(
                    lambda: "coming" not in rig.group_of(handler.state).portal, 60, "it is gone"
                )
                fill(0, disk)
            expect_filled(handler.volumes[0], 0)


def test_a_device_of_another_kind_or_unit_is_left_alone(tmp_path: Path) -> None:
    with rig.Handler(tmp_path, [SIZE]) as handler:
        handler.start()
        foreign = rig.make_device("foreign", "f" * 32, SIZE)
        try:
            with rig.devices(handler.state, [SIZE]):
                assert "foreign" not in rig.group_of(handler.state).portal
                assert "wants a unit that is not served here" in handler.output()
        finally:
            foreign.delete()
