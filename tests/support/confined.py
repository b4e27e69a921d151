"""Runs a program as a systemd unit would confine it, on a machine where systemd does not run.

    python -m tests.support.confined UNIT PROGRAM ARGUMENTS...

Of the unit's settings it takes on those that could stop a program from working: the filters of
system calls and of address families, MemoryDenyWriteExecute, NoNewPrivileges, UMask and the empty
capability set. One rule: the names of calls come from the unit and from systemd-analyze, their
numbers from the kernel's header; nothing is listed here.
"""

import ctypes
import errno
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

HEADER: Final = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
"""Names and numbers of system calls (linux-libc-dev, which libc6-dev brings)."""

_INSTRUCTION: Final = struct.Struct("<HBBI")
"""code, jump if true, jump if false, operand"""
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000  # SECCOMP_RET_ERRNO
_NUMBER: Final = 0  # struct seccomp_data: nr
_FIRST_ARGUMENT: Final = 16  # its args[0], lower half
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_SET_MDWE: Final = 65
_SECCOMP_MODE_FILTER: Final = 2
_CAPABILITIES: Final = 64

_libc: Final = ctypes.CDLL(None, use_errno=True)


def allowed_calls(unit: str) -> set[str]:
    """The system calls that a unit's SystemCallFilter lines leave."""
    groups = _groups()
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit, flags=re.M):
        names: set[str] = set()
        for word in line.lstrip("~").split():
            names |= _members(groups, word)
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def _groups() -> dict[str, list[str]]:
    """What systemd's groups of system calls hold: calls, and other groups."""
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    groups: dict[str, list[str]] = {}
    members: list[str] = []
    for line in listed.splitlines():
        word = line.strip()
        if line.startswith("@"):
            members = groups.setdefault(word, [])
        elif line.startswith(" ") and word and not word.startswith("#"):
            members.append(word)
    return groups


def _members(groups: dict[str, list[str]], name: str) -> set[str]:
    """The calls of a group, or the one call itself."""
    if not name.startswith("@"):
        return {name}
    return set().union(*(_members(groups, member) for member in groups[name]))


def allowed_families(unit: str) -> list[int]:
    """The address families that a unit's RestrictAddressFamilies line leaves."""
    (line,) = re.findall(r"^RestrictAddressFamilies=(.*)$", unit, flags=re.M)
    return [getattr(socket, name) for name in line.split()]


def _filter(names: set[str], families: list[int]) -> bytes:
    text = HEADER.read_text(encoding="ascii")
    numbers = {
        name: int(number)
        for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)
        if name in names
    }
    program = [(_LOAD, 0, 0, _NUMBER)]
    for number in sorted(set(numbers.values()) - {numbers["socket"]}):
        program += _allow_if_equal(number)
    program += [(_JUMP_EQUAL, 1, 0, numbers["socket"]), _refuse(errno.EPERM)]
    program.append((_LOAD, 0, 0, _FIRST_ARGUMENT))
    for family in families:
        program += _allow_if_equal(family)
    program.append(_refuse(errno.EAFNOSUPPORT))
    return b"".join(_INSTRUCTION.pack(*one) for one in program)


def _allow_if_equal(value: int) -> list[tuple[int, int, int, int]]:
    return [(_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]


def _refuse(error: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, _REFUSE | error)


def _prctl(option: int, value: int, pointer: object = 0) -> int:
    return int(_libc.prctl(option, value, pointer, 0, 0))


def confine(unit: str) -> None:
    """Confine this process, and what it becomes, as ``unit`` says."""
    code = _filter(allowed_calls(unit), allowed_families(unit))
    if "MemoryDenyWriteExecute=yes" in unit:
        _prctl(_PR_SET_MDWE, 1)  # Linux 6.3; an older one is not tested for this
    if re.search(r"^CapabilityBoundingSet=$", unit, flags=re.M):
        for number in range(_CAPABILITIES):
            _prctl(_PR_CAPBSET_DROP, number)
    mask = re.search(r"^UMask=(\d+)$", unit, flags=re.M)
    if mask is not None:
        os.umask(int(mask[1], 8))
    assert _prctl(_PR_SET_NO_NEW_PRIVS, 1) == 0
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(
        struct.pack("@HxxxxxxP", len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    )
    assert _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program) == 0, ctypes.get_errno()


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.execv(sys.argv[2], sys.argv[2:])
