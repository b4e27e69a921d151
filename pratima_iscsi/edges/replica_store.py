"""One group at one replica: journal, staging, state and volumes as one store that recovers itself.

    journal half    append ─► sync ─► ...                                    release
    apply half                        apply ─► checkpoint (volumes, staging, state) ─┘

The caller decides when each call runs; one call of each half at a time may run, in two threads.
Opening a store recovers it: it finishes a commit that was under way, applies every unit of the
journal that is valid, by the same code as ever, checkpoints, and empties the journal. That can be
cut off anywhere and begun again, and works on a copy of the directory and the volumes as well.

**Staging that is full.** A unit of a staged transaction then waits for room, and with it all that
follows. But a BEGIN that is durable behind it, with no END between them, frees what is staged: up
to it the transaction's records are passed over. So a primary that begins anew is never stuck behind
one that could not go on. Where a recovery finds neither, it abandons the transaction: the old
consistent point is what there is to present, and the journal has nothing that leads beyond it.

What cannot go on is said in the state: INCONSISTENT with its reason when journal or staging lost
what was durable (the next source's first sync mends it), FAILED when the journal holds what the
protocol does not allow. One rule: nothing is applied that is not provably durable in the journal.
"""

import errno
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.edges.files import NO_ROOM, Directory, File
from pratima_iscsi.edges.growth import make_room
from pratima_iscsi.edges.journal import INDEX_MAX, Journal, JournalRot, unit_bytes
from pratima_iscsi.edges.journal import PREFIX as JOURNAL_PREFIX
from pratima_iscsi.edges.kept_units import KeptUnits
from pratima_iscsi.edges.replica_apply import Applier, VerifyResult
from pratima_iscsi.edges.replica_state import ReplicaState, ReplicaVolume, StateFile
from pratima_iscsi.edges.staging import PREFIX as STAGING_PREFIX
from pratima_iscsi.edges.staging import SLOT_BYTES, StagingRot
from pratima_iscsi.edges.turns import Turns
from pratima_iscsi.errors import PratimaError, RemoteProtocolError, StateError, SyncError
from pratima_iscsi.limits import (
    CHECKPOINT_BYTES,
    CREDIT_BYTES_MAX,
    JOURNAL_BYTES_DEFAULT,
    SEGMENT_BYTES,
    STAGING_BYTES_DEFAULT,
    STAGING_RESERVE_BYTES,
)
from pratima_iscsi.operations import Buffer
from pratima_iscsi.records import End
from pratima_iscsi.replication.standing import CheckedFrame


class ReplicaDamaged(PratimaError):
    """What is stored here fails its checksum. The state is INCONSISTENT, durably; open the store
    again to go on from there."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What one call of ``apply`` did."""

    index: int
    """The last unit that is applied whole."""
    frame_bytes: int
    """Bytes of the frames that were applied."""
    answers: tuple[VerifyResult, ...]
    state: ReplicaState


