"""Three back ends of LIO over the same kind of file: ours, fileio, and tcmu-runner's qcow handler.

One rule: they differ in the back end alone. One portal group has all three as LUNs, so transport
and session are the same; volumes are files of one size, allocated to the end, in memory. The qcow
handler is given a raw file, which it carries out as such: its quickest way.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rtslib_fb import FileIOStorageObject, UserBackedStorageObject

from benchmarks.kernel.plan import FILEIO, OURS, RUNNER
from benchmarks.kernel.subject import Subject, fio_disk
from benchmarks.processes import Pinned, wait_for
from tests.kernel.inside import rig

SERIALS: Final = {FILEIO: "f" * 32, RUNNER: "e" * 32}
READY_SECONDS_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class Units:
    """What gets a LUN, in its order."""

    objects: Sequence[Any]


def allocated(path: Path, size: int) -> Path:
    """A file that has all its pages."""
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return path


@contextmanager
def through_loopback(place: Path, size: int) -> Iterator[list[Subject]]:
    """All three as disks by tcm_loop."""
    with _three(place, size) as named, rig.loopback(Units(list(named.values()))) as disks:
        yield [fio_disk(name, path) for name, path in zip(named, disks, strict=True)]


@contextmanager
def through_iscsi(place: Path, size: int) -> Iterator[list[Subject]]:
    """All three as disks of one iSCSI session with the kernel's target."""
    with _three(place, size) as named:
        units = Units(list(named.values()))
        with rig.iscsi_target(units), rig.iscsi_login(units) as disks:
            yield [fio_disk(name, path) for name, path in zip(named, disks, strict=True)]


@contextmanager
def _three(place: Path, size: int) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        ours = stack.enter_context(handler(place / "ours", size))
        (device,) = stack.enter_context(rig.devices(ours.state, [size], prefix="ours")).objects
        volume = allocated(place / "fileio.img", size)
        fileio = FileIOStorageObject(
            "fileio", str(volume), size, wwn=SERIALS[FILEIO], write_back=True
        )
        stack.callback(fileio.delete)
        runner = stack.enter_context(_runner(place, size))
        yield {OURS: device, FILEIO: fileio, RUNNER: runner}


@contextmanager
def handler(place: Path, size: int, options: Sequence[str] = ()) -> Iterator[rig.Handler]:
    """Our daemon on a file of its own."""
    volume = allocated(place / "volume.img", size)
    with rig.Handler(place, [size], options, volumes=[volume]) as daemon:
        daemon.start()
        yield daemon


@contextmanager
def _runner(place: Path, size: int) -> Iterator[UserBackedStorageObject]:
    """tcmu-runner, which wants a system bus, with one device of its own."""
    Path("/run/dbus").mkdir(exist_ok=True)
    volume = allocated(place / "runner.img", size)
    Path("/run/dbus/system_bus_socket").unlink(missing_ok=True)
    bus = ["dbus-daemon", "--system", "--nofork", "--nopidfile"]
    serve = ["tcmu-runner", "--tcmu-log-dir", str(place)]
    with (
        Pinned(bus, cpu=None, log=place / "bus.log") as system_bus,
        ExitStack() as stack,
    ):
        wait_for(
            Path("/run/dbus/system_bus_socket").exists, READY_SECONDS_MAX, [system_bus], "a bus"
        )
        runner = stack.enter_context(Pinned(serve, cpu=None, log=place / "runner.log"))
        device = UserBackedStorageObject(
            "runner",
            config=f"qcow/{volume}",
            size=size,
            wwn=SERIALS[RUNNER],
            hw_max_sectors=2048,
            control="nl_reply_supported=-1,hw_block_size=512,max_data_area_mb=64",
        )
        stack.callback(device.delete)
        wait_for(
            lambda: _has_device(runner), READY_SECONDS_MAX, [runner, system_bus], "tcmu-runner"
        )
        yield device


def _has_device(runner: Pinned) -> bool:
    with contextlib.suppress(FileNotFoundError):  # one that is closed meanwhile
        opened = Path(f"/proc/{runner.pid}/fd").iterdir()
        return any(os.readlink(one).startswith("/dev/uio") for one in opened)
    return False
