"""A guest: Debian's own kernel on the host's file system, under QEMU's software emulation.

The machines that test this project have no iSCSI initiator, LIO or TCMU in their kernel, and
``/dev/kvm``, where there is one, may not run a stock kernel; so the lab plans on ``-accel tcg``.
The guest sees the host's ``/`` read-only with a tmpfs over it and thus runs the host's programs
and virtual environment unmodified. It gets jobs (shell scripts) and gives back files, both in one
directory that crosses uncached. `inside.py` runs pytest as such a job.

One rule: a guest ends. Every job has a time limit inside, the whole run has one outside, QEMU
dies with the process that started it, and whatever went wrong comes with the console's last words.
Only a kernel that did not come up, before anything of ours ran, is booted once more, and a warning
says so: an emulated processor was seen to interrupt itself for ever, with an empty console.
"""

import contextlib
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.kernel import image

JOB_SECONDS_MAX: Final = 240
BOOT_SECONDS_MAX: Final = 120
"""Boot and power-off take ~10 s on a quiet machine; this is what a drowning one may need."""
BOOTS_MAX: Final = 2
UP: Final = "up"
"""The file that a guest leaves in the share as soon as it can."""
CONSOLE_LINES_SHOWN: Final = 60
POLL_SECONDS: Final = 0.05
HOST_ADDRESS: Final = "10.0.2.2"
"""The host's loopback as the guest sees it, with QEMU's user networking."""
GUEST_ADDRESS: Final = IPv4Interface("10.0.2.15/24")
GUEST: Final = Path(__file__).parent / "guest"
PROGRAMS: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "dpkg": "dpkg",
    "setpriv": "util-linux",
}
"""What the lab itself runs, and the package that has it."""


class GuestFailed(AssertionError):
    """The guest died, hung or left a job undone; the message ends with its console."""


class NeverUpWarning(UserWarning):
    """A guest's kernel did not come up, and was booted once more."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """What one job left behind."""

    rc: int
    """Its exit code; 124 when its time ran out."""
    log: str
    """Its standard output and error, interleaved."""
    console: str
    """The guest's console up to power-off."""

    def explain(self) -> str:
        """For the message of an assertion that did not hold."""
        return f"exit code {self.rc}\n--- job\n{self.log}\n--- console\n{_tail(self.console)}"


def missing_packages(programs: Mapping[str, str] = PROGRAMS) -> list[str]:
    """Debian packages without which ``programs`` (program: package) cannot run here."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    return sorted(
        {package for program, package in programs.items() if not shutil.which(program, path=path)}
    )


@dataclass(frozen=True, slots=True)
class Cable:
    """A guest's end of a network cable to another; what is sent while that is away is lost."""

    here: Path
    """The socket of this end."""
    there: Path
    """The socket of the other end."""
    address: IPv4Interface

    @property
    def hardware_address(self) -> str:
        """Its own, or neither end would believe that a frame is for it."""
        return f"52:54:{self.address.packed.hex(':')}"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a guest is made of beside its kernel and the host's file system."""

    cpus: int = 2
    memory: str = "1G"
    network: bool = False
    """Whether the host's loopback is ``HOST_ADDRESS`` for the guest, which has no route beyond."""
    forwards: Mapping[int, int] = field(default_factory=dict)
    """Ports of the host's loopback: the guest's port that each leads to; needs ``network``."""
    cable: Cable | None = None
    """To another guest: the last network device, eth0 or, beside ``network``, eth1."""
    drives: Sequence[Path] = ()
    """Raw images that outlive the guest: /dev/vda, /dev/vdb and so on."""
    systemd: bool = False
    """Whether its PID 1 is systemd, which takes as long again as the rest of the boot."""
    job_seconds_max: int = JOB_SECONDS_MAX


