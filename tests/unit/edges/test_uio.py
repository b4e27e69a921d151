"""Which of the kernel's devices are found, and what an attach that fails leaves behind."""

import errno
import os
from pathlib import Path

import pytest

from pratima_iscsi.edges.uio import Places, UioDevice, our_devices
from pratima_iscsi.tcmu.names import DeviceName

SERIAL = "5" * 32
NAME = DeviceName(0, "vol0", SERIAL)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path / "uio", tmp_path / "dev", tmp_path / "core")
    for number, name in {
        0: f"tcm-user/0/vol0/pratima/{SERIAL}\n",
        1: "tcm-user/0/other/qcow/image\n",
        12: f"tcm-user/3/vol1/pratima/{SERIAL}\n",
    }.items():
        sysfs = found.sysfs / f"uio{number}"
        (sysfs / "maps/map0").mkdir(parents=True)
        (sysfs / "name").write_text(name)
        (sysfs / "maps/map0/size").write_text("0x4000\n")
    (found.sysfs / "uio7").mkdir()  # it has just vanished
    (found.sysfs / "strange").mkdir()
    (found.sysfs / "uio8").mkdir()
    (found.sysfs / "uio8" / "name").write_bytes(b"\xff\xfe")
    action = found.configfs / "user_0/vol0/action"
    action.mkdir(parents=True)
    (action / "block_dev").write_text("")
    (action / "reset_ring").write_text("")
    found.devices.mkdir()
    attributes = found.configfs / "user_0/vol0/attrib"
    attributes.mkdir()
    (attributes / "cmd_time_out").write_text("60\n")
    (attributes / "dev_size").write_text("4096\n")
    (attributes / "nl_reply_supported").write_text("-1\n")
    (found.devices / "uio0").write_bytes(bytes(0x4000))
    return found


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_ours_are_found_among_all_devices(places: Places) -> None:
    assert our_devices(places) == {0: NAME, 12: DeviceName(3, "vol1", SERIAL)}


def test_a_kernel_without_devices_has_none(tmp_path: Path) -> None:
    assert our_devices(Places(sysfs=tmp_path / "none")) == {}


def test_a_device_is_taken_with_its_ring_reset_and_its_commands_held(places: Places) -> None:
    control = places.configfs / "user_0/vol0/action"
    before = open_files()
    device = UioDevice(0, NAME, places)
    assert (control / "block_dev").read_text() == "1"
    assert (control / "reset_ring").read_text() == "1"
    assert len(device.area) == 0x4000
    device.unblock()
    assert (control / "block_dev").read_text() == "0"
    device.block()
    device.close()
    assert (control / "block_dev").read_text() == "0"
    assert open_files() == before


def test_a_device_that_cannot_be_taken_leaves_nothing_open_or_held(places: Places) -> None:
    control = places.configfs / "user_0/vol0/action"
    (places.sysfs / "uio0/maps/map0/size").unlink()
    before = open_files()
    with pytest.raises(OSError, match="No such file"):
        UioDevice(0, NAME, places)
    assert (control / "block_dev").read_text() == "0"
    assert open_files() == before


def test_a_size_is_told_unless_the_kernel_would_wait_for_our_answer(places: Places) -> None:
    attributes = places.configfs / "user_0/vol0/attrib"
    device = UioDevice(0, NAME, places)
    assert (device.size, device.command_seconds) == (4096, 60)
    device.resize(8192)
    assert (attributes / "dev_size").read_text() == "8192\n"
    (attributes / "nl_reply_supported").write_text("1\n")
    with pytest.raises(OSError, match="nl_reply_supported=-1"):
        device.resize(16384)
    device.close()


def test_a_device_that_is_not_set_up_yet_is_an_error_that_says_so(places: Places) -> None:
    (places.configfs / "user_0/vol0/action/reset_ring").unlink()
    before = open_files()
    with pytest.raises(OSError) as failed:
        UioDevice(0, NAME, places)
    assert failed.value.errno == errno.ENOENT
    assert open_files() == before
