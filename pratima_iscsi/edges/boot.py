"""Which boot of this machine is running: tells a crash from a loss of power.

One rule: a machine that cannot say gives an empty id, and an empty id never equals another.
"""

from pathlib import Path
from typing import Final

BOOT_ID_PATH: Final = Path("/proc/sys/kernel/random/boot_id")
BOOT_ID_CHARACTERS_MAX: Final = 64


def read_boot_id(path: Path = BOOT_ID_PATH) -> str:
    """The kernel's random id of this boot, or an empty string where there is none to read."""
    try:
        return path.read_text(encoding="ascii").strip()[:BOOT_ID_CHARACTERS_MAX]
    except (OSError, UnicodeDecodeError):
        return ""


def same_boot(remembered: str, now: str) -> bool:
    """Whether both ids are known and name one boot: the page cache then survived."""
    return bool(remembered) and remembered == now
