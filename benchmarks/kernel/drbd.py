"""DRBD 8.4, the kernel's own: one resource with both its nodes in one guest.

One rule: no first sync. Both disks are declared equal, which they are, so that what is measured is
a copy that is whole and current.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.subjects import SETTLED
from tests.kernel.inside import rig

SETUP: Final = "/lib/drbd/drbdsetup-84"
FIRST_PORT: Final = 7788
CONNECTED_SECONDS_MAX: Final = 60.0
WHOLE: Final = ("cs:Connected", "ds:UpToDate/UpToDate")


@dataclass(frozen=True, slots=True)
class Resource:
    """The primary's minor and the ports of both nodes."""

    minor: int
    ports: tuple[int, int]

    @property
    def disk(self) -> Path:
        """What is written."""
        return Path(f"/dev/drbd{self.minor}")

    def state(self) -> str:
        """SETTLED, or what the kernel says of it."""
        line = _line(self.minor)
        return SETTLED if all(word in line.split() for word in WHOLE) else line

    def settle(self) -> str:
        """Protocol A's secondary may lag by what the sockets hold; a flush waits for it."""
        rig.run("blockdev", "--flushbufs", str(self.disk))
        return self.state()


@contextmanager
def resource(number: int, protocol: str, disks: Sequence[Path]) -> Iterator[Resource]:
    """Two nodes on two disks, connected, the first one primary."""
    rig.run("modprobe", "drbd", "usermode_helper=/bin/true")
    minors = (2 * number, 2 * number + 1)
    ports = (FIRST_PORT + minors[0], FIRST_PORT + minors[1])
    with ExitStack() as stack:
        for minor, disk in zip(minors, disks, strict=True):
            name = f"r{minor}"
            rig.run("drbdmeta", "--force", f"{minor}", "v08", str(disk), "internal", "create-md")
            setup("new-resource", name)
            stack.callback(setup, "down", name)
            setup("new-minor", name, f"{minor}", "0")
            setup("attach", f"{minor}", str(disk), str(disk), "internal")
        for minor, own, peer in zip(minors, ports, ports[::-1], strict=True):
            ends = (f"ipv4:127.0.0.1:{own}", f"ipv4:127.0.0.1:{peer}")
            setup("connect", f"r{minor}", *ends, f"--protocol={protocol}")
        made = Resource(minors[0], ports)
        rig.until(
            lambda: all("cs:Connected" in _line(minor) for minor in minors),
            CONNECTED_SECONDS_MAX,
            "DRBD is connected",
        )
        setup("new-current-uuid", f"{minors[0]}", "--clear-bitmap=yes")
        setup("primary", f"{minors[0]}")
        rig.until(lambda: made.state() == SETTLED, CONNECTED_SECONDS_MAX, "DRBD's disks are equal")
        yield made


def setup(*words: str) -> None:
    """Run drbdsetup."""
    rig.run(SETUP, *words)


def _line(minor: int) -> str:
    """What the kernel says of a minor."""
    for line in Path("/proc/drbd").read_text().splitlines():
        if line.strip().startswith(f"{minor}:"):
            return line.strip()
    return "gone"
