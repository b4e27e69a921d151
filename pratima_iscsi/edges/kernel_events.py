"""What the kernel tells of its devices: that one came or went, that one's settings changed.

Two netlink sockets. They only say that it is time to look again: what is true stands in sysfs, and
a message that was lost costs a moment until the next look. The second one must be listened to for
its own sake: the kernel refuses to change a device's settings while nobody does. One rule: nothing
that such a message says is trusted for more than that something happened.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

KOBJECT_EVENTS: Final = 15
GENERIC: Final = 16
KERNEL_GROUP: Final = 1
"""Multicast group of the kernel's own device events."""
RECEIVE_BYTES: Final = 1 << 20
"""Of each socket: a storm of devices must fit, or most of it."""
SO_RCVBUFFORCE: Final = 33
"""Python's socket module does not name it."""
MESSAGE_BYTES: Final = 1 << 16
MESSAGES_PER_LOOK: Final = 256

MESSAGE = struct.Struct("=IHHII")
"""length, type, flags, sequence, port"""
GENERIC_HEADER = struct.Struct("=BBH")
"""command, version, reserved"""
ATTRIBUTE = struct.Struct("=HH")
"""length with this header, type"""
CONTROLLER: Final = 0x10
"""The family that knows the other families."""
GET_FAMILY: Final = 3
FAMILY_NAME: Final = 2
MULTICAST_GROUPS: Final = 7
GROUP_NAME: Final = 1
GROUP_ID: Final = 2
TYPE_MASK: Final = 0x3FFF
ERROR: Final = 2
REQUEST: Final = 1
SOL_NETLINK: Final = 270
ADD_MEMBERSHIP: Final = 1
ANSWER_SECONDS: Final = 2.0

TCMU_FAMILY: Final = b"TCM-USER\0"
TCMU_GROUP: Final = b"config\0"


def _netlink(protocol: int, groups: int) -> socket.socket:
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol
    )
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        with contextlib.suppress(OSError):  # beyond the system's limit only where we may
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        opened.bind((0, groups))
    except OSError:
        opened.close()
        raise
    return opened


class KernelEvents:
    """Both sockets, as one thing to look at."""

    def __init__(self) -> None:
        """Open them. Raises OSError where the kernel has no TCMU or does not let us."""
        self._devices = _netlink(KOBJECT_EVENTS, KERNEL_GROUP)
        try:
            self._settings = _netlink(GENERIC, 0)
        except OSError:
            self._devices.close()
            raise
        try:
            group = _tcmu_group(self._settings)
            self._settings.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)
        except OSError:
            self.close()
            raise

    @property
    def sockets(self) -> tuple[socket.socket, socket.socket]:
        """What to wait for."""
        return self._devices, self._settings

    def take(self) -> bool:
        """Take all that is there; whether it is time to look at the devices."""
        return self._take(self._devices, b"uio") | self._take(self._settings, b"")

    def _take(self, one: socket.socket, about: bytes) -> bool:
        seen = False
        for _ in range(MESSAGES_PER_LOOK):
            try:
                message = one.recv(MESSAGE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                return True  # some were lost (ENOBUFS), so whatever it was may have happened
            seen |= about in message
        return seen

    def close(self) -> None:
        """Listen no more."""
        self._devices.close()
        self._settings.close()


def _tcmu_group(asked: socket.socket) -> int:
    """The number of TCMU's multicast group. Raises OSError."""
    name = ATTRIBUTE.pack(ATTRIBUTE.size + len(TCMU_FAMILY), FAMILY_NAME) + TCMU_FAMILY
    body = GENERIC_HEADER.pack(GET_FAMILY, 1, 0) + name.ljust(-(-len(name) // 4) * 4, b"\0")
    asked.send(MESSAGE.pack(MESSAGE.size + len(body), CONTROLLER, REQUEST, 1, 0) + body)
    asked.settimeout(ANSWER_SECONDS)
    answer = asked.recv(MESSAGE_BYTES)
    asked.setblocking(False)
    return parse_group(answer)


def parse_group(answer: bytes) -> int:
    """The group's number in what the kernel says of the family. Raises OSError."""
    if len(answer) < MESSAGE.size + GENERIC_HEADER.size:
        raise OSError("the kernel gave no answer about TCM-USER")
    length, kind, *_ = MESSAGE.unpack_from(answer)
    if kind == ERROR:
        code = -struct.unpack_from("=i", answer, MESSAGE.size)[0]
        raise OSError(code, f"the kernel knows no TCM-USER: {os.strerror(code)}")
    body = answer[MESSAGE.size + GENERIC_HEADER.size : length]
    for outer, groups in _attributes(body):
        if outer != MULTICAST_GROUPS:
            continue
        for _, group in _attributes(groups):
            values = dict(_attributes(group))
            if values.get(GROUP_NAME) == TCMU_GROUP and len(values.get(GROUP_ID, b"")) == 4:
                return int(struct.unpack("=I", values[GROUP_ID])[0])
    raise OSError("the kernel's TCM-USER has no group for its settings")


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of netlink attributes, one after the other, until one makes no sense."""
    at = 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size or at + length > len(data):
            return
        yield kind & TYPE_MASK, data[at + ATTRIBUTE.size : at + length]
        at += -(-length // 4) * 4
