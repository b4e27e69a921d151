"""Addresses of a link: ``host:port`` or ``ipc://path``, and which of them may go without keys.

One rule: an address is plain only on loopback and on ipc; anywhere else it wants CURVE keys.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from pratima_iscsi.errors import UsageError

PORT_MAX: Final = 65535
IPC_PATH_BYTES_MAX: Final = 107
"""sockaddr_un holds 108 bytes, the last of them NUL."""
IPC_DATA_SUFFIX: Final = ".data"
IPC_EVENTS_SUFFIX: Final = ".events"

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_EXAMPLE: Final = "give HOST:PORT, like 127.0.0.1:7010, or ipc:///path/to/socket"


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """One port of a link: a host and a TCP port, or (host empty) the path of a UNIX socket."""

    host: str
    port: int = 0
    path: str = ""

    @property
    def endpoint(self) -> str:
        """The address as ZeroMQ wants it."""
        if self.path:
            return f"ipc://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port or '*'}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it: loopback or ipc."""
        if self.path:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_ipv6(self) -> bool:
        """Whether the host is an IPv6 address."""
        return ":" in self.host

    def meets(self, other: "LinkAddress") -> bool:
        """Whether one process can surely not listen on both: one path, or one port of one host, of
        which either may be all IPv4 or all IPv6 hosts. A name is not looked up."""
        if self.path or other.path:
            return self.path == other.path
        if self.port != other.port or not self.port:
            return False
        any_host = "::" if self.is_ipv6 else "0.0.0.0"
        return self.host == other.host or (
            self.is_ipv6 == other.is_ipv6 and any_host in (self.host, other.host)
        )

    def above(self) -> "LinkAddress":
        """Where data goes unless an address is given: the next port, or a path of its own."""
        if self.path:
            return LinkAddress("", 0, _checked_path(self.path + IPC_DATA_SUFFIX))
        if self.port == PORT_MAX:
            raise UsageError("there is no port above 65535 for data", "give the data address too")
        return LinkAddress(self.host, self.port + 1 if self.port else 0)

    def for_events(self) -> "LinkAddress | None":
        """Where a replica at this control address publishes its events; None: there is no room."""
        if self.path:
            path = self.path + IPC_EVENTS_SUFFIX
            return LinkAddress("", 0, path) if len(path.encode()) <= IPC_PATH_BYTES_MAX else None
        return LinkAddress(self.host, self.port + 2) if self.port + 2 <= PORT_MAX else None

    def __str__(self) -> str:
        return self.endpoint.removeprefix("tcp://")


def parse_address(text: str) -> LinkAddress:
    """The address in ``text``; port 0 is "any free one" and of use only for listening.

    Raises UsageError for anything but ``host:port``, ``[ipv6]:port`` and ``ipc://path``.
    """
    if text.startswith("ipc://"):
        return LinkAddress("", 0, _checked_path(text.removeprefix("ipc://")))
    host, colon, port_text = text.removeprefix("tcp://").rpartition(":")
    if not colon or not port_text.isascii() or not port_text.isdigit():
        raise UsageError(f"{text!r} is not an address", _EXAMPLE)
    if len(port_text) > 5 or int(port_text) > PORT_MAX:
        raise UsageError(f"{port_text} is not a port", _EXAMPLE)
    return LinkAddress(_checked_host(host, text), int(port_text))


def _checked_host(host: str, text: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    if host == "*":
        return "0.0.0.0"
    try:
        if host.startswith("[") and host.endswith("]"):
            return str(ipaddress.IPv6Address(host[1:-1]))
        if host.replace(".", "").isdigit():
            return str(ipaddress.IPv4Address(host))
    except ValueError as error:
        raise UsageError(f"{text!r} is not an address: {error}", _EXAMPLE) from None
    if not _NAME.fullmatch(host):
        raise UsageError(f"{text!r} is not an address", _EXAMPLE)
    return host


def _checked_path(path: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"ipc path {path!r} is not absolute", _EXAMPLE)
    if len(path.encode()) > IPC_PATH_BYTES_MAX or "\0" in path:
        raise UsageError(
            f"ipc path of {len(path.encode())} bytes: a UNIX socket's has at most "
            f"{IPC_PATH_BYTES_MAX}",
            "use a shorter directory",
        )
    return path
