"""Which devices are ours, by the name that the kernel gives them."""

import pytest

from pratima_iscsi.scsi.device import unit_serial
from pratima_iscsi.tcmu.names import DeviceName, device_config, parse_uio_name, serial_of

SERIAL = unit_serial(b"g" * 16, 3)


def test_the_kernel_s_name_leads_back_to_the_unit() -> None:
    assert parse_uio_name(f"tcm-user/7/vol.0/{device_config(SERIAL)}\n") == DeviceName(
        7, "vol.0", SERIAL
    )


def test_a_configuration_names_its_serial() -> None:
    assert serial_of(device_config(SERIAL)) == SERIAL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcm-user",
        "tcm-user/0/vol",
        f"tcm-user/0/vol/qcow/{SERIAL}",
        f"tcm-user/0/vol/pratima2/{SERIAL}",
        f"tcm-user/0/vol/pratima/{SERIAL}/more",
        f"tcm-user/0/vol/pratima/{SERIAL.upper()}",
        f"tcm-user/0/vol/pratima/{SERIAL[:-1]}",
        f"tcm-user/0/../pratima/{SERIAL}",
        f"tcm-user/0//pratima/{SERIAL}",
        f"tcm-user/x/vol/pratima/{SERIAL}",
        f"tcm-user/²/vol/pratima/{SERIAL}",
        f"other/0/vol/pratima/{SERIAL}",
    ],
)
def test_any_other_name_is_somebody_else_s_device(text: str) -> None:
    assert parse_uio_name(text) is None


def test_a_serial_is_one_unit_s_alone_and_stays_what_it_is() -> None:
    serials = {unit_serial(group * 16, index) for group in (b"g", b"h") for index in range(64)}
    assert len(serials) == 128
    assert unit_serial(bytes(range(16)), 1) == "3cba810c056fb9a9039f47173468b464"
