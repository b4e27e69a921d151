"""Which system call of a process fails, and how: builds ``faults.c`` and sets its environment.

One rule: a fault that was asked for and did not happen proves nothing; ``happened`` tells.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_name("faults.c")
BUILD_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class SyscallFault:
    """The ``nth`` call of ``call`` on a path that contains ``path`` ends in ``action``.

    The words are those of faults.c: call is write, sync, open, rename, unlink, truncate or
    fallocate; action an error's name, short, kill or killed. ``onwards``: all later ones too.
    """

    call: str
    nth: int
    action: str
    path: str = ""
    onwards: bool = False

    def __str__(self) -> str:
        return f"{self.call}:{self.nth}{'+' * self.onwards}:{self.action}" + (
            f":{self.path}" if self.path else ""
        )


class Shim:
    """The compiled library."""

    def __init__(self, library: Path) -> None:
        self.library = library

    def environment(self, faults: Sequence[SyscallFault], log: Path) -> dict[str, str]:
        """What to add to a process's environment; every fault that happens is noted in ``log``."""
        return {
            "LD_PRELOAD": str(self.library),
            "PRATIMA_FAULTS": ",".join(map(str, faults)),
            "PRATIMA_FAULTS_LOG": str(log),
        }


def compiler() -> str | None:
    """The C compiler, if there is one: CC, or cc, or gcc, or clang."""
    return next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)


def build(directory: Path, with_compiler: str) -> Shim:
    """Compile the library into ``directory``. Raises CalledProcessError when it does not."""
    library = directory / "pratima-faults.so"
    command = [with_compiler, "-Wall", "-O1", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(SOURCE), "-ldl"], check=True, timeout=BUILD_SECONDS)
    return Shim(library)


def happened(environment: Mapping[str, str]) -> list[str]:
    """Lines "CALL ACTION PATH" of the faults that happened under an environment of ``Shim``'s."""
    log = Path(environment["PRATIMA_FAULTS_LOG"])
    return log.read_text().splitlines() if log.exists() else []
