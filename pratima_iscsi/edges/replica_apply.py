"""How records of the journal become blocks of the volumes, or of the staging, and a new state.

Every record is a physical redo: applied again after a crash, in order, it gives the same bytes. So
between two checkpoints volumes and staging may run ahead of the durable state, and recovery, which
applies everything after that state once more, ends where it would have ended.

A state is made durable (``persist``) only after all that it speaks of: the volumes first, then the
staging, then the state. Three moments persist by themselves, in the middle of a unit if need be:
BEGIN (the older staging is freed, and a direct transaction makes the replica INCONSISTENT before
its first byte), END (a staged one is first committed in the state, then copied), and a change from
staged to direct. ``ReplicaState.skip`` says how many records of the next unit that covers.

One rule: the state in memory never speaks of a record that is not applied whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from msgspec.structs import replace

from pratima_iscsi.blocks import BLOCK_BYTES, VOLUME_BYTES_MAX
from pratima_iscsi.edges.files import Directory, File
from pratima_iscsi.edges.journal import Unit
from pratima_iscsi.edges.replica_state import Commit, ReplicaState, ReplicaVolume, StateFile
from pratima_iscsi.edges.staging import PREFIX, Staging
from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.operations import COUNTED, RecordKind
from pratima_iscsi.records import (
    VERIFY_DIGEST_BYTES,
    Begin,
    End,
    GenerationBegin,
    Verify,
    next_history,
    seed_history,
)
from pratima_iscsi.replication.record_rules import check
from pratima_iscsi.replication.standing import CheckedFrame
from pratima_iscsi.replication.wire import Batch, Entry, decode_batch

_TURNING: Final = frozenset({RecordKind.GENERATION, RecordKind.BEGIN, RecordKind.END})


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The answer to one VERIFY record: the blocks that differ, relative to its first."""

    transaction: int
    verify: int
    differing: tuple[int, ...]


