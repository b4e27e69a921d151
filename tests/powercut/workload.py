"""A random source for one replica store, and the plain model that says what the store must show.

The model is bytearrays: what every volume holds, what an open transaction would make of it, and the
position. ``Workload`` writes random frames, appends, syncs, applies and checkpoints in random
interleavings, kills the process or the power, and goes on with what recovery found. One rule: after
recovery at unit k the store equals the model after unit k, and k is at least the last unit that a
``sync`` promised.
"""

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random

from msgspec.structs import replace

from pratima_iscsi.blocks import BLOCK_BYTES, VOLUME_BYTES_MAX, block_count
from pratima_iscsi.edges.journal import unit_bytes
from pratima_iscsi.edges.replica_state import ReplicaState
from pratima_iscsi.edges.replica_store import ReplicaStore
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import ORIGIN, History
from pratima_iscsi.records import (
    NO_HISTORY,
    Begin,
    End,
    GenerationBegin,
    Record,
    Verify,
    make_record,
    next_history,
    seed_history,
)
from pratima_iscsi.replication.standing import Standing
from pratima_iscsi.replication.wire import BatchHeader
from tests.simulation.disk import SimDisk
from tests.support.frames import checked_frame, frame_of

GROUP = bytes(range(16))
NODE = b"n" * 16
INCARNATION = 77
SIZES = (12 * BLOCK_BYTES, 5 * BLOCK_BYTES + 1536)
CAPACITIES = (VOLUME_BYTES_MAX,) * len(SIZES)
SEGMENT_BYTES = 24 * 1024
FRAME_BYTES = 8 * 1024
MARK_BYTES = 512
"""Kept free for a unit that only carries a mark."""
SEGMENTS = 4
GROWN_BLOCKS_MAX = 16


@dataclass(slots=True)
class Model:
    """What the store must show after a unit."""

    volumes: list[bytearray]
    """The last consistent point; in a direct transaction what was applied so far."""
    view: list[bytearray] | None = None
    """What a staged transaction would make of it."""
    consistent: bool = False
    history: History = field(default_factory=lambda: History(ORIGIN))
    digest: bytes = NO_HISTORY
    n: int = 0
    transaction: int = 0
    direct: bool = False
    ended: int = 0

    @property
    def target(self) -> list[bytearray]:
        """Where the next record goes."""
        return self.volumes if self.view is None else self.view

    def count(self, record: Record) -> None:
        if not self.transaction:
            self.history = self.history.at(self.history.position.sequence + 1)
            assert record.sequence == self.history.position.sequence
            self.digest = next_history(self.digest, record.entry, record.payload)

    def standing(self) -> Standing:
        """The same as a replica's core sees it."""
        return Standing(
            group=GROUP,
            consistent=self.consistent,
            history=self.history,
            digest=self.digest,
            incarnation=INCARNATION,
            n=self.n,
            transaction=self.transaction,
            direct=self.direct,
            ended=self.ended,
            sizes=tuple(map(len, self.volumes)),
        )

    def agrees(self, state: ReplicaState) -> None:
        """Assert that ``state`` is the model's."""
        assert state.history == self.history
        assert state.digest == self.digest
        assert (state.consistent, state.n) == (self.consistent, self.n)
        assert (state.transaction, state.direct) == (self.transaction, self.direct)
        assert state.ended == self.ended
        assert [v.size for v in state.volumes] == [len(v) for v in self.volumes]
        assert not state.failed and state.committing is None
        assert bool(state.reason) != state.consistent


def check(store: ReplicaStore, disk: SimDisk, model: Model) -> None:
    """Assert that the store, fully applied, shows exactly the model."""
    model.agrees(store.state)
    for index, expected in enumerate(model.volumes):
        file = disk.directory().open(f"volume{index}")
        assert file.size == len(expected)
        assert file.pread(len(expected), 0) == expected, f"volume {index}"
        if model.view is not None:
            staging = store._applier.staging
            assert staging is not None
            assert staging.read(index, 0, len(expected)) == model.view[index], f"view {index}"


_salts = Random(0)
"""Salts must never come again: with the same ones a torn tail rises from the dead."""


def open_store(disk: SimDisk, *, segments: int = SEGMENTS) -> ReplicaStore:
    """Recover what is on ``disk``."""
    directory = disk.directory()
    return ReplicaStore.open(
        directory,
        [directory.open(f"volume{index}") for index in range(len(SIZES))],
        segment_bytes=SEGMENT_BYTES,
        journal_bytes=segments * SEGMENT_BYTES,
        reserve_bytes=0,
        clock=lambda: 1,
        random_bytes=_salts.randbytes,
    )


