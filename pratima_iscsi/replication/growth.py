"""Growing a volume: every replica makes room, then the primary, then a RESIZE takes its place.

    replicas make room ─► primary makes room, remembers the size ─► RESIZE, in order ─► done
           └── one cannot, or does not answer ──► refused: nothing has changed here

Room is more than the group uses: a file that is longer, a device that was extended. What a volume
has grown by reads as zeros on both sides, or it goes into the link's table. One rule: until its
RESIZE is admitted a volume has its old size on every side, whoever dies meanwhile.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from pratima_iscsi import limits
from pratima_iscsi.blocks import VOLUME_BYTES_MAX
from pratima_iscsi.errors import OperatorError, StateError, SyncError, UsageError
from pratima_iscsi.operations import RESIZE, Operation
from pratima_iscsi.replication.effects import Effect, GrowLocal, SendControl
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.messages import Grow, Grown
from pratima_iscsi.replication.states import Connection

GrowthDone = Callable[[OperatorError | None], None]
"""Told once: None when initiators may be told of the new size, else why nothing has changed."""


class Growing(Protocol):
    """What a growth asks of its group."""

    sizes: tuple[int, ...]
    links: list[Link]
    emit: Callable[[Effect], None]

    @property
    def failed_volumes(self) -> frozenset[int]:
        """Volumes that take no more writes."""

    def fail_volume(self, volume: int) -> None:
        """Nobody knows what is durable there: it takes no more writes."""

    def admit_resize(self, operation: Operation, now: float) -> None:
        """Take a RESIZE into the order, behind all that has come."""


class Growth:
    """The one growth that a group may have under way."""

    def __init__(self, group: Growing) -> None:
        self._group = group
        self._done: GrowthDone | None = None
        self._volume = 0
        self._size = 0
        self._in_line = False
        """Whether a RESIZE waits for its place or is being done, also one that was given up."""
        self._asked: dict[int, bytes] = {}
        """Links that have not answered, with the session that they were asked in."""
        self._deadline = 0.0
        self._zeros: dict[int, bytes] = {}
        """Links whose replica reads zeros where the volume grows, as the primary will, with the
        session that it was asked in."""

    @property
    def asking(self) -> bool:
        """Whether a replica has yet to answer."""
        return bool(self._asked)

    def begin(
        self, volume: int, size: int, done: GrowthDone, now: float, *, later: bool = False
    ) -> None:
        """Grow ``volume`` to ``size`` bytes. ``later``: also while a replica cannot be asked; it
        makes room when it is back. Raises OperatorError, and then nothing was begun."""
        links = self._askable(volume, size, later)
        self._done, self._volume, self._size = done, volume, size
        self._deadline = now + limits.GROW_SECONDS
        self._asked = {link.index: link.session for link in links}
        self._zeros = self._asked.copy()
        for link in links:
            message = Grow(link.session, volume, size)
            self._group.emit(SendControl(link.index, message))
        if not links:
            self._group.emit(GrowLocal(volume, size))

    def _askable(self, volume: int, size: int, later: bool) -> Sequence[Link]:
        """The links to ask. Raises OperatorError when the volume may not grow so."""
        if self._done is not None or self._in_line:
            raise StateError("another volume of the group is growing", "try again when it is done")
        if volume in self._group.failed_volumes:
            raise StateError(
                "the volume has failed and takes no writes", "see to its disk, and restart"
            )
        old = self._group.sizes[volume]
        if size < old:
            raise UsageError(
                f"a volume never shrinks: it has {old} bytes, and {size} were asked for",
                "name a larger size",
            )
        if size > VOLUME_BYTES_MAX:
            raise UsageError(
                f"{size} bytes are more than the {VOLUME_BYTES_MAX} of one volume",
                "add a volume to the group",
            )
        links = [link for link in self._group.links if link.connection is Connection.OPEN]
        for link in self._group.links:
            if link.connection not in (Connection.OPEN, Connection.DISABLED) and not later:
                raise StateError(
                    f"replica {link.options.name} cannot be asked to grow: {link.reason}",
                    "bring it back first, or say --replicas-later: it then grows when it is back, "
                    "and is refused by name if it cannot",
                )
        return links

    def reads_zeros(self, link: Link) -> bool:
        """Whether what a volume grows by is known to read as zeros at this link's replica: at the
        one that said so, for in another session it may be another one."""
        return self._zeros.get(link.index) == link.session

    def answered(self, link: int, answer: Grown, now: float) -> None:
        """A replica has made room, or says why it cannot."""
        ours = (self._asked.get(link), self._volume, self._size)
        if ours != (answer.session, answer.volume, answer.size):
            return
        name = self._group.links[link].options.name
        if answer.refusal:
            self._refuse(
                f"replica {name} has no room for {self._size} bytes: {answer.refusal}",
                "give the replica's volume room, and ask again",
            )
            return
        del self._asked[link]
        if not answer.zeros:
            del self._zeros[link]
        if not self._asked:
            self._group.emit(GrowLocal(self._volume, self._size))

    def local_grown(self, zeros: bool, error: OSError | None, now: float) -> None:
        """The answer to GrowLocal: whether what was added is known to read as zeros."""
        if self._done is None:
            return
        if isinstance(error, SyncError):
            self._group.fail_volume(self._volume)
        if error is not None:
            self._refuse(
                f"the volume cannot grow: {error.strerror or error}",
                "see to its disk; a block device must be extended first",
            )
            return
        if not zeros:
            self._zeros.clear()
        self._in_line = True
        self._group.admit_resize(
            Operation(RESIZE, self._volume, 0, self._size, done=self._settled), now
        )

    def _settled(self, error: OSError | None) -> None:
        """The RESIZE has completed, as a write would have. Where it was given up while it waited
        for room in the log nobody is told any more, but no other could be begun before."""
        self._in_line = False
        if error is None:
            self._end(None)
        else:
            self._refuse(f"the volume did not grow: {error.strerror}", "see `pratima status`")

    def tick(self, now: float) -> None:
        """Give up on replicas that do not answer."""
        if self._asked and now >= self._deadline:
            names = [self._group.links[index].options.name for index in self._asked]
            self._refuse(
                f"no answer within {limits.GROW_SECONDS:g} s from replica {', '.join(names)}",
                "see whether it is stopped or its disk hangs, and ask again",
            )

    def next_timer(self, due: float) -> float:
        """When ``tick`` is due, ``due`` at the latest."""
        return min(due, self._deadline) if self._asked else due

    def stop(self) -> None:
        """The group stops: who waits is told now. A RESIZE that stands in line may still be done;
        whoever asks again when the group is up finds out."""
        if self._done is not None:
            self._refuse("the group stops", "ask again when it is up")

    def _refuse(self, problem: str, next_step: str) -> None:
        self._end(StateError(problem, next_step))

    def _end(self, error: OperatorError | None) -> None:
        done, self._done = self._done, None
        self._asked.clear()
        if done is not None:
            done(error)
