"""What systemd is told of a daemon (sd_notify(3)), where it listens; nothing anywhere else.

READY once everything serves, STOPPING when a stop begins, and the watchdog's word from the loop
that owns the groups. One rule: nobody is waited for, and whether it is heard changes nothing.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

_MICROSECONDS: Final = 1_000_000


class ServiceManager:
    """The service manager that started this process, if one did."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog_seconds = _watchdog_seconds(environment)
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Everything serves; from now on the loop says that it runs."""
        self._tell("READY=1")
        if self._watchdog_seconds and self._timer is None:
            self._watch(asyncio.get_running_loop())

    def stopping(self) -> None:
        """A clean stop begins."""
        self._tell("STOPPING=1")

    def close(self) -> None:
        """Say no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tell("WATCHDOG=1")
        self._timer = loop.call_later(self._watchdog_seconds / 2, self._watch, loop)

    def _tell(self, state: str) -> None:
        address = self._address
        if not address:
            return
        target = "\0" + address[1:] if address.startswith("@") else address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(state.encode(), target)


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """How long the manager waits for the loop's word; 0: it does not, or not for this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / _MICROSECONDS if text.isascii() and text.isdigit() else 0.0
