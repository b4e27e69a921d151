"""A process's file descriptors: how many it may have, and who gets the last of them.

The kernel gives out the lowest number that is free, so a high number says that few are left. One
rule: no connection from outside keeps one of the last DESCRIPTORS_KEPT. They are for files, for the
daemon's own connections, and for the operator who asks what is wrong. Nor does a new target.

Where even those are in use nothing can be accepted, so nothing can be refused either: a waiting
connection would wake its listener over and over. For that there is a spare one, given up for a
while: each connection that waits is accepted with it, and shut.
"""

import asyncio
import contextlib
import errno
import os
import resource
from collections.abc import Callable
from typing import Final

from pratima_iscsi.limits import ACCEPT_PAUSE_SECONDS, DESCRIPTORS_KEPT

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What ``accept`` fails with while the connection stays in the backlog, and wakes us again."""
MORE: Final = "raise LimitNOFILE of the daemon's unit, or ulimit -n, and restart it"


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may ask for: a login shell and systemd give
    1024 to begin with, for the sake of programs that use ``select``."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """How many descriptors this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def first_of_the_last(limit: int) -> int:
    """The number from which on the descriptors are those that are kept, of ``limit``."""
    return limit - min(DESCRIPTORS_KEPT, limit // 8)


class Descriptors:
    """Decides what a process has descriptors for; all its listeners share one.

    ``on_short`` is told what to do, once until there are enough again.
    """

    def __init__(
        self, on_short: Callable[[str], None] = lambda why: None, *, spare: bool = True
    ) -> None:
        self._on_short = on_short
        self._short = False
        self._wants_spare = spare
        self._spare = -1
        self._timer: asyncio.TimerHandle | None = None
        self._has_spare()

    def watch(self) -> None:
        """Look from now on, in the loop that runs, whether there are enough."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(ACCEPT_PAUSE_SECONDS, self.watch)
        self._judge(self.room_for(0))

    def lets_in(self, descriptor: int) -> bool:
        """Whether a connection that was accepted may stay; if not, it is to be shut."""
        first = first_of_the_last(descriptor_limit())
        return self._judge(descriptor < first and self._has_spare())

    def room_for(self, count: int) -> bool:
        """Whether ``count`` more leave the last ones free."""
        if not self._has_spare():
            return False
        try:
            lowest = _any_descriptor()
        except OSError:
            return False
        os.close(lowest)
        return lowest + count < first_of_the_last(descriptor_limit())

    def lacking(self) -> int:
        """Of SHORTAGES the one that there is now; 0: there is a descriptor."""
        try:
            os.close(_any_descriptor())
        except OSError as error:
            return error.errno if error.errno in SHORTAGES else 0
        return 0

    def ran_out(self, lacking: int) -> None:
        """A connection waits that could not be accepted, for want of one of SHORTAGES: give up the
        spare one until it is looked for again."""
        self._tell(lacking)
        self._drop_spare()

    def close(self) -> None:
        """Look no more, and give the spare one up for good."""
        self._wants_spare = False
        self._drop_spare()
        if self._timer is not None:
            self._timer.cancel()

    def _judge(self, enough: bool) -> bool:
        if enough:
            self._short = False
        else:
            self._tell(errno.EMFILE)
        return enough

    def _tell(self, lacking: int) -> None:
        if not self._short:
            self._short = True
            self._on_short(_explained(lacking))

    def _has_spare(self) -> bool:
        """Whether there is the spare one that is wanted; taken again if there can be."""
        if self._wants_spare and self._spare < 0:
            with contextlib.suppress(OSError):
                self._spare = _any_descriptor()
        return self._spare >= 0 or not self._wants_spare

    def _drop_spare(self) -> None:
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1


def _any_descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _explained(error: int) -> str:
    if error == errno.EMFILE:
        return (
            f"of {descriptor_limit()} descriptors only the last are left, which no connection from "
            f"outside gets: {MORE}"
        )
    return (
        f"connections cannot be let in: {os.strerror(error)}: see to the machine's memory and to "
        "its fs.file-max"
    )