class Applier:
    """The volumes, the staging and the state of one bound group; one thread at a time."""

    def __init__(
        self,
        directory: Directory,
        volumes: Sequence[File],
        state_file: StateFile,
        *,
        staging_bytes: int,
        reserve_bytes: int,
        durable: Callable[[], int],
    ) -> None:
        """``durable`` tells the last journal unit that is known to be durable."""
        self.state: ReplicaState = state_file.state
        self.staging: Staging | None = None
        self.answers: list[VerifyResult] = []
        """Not yet taken by ``take_answers``; bounded by what one apply call reads."""
        self.superseded = False
        """A newer BEGIN is known to follow: what the open transaction still brings is passed over,
        since that BEGIN frees it."""
        self.recovering = True
        """Whether what a file shows may not be what its disk holds (after a failed fdatasync)."""
        self.heard_ns = self.state.heard_ns
        self.broken = ""
        """Why nothing more may be made durable before a new recovery."""
        self._directory = directory
        self._volumes = volumes
        self._state_file = state_file
        self._staging_bytes = staging_bytes
        self._reserve_bytes = reserve_bytes
        self._durable = durable

    def take_answers(self) -> tuple[VerifyResult, ...]:
        """The answers to VERIFY records since the last call."""
        taken = tuple(self.answers)
        self.answers.clear()
        return taken

    # --- durability ----------------------------------------------------------------------------

    def load_staging(self) -> None:
        """Take up the staging that the state names; raises StagingRot."""
        state = self.state
        if state.transaction and (state.staging or not state.direct):
            self.staging = self._new_staging(state.transaction)
            if state.staging:
                self.staging.load(state.staging)

    def persist(self, state: ReplicaState) -> None:
        """Make all that ``state`` speaks of durable, then ``state``.

        After an OSError nobody knows what is durable: only a new recovery can tell.
        """
        try:
            for volume in self._volumes:
                volume.fdatasync()
            number = self.staging.checkpoint() if self.staging else 0
            state = replace(state, staging=number, durable=self._durable(), heard_ns=self.heard_ns)
            self._state_file.save(state)
            self.state = state
            if self.staging:
                self.staging.settle()
        except OSError as error:
            self.broken = f"a checkpoint failed: {error.strerror}"
            raise

    def remove_old_staging(self) -> None:
        """Delete staging files of transactions that are over."""
        mine = self.staging.prefix if self.staging else None
        for name in self._directory.names():
            if name.startswith(PREFIX) and not (mine and name.startswith(mine)):
                self._directory.unlink(name)

    def finish(self) -> None:
        """Bring a staging that is to be applied onto the volumes: after END, or when its
        transaction has become direct. Raises StagingRot; after an OSError it may be tried again."""
        state = self.state
        if self.staging is None or not (state.committing or state.direct):
            return
        for volume in range(len(self._volumes)):
            self.staging.copy_out(volume)
        self._close_staging()
        if state.committing:
            end = End(state.transaction, state.committing.history, state.committing.digest)
            state = _ended(replace(state, committing=None), end)
        self.persist(state)
        self.remove_old_staging()

    @property
    def is_staging(self) -> bool:
        """Whether a staged transaction is open, and not being brought onto the volumes."""
        return self.staging is not None and not (self.state.direct or self.state.committing)

    def make_direct(self) -> None:
        """Give up the old consistent point of a staged transaction: apply it from now on."""
        assert self.state.transaction and not self.state.direct
        self.persist(_direct(self.state, self.state.transaction))
        self.finish()

    def abandon(self) -> None:
        """Forget the open staged transaction, durably: the old consistent point stays, and a source
        that asks is told that nothing is open here. Its files are then ``remove_old_staging``'s."""
        assert self.is_staging
        self._close_staging()
        self.persist(replace(self.state, transaction=0))

    def give_up(self, reason: str, applied: int, *, discard: bool = False) -> None:
        """Be INCONSISTENT for ``reason``, with no transaction and nothing staged; the journal up to
        ``applied`` counts as applied, with ``discard`` the next recovery throws it away."""
        self._close_staging()
        self.persist(
            replace(
                self.state,
                consistent=False,
                reason=reason,
                transaction=0,
                direct=False,
                committing=None,
                applied=applied,
                skip=0,
                discard=discard,
            )
        )

    def close(self) -> None:
        """Release the staging's files."""
        self._close_staging()

    def _new_staging(self, transaction: int) -> Staging:
        return Staging(
            self._directory,
            transaction,
            self._volumes,
            quota_bytes=self._staging_bytes,
            reserve_bytes=self._reserve_bytes,
        )

    def _close_staging(self) -> None:
        self.superseded = False
        if self.staging is not None:
            self.staging.close()
            self.staging = None

    # --- records -------------------------------------------------------------------------------

    def apply_unit(self, unit: Unit) -> None:
        """Apply the unit after ``state.applied``; for errors see ``_apply_batch``."""
        assert unit.index == self.state.applied + 1
        if unit.frame:
            self._apply_batch(decode_batch(memoryview(unit.frame)))
            self.heard_ns = max(self.heard_ns, unit.wall_ns)
        self.state = replace(self.state, applied=unit.index, skip=0)

    def follows(self, unit: CheckedFrame | None) -> bool:
        """Whether a unit of writes was checked behind the very state that there is."""
        state = self.state
        if state.skip:
            return False
        at_rest = state.consistent and not state.transaction
        return unit is None or (at_rest and unit.before == state.digest)

    def apply_writes(self, index: int, unit: CheckedFrame | None) -> int:
        """Apply unit ``index``, which ``follows``; the bytes of its frame. After an OSError the
        state is as before, and the whole unit is applied anew."""
        assert index == self.state.applied + 1
        if unit is None:
            self.state = replace(self.state, applied=index)
            return 0
        for entry in unit.writes:
            self._volumes[entry.volume].pwrite(entry.payload, entry.offset)
        after = unit.after
        self.state = replace(
            self.state,
            applied=index,
            history=after.history,
            digest=after.digest,
            incarnation=after.incarnation,
            n=after.n,
        )
        return len(unit.frame)

    def _apply_batch(self, batch: Batch) -> None:
        """Apply the records of a unit after those that ``state.skip`` covers.

        Raises RemoteProtocolError for a record that must not stand here, OSError for one that
        cannot be applied now: the state is then that before the record, which is applied anew by
        the next call.
        """
        header = batch.header
        if header.group != self.state.group:
            raise RemoteProtocolError("a frame of another group")
        hot = _Hot(self.state)
        try:
            for index in range(self.state.skip, len(batch.entries)):
                entry = batch.entries[index]
                check(entry, hot, header.generation)
                n = header.first_n + index
                if entry.kind in _TURNING:
                    self.state = hot.into(self.state)
                    try:
                        self._turn(entry, header.incarnation, n)
                    finally:
                        hot = _Hot(self.state)
                    continue
                if entry.length:
                    self._apply(entry)
                    if entry.kind == RecordKind.RESIZE:
                        hot.sizes[entry.volume] = entry.length
                if entry.kind in COUNTED and not self.state.transaction:
                    hot.sequence += 1
                    hot.digest = next_history(hot.digest, entry.entry, entry.payload)
                hot.incarnation, hot.n, hot.skip = header.incarnation, n, index + 1
        finally:
            self.state = hot.into(self.state)

    def _apply(self, entry: Entry) -> None:
        kind = entry.kind
        if self.superseded and kind != RecordKind.RESIZE:
            return
        if kind == RecordKind.WRITE or kind == RecordKind.RESYNC:
            if self.staging is not None:
                self.staging.write(entry.volume, entry.offset, entry.payload)
            else:
                self._volumes[entry.volume].pwrite(entry.payload, entry.offset)
        elif kind == RecordKind.ZERO or kind == RecordKind.RESYNC_ZERO:
            self._zero(entry)
        elif kind == RecordKind.VERIFY:
            self._verify(entry)
        elif kind == RecordKind.RESIZE:
            self._resize(entry.volume, entry.length)

    def _zero(self, entry: Entry) -> None:
        volume, offset, length = self._volumes[entry.volume], entry.offset, entry.length
        if self.staging is not None:
            self.staging.zero(entry.volume, offset, length)
        elif self.recovering or entry.kind == RecordKind.ZERO or not volume.is_hole(offset, length):
            volume.punch(offset, length)

    def _verify(self, entry: Entry) -> None:
        blocks = -(-entry.length // BLOCK_BYTES)
        verify = Verify.decode(entry.payload, blocks)
        if self.staging is not None:
            view = self.staging.read(entry.volume, entry.offset, entry.length)
        else:
            view = self._volumes[entry.volume].pread(entry.length, entry.offset)
        differing = tuple(
            block
            for block in range(blocks)
            if blake2b(
                view[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES],
                digest_size=VERIFY_DIGEST_BYTES,
                key=verify.key,
            ).digest()
            != verify.digests[block * VERIFY_DIGEST_BYTES : (block + 1) * VERIFY_DIGEST_BYTES]
        )
        self.answers.append(VerifyResult(self.state.transaction, verify.verify, differing))

    def _resize(self, index: int, size: int) -> None:
        """Grow a volume, at once also in a transaction: what is added reads as zeros, or is about
        to be brought over."""
        sizes = [volume.size for volume in self.state.volumes]
        sizes[index] = size
        self.state = self._resized(self.state, sizes)

    def _resized(self, state: ReplicaState, sizes: Sequence[int]) -> ReplicaState:
        """``state`` with volumes of these sizes, which their files have."""
        for file, size in zip(self._volumes, sizes, strict=True):
            if file.size < size:
                file.truncate(size)
        volumes = tuple(
            ReplicaVolume(volume.name, size)
            for volume, size in zip(state.volumes, sizes, strict=True)
        )
        return replace(state, volumes=volumes)

    def _turn(self, entry: Entry, incarnation: int, n: int) -> None:
        """A record after which the state is another one."""
        after = replace(self.state, incarnation=incarnation, n=n, skip=self.state.skip + 1)
        if entry.kind == RecordKind.GENERATION:
            if not after.transaction:
                generation = GenerationBegin.decode(entry.payload).generation
                history = after.history.begin(generation)
                digest = seed_history(generation, after.digest)
                after = replace(after, history=history, digest=digest)
            self.state = after
        elif entry.kind == RecordKind.BEGIN:
            self._begin(Begin.decode(entry.payload), after)
        else:
            self._end(End.decode(entry.payload), after)

    def _begin(self, begin: Begin, after: ReplicaState) -> None:
        if begin.sizes:
            after = self._resized(after, begin.sizes)
        if begin.makes_direct(after.transaction) and self.staging is not None:
            self.persist(_direct(after, begin.transaction))
            self.finish()
            return
        self._close_staging()
        if begin.direct:
            after = _direct(after, begin.transaction)
        else:
            self.staging = self._new_staging(begin.transaction)
            after = replace(after, transaction=begin.transaction, direct=False)
        self.persist(after)
        self.remove_old_staging()

    def _end(self, end: End, after: ReplicaState) -> None:
        assert not self.superseded, "no END stands between a transaction and what supersedes it"
        if after.direct:
            self.persist(_ended(after, end))
            return
        self.persist(replace(after, committing=Commit(end.history, end.digest)))
        self.finish()


class _Hot:
    """The fields that change with every record, kept apart so that a record costs no new state;
    and what else the record rules ask of the place where it stands."""

    __slots__ = (
        "capacities",
        "consistent",
        "digest",
        "generation",
        "incarnation",
        "n",
        "sequence",
        "sizes",
        "skip",
        "transaction",
    )

    def __init__(self, state: ReplicaState) -> None:
        self.sequence = state.history.position.sequence
        self.digest = state.digest
        self.incarnation = state.incarnation
        self.n = state.n
        self.skip = state.skip
        self.generation = state.history.position.generation
        self.transaction = state.transaction
        self.consistent = state.consistent
        self.sizes = [volume.size for volume in state.volumes]
        self.capacities = [VOLUME_BYTES_MAX for _ in state.volumes]
        """A file is made as long as its journal says: there was room when that was written."""

    def into(self, state: ReplicaState) -> ReplicaState:
        """``state`` with these fields."""
        return replace(
            state,
            history=state.history.at(self.sequence),
            digest=self.digest,
            incarnation=self.incarnation,
            n=self.n,
            skip=self.skip,
        )


def _direct(state: ReplicaState, transaction: int) -> ReplicaState:
    """``state`` with a direct transaction open: INCONSISTENT until its END."""
    return replace(
        state,
        transaction=transaction,
        direct=True,
        consistent=False,
        reason=f"transaction {transaction:016x} is applied directly and has not ended",
    )


def _ended(state: ReplicaState, end: End) -> ReplicaState:
    """``state`` after ``end``: consistent where END says."""
    return replace(
        state,
        transaction=0,
        direct=False,
        consistent=True,
        reason="",
        history=end.history,
        digest=end.digest,
        ended=end.transaction,
    )