class Guest:
    """A guest at work: booted by ``with``, and dead when the block ends."""

    def __init__(self, share: Path, jobs: Mapping[str, str], machine: Machine) -> None:
        self.share = share
        self.jobs = tuple(jobs)
        self.machine = machine
        self.console = share / "console"
        self.seconds_max = BOOT_SECONDS_MAX + machine.job_seconds_max * len(jobs)
        self._up = share / UP
        self._boots = 0
        (share / "jobs").mkdir()
        for name, script in jobs.items():
            (share / "jobs" / name).write_text(script)
        for script in ("init.sh", "jobs.sh", *(("systemd.sh",) if machine.systemd else ())):
            shutil.copy(GUEST / script, share)
        (share / "job-seconds").write_text(str(machine.job_seconds_max))
        if addresses := _addresses(machine):
            (share / "network").write_text("".join(f"{address}\n" for address in addresses))

    def __enter__(self) -> Self:
        self._boot()
        return self

    def _boot(self) -> None:
        self._process = subprocess.Popen(
            _qemu(image.kernel(), self.share, self.console, self.machine),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._boots += 1
        now = time.monotonic()
        self._until = now + self.seconds_max
        self._up_until = now + BOOT_SECONDS_MAX

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._process.pid

    def kill(self) -> None:
        """Pull the plug."""
        self._process.kill()
        self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def wait_for(self, name: str) -> Path:
        """Wait until the guest has left a file in the share; GuestFailed when it ends before."""
        path = self.share / name
        self.wait_until(path.exists, f"there is a file {name}")
        return path

    def wait_until(self, predicate: Callable[[], bool], what: str) -> None:
        """Wait until something is so; GuestFailed when the guest ends before."""
        while not predicate():
            if not self._goes_on():
                raise self._failure(f"it did not come to be that {what}")
            time.sleep(POLL_SECONDS)

    def _goes_on(self) -> bool:
        """Whether there is something to wait for; boots once more what never came up."""
        if self._process.poll() is not None:
            return False
        now = time.monotonic()
        if now > self._up_until and self._boots < BOOTS_MAX and not self._up.exists():
            warnings.warn(
                f"a guest was not up after {BOOT_SECONDS_MAX} s and is booted once more: "
                f"{_tail(self._said()) or 'its console is empty'}",
                NeverUpWarning,
                stacklevel=3,
            )
            self.kill()
            self._boot()
        return now <= self._until

    def finish(self) -> dict[str, JobResult]:
        """Wait for the end of all jobs; see ``run_guest``."""
        while self._goes_on():
            time.sleep(POLL_SECONDS)
        if self._process.poll() is None:
            fate = f"QEMU was killed after {self.seconds_max} s"
            self.kill()
        else:
            assert self._process.stderr is not None
            said = self._process.stderr.read().strip()
            fate = f"QEMU ended with {self._process.returncode} {said}"
        if any(not (self.share / f"{name}.rc").exists() for name in self.jobs):
            raise self._failure(fate)
        said = self._said()
        return {
            name: JobResult(
                rc=int((self.share / f"{name}.rc").read_text()),
                log=(self.share / f"{name}.log").read_text(errors="replace"),
                console=said,
            )
            for name in self.jobs
        }

    def _said(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.console.read_text(errors="replace")
        return ""

    def _failure(self, fate: str) -> GuestFailed:
        undone = [name for name in self.jobs if not (self.share / f"{name}.rc").exists()]
        logs = "".join(
            f"--- {name}\n{(self.share / f'{name}.log').read_text(errors='replace')}\n"
            for name in undone
            if (self.share / f"{name}.log").exists()
        )
        return GuestFailed(
            f"{fate}; undone: {', '.join(undone)}\n{logs}--- console\n{_tail(self._said())}"
        )


def run_guest(
    share: Path, jobs: Mapping[str, str], machine: Machine | None = None
) -> dict[str, JobResult]:
    """Boot, run every job (name: bash script) in the order of their names, power off.

    ``share`` is a directory that host and guest both see, the guest as ``/lab``: what jobs need
    and what they leave goes there. Raises :class:`GuestFailed` when the guest does not
    come to the end, never for a job's own exit code, and :class:`image.LabUnavailable` when there
    is no kernel to boot.
    """
    with Guest(share, jobs, machine or Machine()) as guest:
        return guest.finish()


def _addresses(machine: Machine) -> list[IPv4Interface]:
    """Of its network devices, in their order."""
    own = [GUEST_ADDRESS] if machine.network else []
    return own if machine.cable is None else [*own, machine.cable.address]


def _tail(console: str) -> str:
    """The console's last lines."""
    return "\n".join(console.splitlines()[-CONSOLE_LINES_SHOWN:])


def _qemu(kernel: image.Kernel, share: Path, console: Path, machine: Machine) -> list[str]:
    """QEMU's command line; the options are those that were measured as the quickest boot."""
    kernel_line = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check"
    command = [
        *("setpriv", "--pdeathsig", "KILL"),
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"),
        *("-smp", str(machine.cpus), "-m", machine.memory),
        *("-nodefaults", "-no-reboot", "-display", "none"),
        *("-kernel", str(kernel.vmlinuz), "-initrd", str(kernel.initramfs)),
        *("-append", kernel_line, "-serial", f"file:{console}"),
        *_shared("root", Path("/"), readonly=True),
        *_shared("modules", kernel.modules, readonly=True),
        *_shared("lab", share, readonly=False),
    ]
    if machine.network:
        forwards = "".join(
            f",hostfwd=tcp:127.0.0.1:{port}-:{to}" for port, to in machine.forwards.items()
        )
        command += ["-netdev", f"user,id=net,ipv6=off{forwards}"]
        command += ["-device", "virtio-net-pci,netdev=net"]
    if (cable := machine.cable) is not None:
        local = f"local.type=unix,local.path={cable.here}"
        remote = f"remote.type=unix,remote.path={cable.there}"
        command += ["-netdev", f"dgram,id=cable,{local},{remote}"]
        command += ["-device", f"virtio-net-pci,netdev=cable,mac={cable.hardware_address}"]
    for drive in machine.drives:
        command += ["-drive", f"file={drive},format=raw,if=virtio,cache=writeback"]
    return command


def _shared(tag: str, path: Path, *, readonly: bool) -> list[str]:
    """One directory of the host, mounted in the guest by its tag over 9p."""
    options = f"local,id={tag},path={path},security_model=none,multidevs=remap"
    if readonly:
        options += ",readonly=on"
    return ["-fsdev", options, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
