"""How a device of the kernel says that it is ours, and which unit of ours it is.

A TCMU device carries a configuration string, ``SUBTYPE/REST``; ours is ``pratima/SERIAL`` with the
serial of the unit behind it. One rule: whatever is not exactly that is somebody else's device, and
is left alone.
"""

import re
from dataclasses import dataclass
from typing import Final

SUBTYPE: Final = "pratima"
UIO_PREFIX: Final = "tcm-user"
_SERIAL: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class DeviceName:
    """What the kernel calls one TCMU device of ours."""

    hba: int
    """Number of its HBA: ``core/user_HBA`` in configfs."""
    name: str
    """Its name below the HBA."""
    serial: str
    """The serial of the unit that it wants (``scsi.device.unit_serial``)."""


def device_config(serial: str) -> str:
    """The configuration string of the device for the unit with this serial."""
    assert _SERIAL.fullmatch(serial), serial
    return f"{SUBTYPE}/{serial}"


def serial_of(config: str) -> str | None:
    """The serial that a configuration string names; None when it is not one of ours."""
    subtype, _, serial = config.partition("/")
    return serial if subtype == SUBTYPE and _SERIAL.fullmatch(serial) else None


def parse_uio_name(text: str) -> DeviceName | None:
    """What ``/sys/class/uio/uioN/name`` says: ``tcm-user/HBA/NAME/SUBTYPE/REST``.

    None for a device that is not TCMU's or not ours.
    """
    parts = text.rstrip("\n").split("/", 3)
    if len(parts) != 4 or parts[0] != UIO_PREFIX:
        return None
    _, hba, name, config = parts
    serial = serial_of(config)
    if serial is None or not (hba.isascii() and hba.isdigit()) or not name or name in (".", ".."):
        return None
    return DeviceName(int(hba), name, serial)