class Frames:
    """Random frames that a correct source could send, each with the model after it."""

    def __init__(self, rng: Random, model: Model) -> None:
        self.rng = rng
        self.model = model
        self.ids = 0
        self.answers: dict[int, tuple[int, ...]] = {}
        """What each VERIFY must find."""

    def next(self) -> bytearray:
        """One frame; ``model`` is moved on."""
        model = self.model = copy.deepcopy(self.model)
        first_n = model.n + 1
        records: list[Record] = []
        if not model.transaction and model.consistent and self.rng.random() < 0.1:
            records.append(self._generation())
        generation = model.history.position.generation
        for _ in range(self.rng.randrange(1, 6)):
            records.append(self._record())
            full = sum(len(record.payload) for record in records) > FRAME_BYTES
            if full or records[-1].kind == RecordKind.END:
                break
        model.n += len(records)
        header = BatchHeader(GROUP, b"s" * 16, INCARNATION, first_n, generation)
        return frame_of(header, records)

    def _record(self) -> Record:
        rng, model = self.rng, self.model
        if not model.transaction and not model.consistent:
            return self._begin(direct=True)
        if model.transaction:
            if rng.random() < 0.04:
                return self._end()
            if rng.random() < 0.015:
                return self._begin(direct=rng.random() < 0.3 or not model.consistent)
            if model.view is not None and rng.random() < 0.01:
                return self._turn_direct()
            kinds = [self._write, self._zero, self._resync, self._resync, self._resync_zero]
            kinds += [self._verify, self._flush, self._bookmark]
        else:
            if rng.random() < 0.08:
                return self._begin(direct=rng.random() < 0.2)
            kinds = [self._write, self._write, self._write, self._zero, self._verify]
            kinds += [self._flush, self._bookmark, self._resize]
        return rng.choice(kinds)()

    def _next_sequence(self) -> int:
        if self.model.transaction:
            return self.rng.randrange(1, 1 << 40)
        return self.model.history.position.sequence + 1

    def _span(self) -> tuple[int, int, int]:
        volume = self.rng.randrange(len(SIZES))
        size = len(self.model.volumes[volume])
        offset = self.rng.randrange(size // 512) * 512
        length = min(size - offset, self.rng.choice((512, 512, 1024, 4096, 6144)))
        if self.rng.random() < 0.5:
            offset = offset // BLOCK_BYTES * BLOCK_BYTES
        return volume, offset, length

    def _blocks(self, most: int) -> tuple[int, int, int]:
        volume = self.rng.randrange(len(SIZES))
        size = len(self.model.volumes[volume])
        first = self.rng.randrange(block_count(size))
        offset = first * BLOCK_BYTES
        return volume, offset, min(size - offset, self.rng.randrange(1, most + 1) * BLOCK_BYTES)

    def _put(self, volume: int, offset: int, data: bytes) -> None:
        self.model.target[volume][offset : offset + len(data)] = data

    def _write(self) -> Record:
        volume, offset, length = self._span()
        data = self.rng.randbytes(length)
        record = make_record(RecordKind.WRITE, volume, offset, length, data, self._next_sequence())
        self._put(volume, offset, data)
        self.model.count(record)
        return record

    def _zero(self) -> Record:
        volume, offset, length = self._span()
        if self.rng.random() < 0.3:
            length = len(self.model.volumes[volume]) - offset
        record = make_record(RecordKind.ZERO, volume, offset, length, b"", self._next_sequence())
        self._put(volume, offset, bytes(length))
        self.model.count(record)
        return record

    def _resync(self) -> Record:
        volume, offset, length = self._blocks(2)
        data = self.rng.randbytes(length)
        self._put(volume, offset, data)
        return make_record(RecordKind.RESYNC, volume, offset, length, data)

    def _resync_zero(self) -> Record:
        volume, offset, length = self._blocks(6)
        self._put(volume, offset, bytes(length))
        return make_record(RecordKind.RESYNC_ZERO, volume, offset, length)

    def _flush(self) -> Record:
        return make_record(RecordKind.FLUSH)

    def _bookmark(self) -> Record:
        record = make_record(
            RecordKind.BOOKMARK, payload=b"a point", sequence=self._next_sequence()
        )
        self.model.count(record)
        return record

    def _resize(self) -> Record:
        volume = self.rng.randrange(len(SIZES))
        size = self._grow(volume)
        record = make_record(RecordKind.RESIZE, volume, 0, size, sequence=self._next_sequence())
        self.model.count(record)
        return record

    def _grow(self, volume: int) -> int:
        old = len(self.model.volumes[volume])
        size = min(old + self.rng.randrange(4) * 512, GROWN_BLOCKS_MAX * BLOCK_BYTES)
        self.model.volumes[volume].extend(bytes(size - old))
        return size

    def _generation(self) -> Record:
        here = self.model.history.position
        self.ids += 1
        generation = self.rng.getrandbits(63) | 1
        begin = GenerationBegin(generation, here.generation, here.sequence)
        self.model.history = self.model.history.begin(generation)
        self.model.digest = seed_history(generation, self.model.digest)
        return make_record(RecordKind.GENERATION, payload=begin.encode())

    def _begin(self, *, direct: bool) -> Record:
        model = self.model
        model.transaction, model.direct = self.rng.getrandbits(64) | 1, direct
        sizes: tuple[int, ...] = ()
        if self.rng.random() < 0.5:
            sizes = tuple(map(self._grow, range(len(SIZES))))
        model.view = None if direct else copy.deepcopy(model.volumes)
        model.consistent = model.consistent and not direct
        payload = Begin(model.transaction, direct, sizes).encode()
        return make_record(RecordKind.BEGIN, payload=payload)

    def _turn_direct(self) -> Record:
        """The operator gives up the old consistent point in the middle of a transaction."""
        model = self.model
        assert model.view is not None
        model.volumes, model.view = model.view, None
        model.direct, model.consistent = True, False
        return make_record(RecordKind.BEGIN, payload=Begin(model.transaction, True).encode())

    def _end(self) -> Record:
        model = self.model
        history = model.history
        if history.position == ORIGIN or self.rng.random() < 0.2:
            history = history.begin(self.rng.getrandbits(63) | 1)
        history = history.at(history.position.sequence + self.rng.randrange(5))
        digest = self.rng.randbytes(16)
        payload = End(model.transaction, history, digest).encode()
        model.history, model.digest, model.ended = history, digest, model.transaction
        if model.view is not None:
            model.volumes, model.view = model.view, None
        model.transaction, model.direct, model.consistent = 0, False, True
        return make_record(RecordKind.END, payload=payload)

    def _verify(self) -> Record:
        volume, offset, length = self._blocks(4)
        key = self.rng.randbytes(16)
        digests, differing = [], []
        for block, at in enumerate(range(offset, offset + length, BLOCK_BYTES)):
            data = bytes(self.model.target[volume][at : min(at + BLOCK_BYTES, offset + length)])
            if self.rng.random() < 0.3:
                data = bytes([data[0] ^ 1]) + data[1:]
                differing.append(block)
            digests.append(blake2b(data, digest_size=16, key=key).digest())
        self.ids += 1
        self.answers[self.ids] = tuple(differing)
        payload = Verify(self.ids, key, b"".join(digests)).encode()
        return make_record(RecordKind.VERIFY, volume, offset, length, payload)


class Cut(BaseException):
    """The process ends here, at whatever it was about to do."""


@dataclass(slots=True)
class Image:
    """A disk as a power cut or a kill left it, and what had been promised by then."""

    disk: SimDisk
    promised: int
    models: dict[int, Model]
    """What the store must show, by unit."""
    made_at: str


class Workload:
    """A store under random load on ``disk``. ``look`` is called before every change of the disk."""

    def __init__(self, seed: int | str, look: Callable[[str], None] | None = None) -> None:
        self.rng = Random(seed)
        self.look = look
        self.disk = SimDisk()
        directory = self.disk.directory()
        volumes = []
        for index, size in enumerate(SIZES):
            file = directory.open(f"volume{index}", create=True)
            file.truncate(size)
            file.pwrite(self.rng.randbytes(size // 2), 0)
            file.fdatasync()
            volumes.append(bytearray(file.pread(size, 0)))
        directory.sync()
        self.models: dict[int, Model] = {0: Model(volumes)}
        self.frames = Frames(self.rng, self.models[0])
        self.promised = 0
        self.last = 0
        """The last unit that was appended."""
        self.released = 0
        self.failures = 0
        self.store = open_store(self.disk)
        self.store.bind(GROUP, "group", [(f"v{i}", size) for i, size in enumerate(SIZES)], NODE)
        self._watch()

    def _watch(self) -> None:
        if self.look is not None:
            look = self.look
            self.disk.faults.before = lambda operation, name: look(f"{operation} {name}")

    def run(self, steps: int, restarts: float = 0.0) -> None:
        """Take ``steps`` random steps; ``restarts``: how likely each is to kill the replica."""
        for _ in range(steps):
            if self.rng.random() < restarts:
                self.restart(power_cut=self.rng.random() < 0.6)
            try:
                self.step()
            except OSError:
                self.failures += 1
                self.restart(power_cut=self.rng.random() < 0.3)

    def step(self) -> None:
        """One random call."""
        rng, store = self.rng, self.store
        choice = rng.random()
        if choice < 0.45:
            self.append(self.frames.next())
        elif choice < 0.5:
            self.append(None)
        elif choice < 0.7:
            self.promised = store.sync()
            assert self.promised == self.last
        elif choice < 0.88:
            self.apply(rng.randrange(store.state.applied, store.applicable + 1))
        elif choice < 0.97:
            self.released = store.checkpoint()
        else:
            store.release(self.released)

    def append(self, frame: bytearray | None) -> None:
        """Append one unit, making room for it where the quota is used up."""
        size = unit_bytes(len(frame or b""))
        try:
            while self.store.journal_room() < size + MARK_BYTES:
                self.make_room()
            self._append(frame)
        except OSError:
            self.frames.model = self.models[self.last]  # it was not sent, then
            raise

    def _append(self, frame: bytearray | None) -> None:
        index = self.last + 1
        before = self.models[self.last]
        self.models[index] = before if frame is None else self.frames.model
        # Every other frame is kept in memory, as a replica's are, and the others are read back.
        keep = frame is not None and index % 2
        taken = checked_frame(frame, before.standing(), CAPACITIES) if keep else frame
        assert self.store.append(taken, self.store.durable) == index
        self.last = index

    def make_room(self) -> None:
        """What a full journal needs: all made durable and marked so, applied and released. The
        unit that carries the mark has its room, for nothing else ever takes it."""
        self.promised = self.store.sync()
        self._append(None)
        self.promised = self.store.sync()
        self.apply(self.store.applicable)
        self.released = self.store.checkpoint()
        self.store.release(self.released)

    def apply(self, upto: int) -> None:
        """Apply up to a unit and compare state and answers."""
        state = self.store.state
        while state.applied < upto:
            applied = self.store.apply(upto, self.rng.choice((1, 4096, 1 << 20)))
            state = applied.state
            assert applied.index == state.applied <= upto
            model = self.models[state.applied]
            # Without room to stage, a transaction is direct as soon as a durable BEGIN says so.
            if not (state.direct and model.view is not None):
                model.agrees(state)
            for answer in applied.answers:
                assert answer.differing == self.frames.answers[answer.verify]

    def finish(self) -> None:
        """Bring everything to the volumes and compare all of it."""
        self.promised = self.store.sync()
        self.append(None)
        self.promised = self.store.sync()
        self.apply(self.store.applicable)
        check(self.store, self.disk, self.models[self.store.state.applied])

    def image(self, power_cut: bool, made_at: str) -> Image:
        """What would be left if the replica died now."""
        return Image(dead(self.disk, self.rng, power_cut), self.promised, self.models, made_at)

    def restart(self, *, power_cut: bool) -> None:
        """The replica dies, recovers (dying in that once more), and goes on from there."""
        self.store.close()
        image = self.image(power_cut, "restart")
        self.disk, self.store = recovered(image, self.rng)
        state = self.store.state
        assert self.promised <= state.applied
        check(self.store, self.disk, self.models[state.applied])
        self.last = self.promised = self.released = state.applied
        self.models = {i: model for i, model in self.models.items() if i <= state.applied}
        self.frames.model = self.models[state.applied]
        self._watch()


def dead(disk: SimDisk, rng: Random, power_cut: bool) -> SimDisk:
    """What is left of ``disk`` after a power cut or a kill."""
    return disk.power_cut(rng) if power_cut else disk.crash()


def recovered(image: Image, rng: Random, deaths: int = 2) -> tuple[SimDisk, ReplicaStore]:
    """Recover an image, cut off up to ``deaths`` times at a random operation of the recovery."""
    disk = image.disk
    for _ in range(rng.randrange(deaths + 1)):
        left = rng.randrange(60)

        def count_down(operation: str, name: str) -> None:
            nonlocal left
            if operation == "pread":
                return
            if not left:
                raise Cut
            left -= 1

        disk.faults.before = count_down
        with suppress(Cut, OSError):
            open_store(disk).close()
        disk.faults.before = None
        disk = dead(disk, rng, rng.random() < 0.8)
    return disk, open_store(disk)


def verify_image(image: Image, rng: Random) -> None:
    """Recover ``image`` and hold it against the models; a second recovery changes nothing."""
    disk, store = recovered(image, rng)
    applied = store.state.applied
    assert applied >= image.promised, image.made_at
    check(store, disk, image.models[applied])
    store.close()
    again = open_store(disk)
    assert replace(again.state, heard_ns=0, durable=0) == replace(
        store.state, heard_ns=0, durable=0
    )
    check(again, disk, image.models[applied])
    again.close()
