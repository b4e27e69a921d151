"""A guest: Debian's own kernel on the host's file system, under QEMU's software emulation.

The machines that test this project have no iSCSI initiator, LIO or TCMU in their kernel, and
``/dev/kvm``, where there is one, may not run a stock kernel; so the lab plans on ``-accel tcg``.
The guest sees the host's ``/`` read-only with a tmpfs over it and thus runs the host's programs
and virtual environment unmodified. It gets jobs (shell scripts) and gives back files, both in one
directory that crosses uncached.

One rule: a guest ends. Every job has a time limit inside, the whole run has one outside, QEMU
dies with the process that started it, and whatever went wrong comes with the console's last words.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.kernel import image

JOB_SECONDS_MAX: Final = 240
BOOT_SECONDS_MAX: Final = 120
"""Boot and power-off take ~10 s on a quiet machine; this is what a drowning one may need."""
CONSOLE_LINES_SHOWN: Final = 60
HOST_ADDRESS: Final = "10.0.2.2"
"""The host's loopback as the guest sees it, with QEMU's user networking."""
GUEST_ADDRESS: Final = "10.0.2.15/24"
GUEST_INIT: Final = Path(__file__).parent / "guest" / "init.sh"
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


def run_guest(
    share: Path,
    jobs: Mapping[str, str],
    *,
    network: bool = False,
    cpus: int = 2,
    memory: str = "1G",
    job_seconds_max: int = JOB_SECONDS_MAX,
) -> dict[str, JobResult]:
    """Boot, run every job (name: bash script) in the order of their names, power off.

    ``share`` is a directory that host and guest both see, the guest as ``/lab``: what jobs need
    and what they leave goes there. With ``network`` the host's loopback is ``HOST_ADDRESS`` for
    the guest, which has no route beyond it. Raises :class:`GuestFailed` when the guest does not
    come to the end, never for a job's own exit code, and :class:`image.LabUnavailable` when there
    is no kernel to boot.
    """
    kernel = image.kernel()
    (share / "jobs").mkdir()
    for name, script in jobs.items():
        (share / "jobs" / name).write_text(script)
    shutil.copy(GUEST_INIT, share / "init.sh")
    (share / "job-seconds").write_text(str(job_seconds_max))
    if network:
        (share / "network").write_text(GUEST_ADDRESS)
    console = share / "console"
    command = _qemu(kernel, share, console, network=network, cpus=cpus, memory=memory)
    seconds_max = BOOT_SECONDS_MAX + job_seconds_max * len(jobs)
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds_max,
            check=False,
        )
        fate = f"QEMU ended with {ended.returncode} {ended.stderr.strip()}"
    except subprocess.TimeoutExpired:
        fate = f"QEMU was killed after {seconds_max} s"
    said = console.read_text(errors="replace") if console.exists() else ""
    undone = [name for name in jobs if not (share / f"{name}.rc").exists()]
    if undone:
        logs = "".join(
            f"--- {name}\n{(share / f'{name}.log').read_text(errors='replace')}\n"
            for name in undone
            if (share / f"{name}.log").exists()
        )
        raise GuestFailed(f"{fate}; undone: {', '.join(undone)}\n{logs}--- console\n{_tail(said)}")
    return {
        name: JobResult(
            rc=int((share / f"{name}.rc").read_text()),
            log=(share / f"{name}.log").read_text(errors="replace"),
            console=said,
        )
        for name in jobs
    }


def _tail(console: str) -> str:
    """The console's last lines."""
    return "\n".join(console.splitlines()[-CONSOLE_LINES_SHOWN:])


def _qemu(
    kernel: image.Kernel, share: Path, console: Path, *, network: bool, cpus: int, memory: str
) -> list[str]:
    """QEMU's command line; the options are those that were measured as the quickest boot."""
    kernel_line = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check"
    command = [
        *("setpriv", "--pdeathsig", "KILL"),
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"),
        *("-smp", str(cpus), "-m", memory, "-nodefaults", "-no-reboot", "-display", "none"),
        *("-kernel", str(kernel.vmlinuz), "-initrd", str(kernel.initramfs)),
        *("-append", kernel_line, "-serial", f"file:{console}"),
        *_shared("root", Path("/"), readonly=True),
        *_shared("modules", kernel.modules, readonly=True),
        *_shared("lab", share, readonly=False),
    ]
    if network:
        command += ["-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net"]
    return command


def _shared(tag: str, path: Path, *, readonly: bool) -> list[str]:
    """One directory of the host, mounted in the guest by its tag over 9p."""
    options = f"local,id={tag},path={path},security_model=none,multidevs=remap"
    if readonly:
        options += ",readonly=on"
    return ["-fsdev", options, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