class ReplicaStore:
    """See the module. ``open`` makes one; ``state`` is where it stands."""

    def __init__(
        self,
        directory: Directory,
        volumes: Sequence[File],
        state_file: StateFile,
        *,
        segment_bytes: int,
        journal_bytes: int,
        staging_bytes: int,
        reserve_bytes: int,
        kept_bytes: int,
        clock: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """For ``open``: nothing is recovered yet."""
        self._directory = directory
        self._volumes = tuple(volumes)
        self._state_file = state_file
        self._segment_bytes = segment_bytes
        self._journal_bytes = journal_bytes
        self._staging_bytes = staging_bytes
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._random_bytes = random_bytes
        self._journal: Journal | None = None
        self._checkpointed = 0
        self._broken = "the replica is not bound"
        self._turns = Turns()
        self.unrecovered = ""
        """Why the recovery did not end, and is to be tried again; empty: it did."""
        self.abandoned = ""
        """Which transaction the recovery abandoned and why; empty: none."""
        self._kept = KeptUnits(kept_bytes)
        self._applier = Applier(
            directory,
            self._volumes,
            state_file,
            staging_bytes=staging_bytes,
            reserve_bytes=reserve_bytes,
            durable=lambda: self._journal.durable if self._journal else 0,
        )

    @classmethod
    def open(
        cls,
        directory: Directory,
        volumes: Sequence[File],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        journal_bytes: int = JOURNAL_BYTES_DEFAULT,
        staging_bytes: int = STAGING_BYTES_DEFAULT,
        reserve_bytes: int = STAGING_RESERVE_BYTES,
        kept_bytes: int = CREDIT_BYTES_MAX,
        patient: bool = False,
        clock: Callable[[], int] = time.time_ns,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> "ReplicaStore":
        """Open and recover the store in ``directory``; a fresh one is unbound.

        ``volumes`` are the group's, in its order. ``kept_bytes`` of frames may be kept in memory
        until they are applied. ``clock`` is wall time in ns. Look at ``state``
        afterwards: it says whether the volumes are a consistent prefix now. Raises StateError when
        the files do not belong together or another version wrote them, OSError when the disk
        fails; then nothing is lost and it may be tried again. ``patient``: an OSError is not
        raised; it stands in ``unrecovered``, and the store takes nothing.
        """
        unread: OSError | None = None
        try:
            state_file = StateFile(directory)
        except OSError as error:
            if not patient:
                raise
            state_file, unread = StateFile(directory, read=False), error
        store = cls(
            directory,
            volumes,
            state_file,
            segment_bytes=segment_bytes,
            journal_bytes=journal_bytes,
            staging_bytes=staging_bytes,
            reserve_bytes=reserve_bytes,
            kept_bytes=kept_bytes,
            clock=clock,
            random_bytes=random_bytes,
        )
        try:
            if unread is not None:
                raise unread
            if store.state.bound:
                store._recover()
            else:
                _refuse_leftovers(directory)
        except OSError as error:
            store.close()
            if not patient:
                raise
            store.unrecovered = f"the replica cannot be recovered: {error.strerror or error}"
        except BaseException:
            store.close()
            raise
        return store

    # --- what anybody may ask ------------------------------------------------------------------

    @property
    def state(self) -> ReplicaState:
        """Where the replica stands: the last record applied, not necessarily checkpointed."""
        return self._applier.state

    @property
    def durable(self) -> int:
        """The last journal unit that is durable."""
        return self._journal.durable if self._journal else 0

    @property
    def applicable(self) -> int:
        """How far units may be applied: the last mark that is itself durable."""
        return self._journal.applicable if self._journal else 0

    def journal_room(self, wanted: int = INDEX_MAX) -> int:
        """Bytes: frames whose ``unit_bytes`` add up to no more are sure to be taken; ``wanted``
        are enough for the caller."""
        if self._journal is None:
            return self._journal_bytes // self._segment_bytes * (self._segment_bytes - 512)
        return self._journal.room(wanted)

    def journal_used(self) -> int:
        """Bytes that the journal holds and that no checkpoint covers."""
        return 0 if self._journal is None else self._journal.used()

    def staging_room(self) -> int:
        """Bytes of blocks that a staged transaction could hold that begins now (what an older one
        has staged is freed then)."""
        staging = self._applier.staging
        used = staging.used_bytes if staging else 0
        free = self._directory.free_bytes() - self._reserve_bytes + used
        return max(0, min(self._staging_bytes, free)) // SLOT_BYTES * BLOCK_BYTES

    def heard(self, wall_ns: int) -> None:
        """The source was heard at ``wall_ns``; the next checkpoint remembers it."""
        self._applier.heard_ns = max(self._applier.heard_ns, wall_ns)

    # --- binding -------------------------------------------------------------------------------

    def bind(
        self, group: bytes, group_name: str, volumes: Sequence[tuple[str, int]], node: bytes
    ) -> ReplicaState:
        """Belong to ``group`` (16 bytes) from now on, durably; ``volumes`` are (name, size).

        Not consistent before the first END. Raises StateError if the volumes do not fit.
        """
        assert not (self.state.bound or self.unrecovered) and len(group) == 16 and any(group)
        shape = tuple(ReplicaVolume(name, size) for name, size in volumes)
        self._compare(shape)
        bound = ReplicaState(group, group_name, node, shape, reason="the first sync has not begun")
        self._applier.persist(bound)
        self._journal = self._new_journal()
        self._journal.restart(0)
        self._applier.recovering = False
        self._broken = ""
        return self.state

    def _new_journal(self) -> Journal:
        return Journal(
            self._directory,
            self.state.group,
            segment_bytes=self._segment_bytes,
            quota_bytes=self._journal_bytes,
            clock=self._clock,
            random_bytes=self._random_bytes,
        )

    def _compare(self, shape: Sequence[ReplicaVolume]) -> None:
        if len(shape) != len(self._volumes):
            raise StateError(
                f"the group has {len(shape)} volumes, but {len(self._volumes)} are given",
                "name a file or device for each of them, in the group's order",
            )
        for wanted, volume in zip(shape, self._volumes, strict=True):
            if volume.size < wanted.size:
                raise StateError(
                    f"volume {wanted.name!r} has {volume.size} bytes, it must have {wanted.size}",
                    "name the right file or device",
                )

    # --- recovery ------------------------------------------------------------------------------

    def _recover(self) -> None:
        self._compare(self.state.volumes)
        if self.state.failed:
            self._broken = f"the replica has failed: {self.state.failed}"
            return
        journal = self._journal = self._new_journal()
        try:
            journal.scan(self.state.applied, self.state.durable)
            if self.state.discard:
                raise JournalRot(self.state.reason)
            self._applier.load_staging()
            self._applier.finish()
            while self.state.applied < journal.last:
                self._apply_unit(journal.last)
        except (JournalRot, StagingRot) as rot:
            reason = self.state.reason if self.state.discard else str(rot)
            self._applier.give_up(reason, journal.seen)
        except RemoteProtocolError as error:
            self._fail(str(error))
            return
        self._applier.take_answers()
        if self._applier.superseded:
            self.abandoned = f"transaction {self.state.transaction:016x}: no room to stage it"
            self._applier.abandon()
        else:
            self._applier.persist(self.state)
        self._applier.remove_old_staging()
        journal.restart(self.state.applied)
        self._checkpointed = self.state.applied
        self._applier.recovering = False
        self._broken = ""

    def _fail(self, reason: str) -> None:
        self._applier.persist(replace(self.state, failed=reason))
        self._broken = f"the replica has failed: {reason}"

    def close(self) -> None:
        """Release the store's own files (not the volumes); nothing is synced."""
        self._broken = "it was closed"
        if self._journal is not None:
            self._journal.close()
        self._applier.close()
        self._state_file.close()

    def _usable(self) -> Journal:
        """The journal; OSError EIO when the store takes nothing more."""
        broken = self._broken or self._applier.broken
        if broken or self._journal is None:
            raise OSError(errno.EIO, f"the replica's store is closed: {broken}")
        return self._journal

    # --- the journal half ----------------------------------------------------------------------

    def append(self, unit: CheckedFrame | Buffer | None, mark: int) -> int:
        """Write a frame (None: an empty unit) to the journal, not synced; its unit's index.

        ``mark``: the last unit known to be durable. OSError ENOSPC: over quota, all is as it was;
        any other OSError: nothing more is taken until the store is opened again.
        """
        frame = unit.frame if isinstance(unit, CheckedFrame) else unit
        index = self._usable().append(frame, mark)
        if unit is None or isinstance(unit, CheckedFrame):
            self._kept.keep(index, unit)
        return index

    def is_prepared(self, frames: Sequence[int]) -> bool:
        """Whether frames of these lengths can be appended without making a file for them first."""
        size = sum(map(unit_bytes, frames))
        return self._journal is not None and self._journal.is_prepared(size)

    def sync(self) -> int:
        """Make every appended unit durable; the last one's index. An OSError is final."""
        return self._usable().sync()

    def release(self, upto: int) -> None:
        """Let the journal reuse units up to ``upto``, which ``checkpoint`` returned."""
        assert upto <= self._checkpointed
        self._usable().release(upto)

    # --- the apply half ------------------------------------------------------------------------

    def apply(self, upto: int, bytes_max: int = CHECKPOINT_BYTES) -> Applied:
        """Apply units up to ``upto`` (at most ``applicable``), or fewer once ``bytes_max`` bytes of
        frames are reached.

        Raises OSError when a volume or the staging does not take it: nothing is lost, and the next
        call goes on where this one stopped. ReplicaDamaged: the state is INCONSISTENT now.
        RemoteProtocolError: it is FAILED. After those two the store takes nothing more.
        """
        journal = self._usable()
        assert upto <= journal.applicable, "not provably durable"
        done = 0
        try:
            self._applier.finish()
            while self.state.applied < upto and done < bytes_max:
                done += self._apply_unit(upto)
        except (JournalRot, StagingRot) as rot:
            self._broken = str(rot)
            self._applier.give_up(str(rot), self.state.applied, discard=True)
            raise ReplicaDamaged(str(rot)) from None
        except RemoteProtocolError as error:
            self._fail(str(error))
            raise
        return Applied(self.state.applied, done, self._applier.take_answers(), self.state)

    @property
    def keeps_next(self) -> bool:
        """Whether the next unit is in memory, checked: to apply it costs its writes alone."""
        index = self.state.applied + 1
        return index in self._kept and self._applier.follows(self._kept[index])

    def apply_kept(self, upto: int, bytes_max: int) -> Applied:
        """The same as ``apply``, but no further than units are in memory."""
        journal = self._usable()
        assert upto <= journal.applicable, "not provably durable"
        done = 0
        while self.state.applied < upto and done < bytes_max and self.keeps_next:
            done += self._apply_unit(upto)
        return Applied(self.state.applied, done, (), self.state)

    def make_room(self, sizes: Sequence[int]) -> tuple[bool, ...]:
        """Let each volume's file or device hold so many bytes (0: as it is), durably; the group's
        sizes stay. Whether each is known to read as zeros behind its present size. Raises OSError
        when one cannot."""
        self._usable()
        try:
            return tuple(
                make_room(volume, present.size, max(size, present.size))
                for volume, present, size in zip(
                    self._volumes, self.state.volumes, sizes, strict=True
                )
            )
        except SyncError as error:
            self._applier.broken = f"a volume cannot be synced: {error.strerror}"
            raise

    def checkpoint(self) -> int:
        """Make what is applied durable: every volume, the staging, then the state. Returns the
        unit up to which the journal may be released. An OSError is final."""
        self._usable()
        self._applier.persist(self.state)
        self._checkpointed = self.state.applied
        return self._checkpointed

    def make_direct(self) -> ReplicaState:
        """Give up the old consistent point: the open staged transaction is applied from now on.

        Durably INCONSISTENT before the first byte. OSError ENOSPC and the like: the next ``apply``
        goes on with it.
        """
        self._usable()
        try:
            self._applier.make_direct()
        except StagingRot as rot:
            self._broken = str(rot)
            self._applier.give_up(str(rot), self.state.applied, discard=True)
            raise ReplicaDamaged(str(rot)) from None
        return self.state

    def _apply_unit(self, upto: int) -> int:
        """Apply the next unit, one of those up to ``upto``; the bytes of its frame."""
        index = self.state.applied + 1
        if self.keeps_next:
            size = self._applier.apply_writes(index, self._kept[index])
        else:
            assert self._journal is not None
            unit = self._journal.read(index)
            try:
                self._applier.apply_unit(unit)
            except OSError as error:
                if error.errno not in NO_ROOM or not self._needs_no_staging(upto):
                    raise
                self._applier.apply_unit(unit)
            size = len(unit.frame)
        self._kept.drop(index)
        return size

    def _needs_no_staging(self, upto: int) -> bool:
        """Whether the open transaction goes on without more room for its staging: units up to
        ``upto``, all durable, say what becomes of it."""
        applier, journal = self._applier, self._journal
        if journal is None or not applier.is_staging:
            return False
        turn = self._turns.next(journal, self.state, upto)
        if isinstance(turn, End):
            return False
        if turn is not None and turn.makes_direct(self.state.transaction):
            applier.make_direct()
        elif turn is not None or applier.recovering:
            applier.superseded = True
        return turn is not None or applier.recovering


def _refuse_leftovers(directory: Directory) -> None:
    """A directory without a state must be without a journal: somebody took the state away."""
    for name in directory.names():
        if name.startswith((JOURNAL_PREFIX, STAGING_PREFIX)):
            raise StateError(
                f"there is {name} but no replica state beside it",
                "restore the file 'state', or take an empty directory and a first sync",
            )
