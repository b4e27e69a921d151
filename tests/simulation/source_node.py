"""A simulated primary: the real Backstore, on a simulated disk, network and state store."""

import errno
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.blocks import BLOCK_BYTES, BlockRange
from pratima_iscsi.edges.growth import make_room
from pratima_iscsi.errors import OperatorError
from pratima_iscsi.frame_memory import FrameMemories
from pratima_iscsi.operations import Operation, RecordKind
from pratima_iscsi.positions import NO_GENERATION, NO_RECORD, ORIGIN, Position
from pratima_iscsi.records import NO_HISTORY, End, Record, make_record
from pratima_iscsi.replication import effects as fx
from pratima_iscsi.replication.messages import Message, VolumeOffer
from pratima_iscsi.replication.source_state import SourceState, StopKind, VolumeState
from pratima_iscsi.replication.states import Connection
from tests.simulation.disk import SimDisk
from tests.simulation.network import TO_REPLICA, Channel, Network
from tests.simulation.replica_node import extend
from tests.simulation.timers import Restless
from tests.simulation.versions import Versions
from tests.simulation.world import Node, World

FRAME_BYTES: Final = 8 << 10
"""Of payload that is laid out for one frame: batches are small here."""


class Store:
    """The primary's durable state: identity, history, clean mark, degraded marks."""

    def __init__(self, state: SourceState) -> None:
        self.state = state
        self.degraded: dict[str, bool] = {}

    def load(self, stop: StopKind) -> SourceState:
        """The state as the next start finds it: tables only after a clean stop."""
        links = []
        for saved in self.state.links:
            link = replace(saved, degraded=self.degraded.get(saved.name, True))
            if stop is not StopKind.CLEAN:
                link = replace(
                    link,
                    table=(),
                    unverified=(),
                    acknowledged=NO_RECORD,
                    sender=0,
                    direct_transaction=0,
                    base=ORIGIN,
                    base_history=NO_HISTORY,
                )
            links.append(link)
        return replace(self.state, stop=stop, links=tuple(links))

    def copy(self) -> "Store":
        """What a backup of the state would hold."""
        copy = Store(self.state)
        copy.degraded = dict(self.degraded)
        return copy


class Far(Protocol):
    """The other end of one link, and what the simulator keeps of it."""

    network: Network
    exact: bool

    def control(self, message: Message) -> None:
        """A control message for the replica."""

    def frame(self, frame: bytes) -> None:
        """A frame for the replica."""

    def generation_began(self, generation: int, images: list[bytes]) -> None:
        """A generation began on these images."""

    def admitted(self, generation: int, record: Record, tail: bytes) -> None:
        """A write was admitted; ``tail``: what a RESIZE brings to light."""

    def check_room(self, volume: int, size: int) -> None:
        """A volume is about to grow."""

    def ended(self, position: Position, images: list[bytes]) -> None:
        """END was appended."""

    def spilled(self) -> None:
        """A clean stop has stored what the primary knows."""


class SourceNode(Node):
    """One life after the other of a primary."""

    def __init__(
        self, world: World, options: GroupOptions, disk: SimDisk, store: Store, *, slow: bool
    ) -> None:
        super().__init__(world, "source")
        self.options = options
        """Its volumes as they were before any of them grew."""
        self.disk = disk
        self.store = store
        self.slow = slow
        self.far: list[Far] = []
        self.backstore: Backstore
        self.images: list[bytearray] = []
        self.touched: set[tuple[int, int]] = set()
        self.on_complete: Callable[[Operation], None] = lambda operation: None
        self.on_grown: Callable[[int, int], None] = lambda volume, size: None
        self.later_allowed = False
        """The growth under way does not wait for a replica that cannot be asked."""
        self.unasked: set[int] = set()
        """Links that were disabled when a growth began: their replicas grow when they are back."""
        self.growths: list[tuple[int, int, OperatorError | None]] = []
        """What came of each growth: volume, size, and why not."""
        self.on_report: Callable[[fx.Report], None] = lambda report: None
        self.reports: list[fx.Report] = []
        self.restless = Restless()
        self.read_seconds = 0.003
        """What a read off the loop takes, about."""
        self.job_seconds = 0.001
        """What a job of a slow volume takes, about."""
        self.no_room = 0.05
        """How likely a growth finds no room."""
        self.cold = False
        """Whether the page cache holds nothing that a closing sweep looks for."""
        self.fail_writes = 0
        self.fail_flushes = 0
        self.unreadable: set[tuple[int, int]] = set()
        """Blocks whose reads fail."""
        self.versions: Versions | None = None
        self.channels: dict[int, Channel] = {}
        self.stopped_clean = False
        self.other_boot = False
        """Nothing was stored since the power was lost: what is stored is of another boot."""
        self.tick_at = float("inf")
        self._jobs: deque[Callable[[], None]] = deque()
        self._seen_ends: dict[int, Record | None] = {}
        self.written: set[int] = set()
        """Operations (by id) that the local volume holds and that have not completed."""
        self._asked: dict[int, bytes] = {}
        """What the host wrote, of operations (by id) that were laid out and not yet admitted."""

    # --- life ----------------------------------------------------------------------------------

    def start(self, stop: StopKind) -> None:
        """Come up after ``stop``."""
        self.alive = True
        self.life += 1
        directory = self.disk.directory()
        volumes = self.remembered()
        self.files = [directory.open(f"v{i}") for i in range(len(volumes))]
        self.images = [
            bytearray(file.pread(volume.size, 0))
            for file, volume in zip(self.files, volumes, strict=True)
        ]
        if stop is not StopKind.CRASHED or self.versions is None:
            self.versions = Versions(self.images)
        else:
            self.versions.cover(self.images)
        self.tick_at = float("inf")
        self.written.clear()
        self.channels.clear()
        self._jobs.clear()
        self._asked.clear()
        rng = self.world.rng
        self.backstore = Backstore(
            replace(self.options, volumes=volumes),
            self.store.load(stop),
            new_id=lambda: rng.getrandbits(64) or 1,
        )
        if stop is StopKind.POWER_LOST:
            # The loss is stored when it is found, so that a crash on this boot is a crash.
            self.store.state = replace(self.store.state, links=self.backstore.link_flags())
            self.other_boot = False
        self.backstore.log.memories = FrameMemories(FRAME_BYTES, FRAME_BYTES)
        generation = self.backstore.history.position.generation
        for far in self.far:
            far.exact = far.exact or stop is not StopKind.CLEAN
            if generation == NO_GENERATION and self.store.state.volumes:
                far.exact = False  # it may have grown without a record of that
            if stop not in (StopKind.CLEAN, StopKind.NONE) and generation != NO_GENERATION:
                # What the primary has now is the truth, partial writes and all (PROTOCOL 13).
                far.generation_began(generation, [bytes(image) for image in self.images])
        self.world.trace("source", f"starts after {stop.name}")
        self.after_event()

    def remembered(self) -> tuple[VolumeOffer, ...]:
        """The volumes with the sizes that the next start finds."""
        known = {volume.name: volume.size for volume in self.store.state.volumes}
        return tuple(
            VolumeOffer(volume.name, known.get(volume.name, volume.size))
            for volume in self.options.volumes
        )

    def crash(self, *, power: bool) -> None:
        """Die now; with ``power`` the unsynced part of the volume is cut, too."""
        self.world.trace("source", "POWER CUT" if power else "KILLED")
        self.die()
        self._jobs.clear()
        for far in self.far:
            far.network.reset("the primary died")
        if not power:
            self.disk = self.disk.crash()
            return
        self.other_boot = True
        self.disk = self.disk.power_cut(self.world.rng)
        directory = self.disk.directory()
        assert self.versions is not None
        for index, image in enumerate(self.images):
            self.versions.check(index, directory.open(f"v{index}").pread(len(image), 0))

    def stop(self) -> None:
        """Ask for a clean stop; it ends when all is settled, or after CLEAN_STOP_SECONDS."""
        self.backstore.begin_stop()
        self._await_stop(self.world.now + 5.0)

    def _await_stop(self, deadline: float) -> None:
        backstore = self.backstore
        if not backstore.settled or (not backstore.quiet and self.world.now < deadline):
            self.later(0.05, lambda: self._await_stop(deadline))
            return
        for file in self.files:
            file.fdatasync()
        if not backstore.volume_failed:
            volumes = [VolumeState(v.name, v.size) for v in backstore.options.volumes]
            self.store.state = backstore.snapshot(volumes, "boot")
            self.stopped_clean, self.other_boot = True, False
            for far in self.far:
                far.spilled()
        self.world.trace("source", f"stopped, clean: {self.stopped_clean}")
        self.die()
        for far in self.far:
            far.network.reset("the primary stopped")

    # --- events --------------------------------------------------------------------------------

    def submit(self, operations: list[Operation]) -> None:
        """Operations of the initiator arrive."""
        log = self.backstore.log
        for operation in operations:
            if log.lays_out and operation.kind == RecordKind.WRITE:
                data = self._asked[id(operation)] = bytes(operation.payload)
                log.lay_out(operation, memoryview(data))
        self.backstore.submit(operations, self.world.now)

    def control(self, link: int, message: Message) -> None:
        """A control message of link ``link``'s replica arrives."""
        if self.alive:
            backstore = self.backstore
            self.later(0.0, lambda: backstore.control(link, message, self.world.now))

    def after_event(self) -> None:
        """Carry out the effects, then see to the next tick."""
        if not self.alive:
            return
        backstore = self.backstore
        while True:
            while todo := backstore.take_effects():
                for effect in todo:
                    if isinstance(effect, fx.WriteLocal):
                        self._note_admitted(effect, backstore)
                self._note_ends(backstore)
                for effect in todo:
                    self._carry_out(effect, backstore)
            backstore.pump(self.world.now)
            if not backstore.effects:
                break
        now = self.world.now
        due = backstore.next_timer(now)
        self.restless.check(due, now)
        due = max(due, now + 0.0005)
        if due < self.tick_at - 1e-9 or self.tick_at <= now:
            self.tick_at = due
            self.later(due - now, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self.tick_at == due:
            self.tick_at = float("inf")
            self.restless.ticked = True
            self.backstore.tick(self.world.now)

    def _note_ends(self, backstore: Backstore) -> None:
        """END was appended: what it promises is the primary's image at this moment."""
        for index, link in enumerate(backstore.links):
            transaction = link.transaction
            end = transaction.end if transaction is not None else None
            if end is None or end is self._seen_ends.get(index):
                continue
            self._seen_ends[index] = end
            position = End.decode(end.payload).history.position
            images = self.images_ahead(backstore, position.sequence)
            self.far[index].ended(position, [bytes(image) for image in images])

    def images_ahead(self, backstore: Backstore, sequence: int) -> list[bytearray]:
        """The images as the writes under way, up to ``sequence``, will leave them."""
        if backstore.settled:
            return self.images
        images = [bytearray(image) for image in self.images]
        for operation in sorted(backstore._in_flight.values(), key=lambda o: o.sequence):
            if operation.sequence > sequence:
                continue
            if operation.kind == RecordKind.RESIZE:
                images[operation.volume] += self._tail(operation, len(images[operation.volume]))
            elif _writes(operation):
                offset, length = operation.offset, operation.length
                images[operation.volume][offset : offset + length] = _data(operation)
        return images

    def _carry_out(self, effect: fx.Effect, backstore: Backstore) -> None:
        world = self.world
        match effect:
            case fx.SendFrame():
                if effect.link in self.channels:
                    self.channels[effect.link].send(bytes(effect.frame))
            case fx.WriteLocal():
                self._in_order(lambda: self._write(effect.operations, backstore))
            case fx.Complete():
                for operation in effect.operations:
                    self._check_written(operation)
                    self.on_complete(operation)
                    operation.tell()
            case fx.SendControl():
                if world.tracing:
                    world.trace("source", f"> {effect.link} {effect.message}")
                far = self.far[effect.link]
                far.network.control(TO_REPLICA, effect.message, far.control)
            case fx.ReadBlocks():
                self._read(effect, backstore)
            case fx.FlushLocal():
                self._in_order(lambda: self._flush_later(effect.operation, backstore))
            case fx.UpdateLocal():
                self._in_order(lambda: self._update(effect.operation, backstore))
            case fx.Settle():
                effect.done(None)
            case fx.OpenSession():
                self._open(effect.link, effect.session, backstore)
            case fx.CloseSession():
                channel = self.channels.pop(effect.link, None)
                if channel is not None:
                    channel.close()
            case fx.PersistGeneration():
                self.later(world.delay(0.002), lambda: self._persist_generation(effect, backstore))
            case fx.PersistDegraded():
                self.later(world.delay(0.002), lambda: self._persist_degraded(effect, backstore))
            case fx.PersistLink():
                self.later(world.delay(0.002), lambda: self._persist_link(effect, backstore))
            case fx.GrowLocal():
                self.later(world.delay(0.002), lambda: self._grow_local(effect, backstore))
            case fx.Report():
                self.reports.append(effect)
                self.on_report(effect)
                if world.tracing:
                    world.trace("source", f"{effect.event}: {effect.reason}")

    def _open(self, link: int, session: bytes, backstore: Backstore) -> None:
        def ready() -> None:
            self.later(0.0, lambda: backstore.data_ready(link, session, self.world.now))

        def lost(reason: str) -> None:
            self.later(0.0, lambda: backstore.data_lost(link, session, reason, self.world.now))

        far = self.far[link]
        self.channels[link] = far.network.open(far.frame, lost, ready)

    def _persist_generation(self, effect: fx.PersistGeneration, backstore: Backstore) -> None:
        self.store.state = replace(
            self.store.state,
            history=effect.history,
            digest=effect.digest,
            links=backstore.link_flags(),
        )
        self.stopped_clean = self.other_boot = False
        for far in self.far:
            far.generation_began(
                effect.history.position.generation, [bytes(image) for image in self.images]
            )
        backstore.generation_persisted(self.world.now)

    def _persist_degraded(self, effect: fx.PersistDegraded, backstore: Backstore) -> None:
        self.store.degraded[self.options.links[effect.link].name] = effect.degraded
        backstore.degraded_persisted(effect.link, effect.degraded, self.world.now)

    def _persist_link(self, effect: fx.PersistLink, backstore: Backstore) -> None:
        flags = backstore.link_flags()[effect.link]
        links = tuple(
            replace(
                link,
                enabled=flags.enabled,
                lost_power=flags.lost_power,
                synced_once=flags.synced_once,
            )
            if link.name == flags.name
            else link
            for link in self.store.state.links
        )
        self.store.state = replace(self.store.state, links=links)

    def _grow_local(self, effect: fx.GrowLocal, backstore: Backstore) -> None:
        """Room first, then the size that no replica may exceed, both durable."""
        zeros, failure = False, None
        try:
            file = self.files[effect.volume]
            zeros = make_room(file, len(self.images[effect.volume]), effect.size)
            if self.world.chance(self.no_room):
                raise OSError(errno.ENOSPC, "no room (injected)")
            volumes = [VolumeState(v.name, v.size) for v in backstore.options.volumes]
            volumes[effect.volume] = replace(volumes[effect.volume], size=effect.size)
            self.store.state = replace(self.store.state, volumes=tuple(volumes))
        except OSError as error:
            failure = error
        backstore.growth.local_grown(zeros, failure, self.world.now)

    def extend_to(self, volume: int, size: int) -> None:
        """The operator makes the device behind a volume larger; it has garbage there."""
        file = self.disk.directory().open(f"v{volume}")
        if file.size < size:
            extend(file, size, self.world.rng)

    def grow(self, volume: int, size: int, *, later: bool) -> None:
        """The operator lets a volume grow; ``on_grown`` is told when initiators would be."""

        def done(error: OperatorError | None) -> None:
            self.world.trace("source", f"volume {volume} to {size}: {error or 'grown'}")
            self.growths.append((volume, size, error))
            if error is None:
                self.on_grown(volume, size)

        growth = self.backstore.growth
        try:
            growth.begin(volume, size, done, self.world.now, later=later)
            self.later_allowed = later
            links = self.backstore.links
            self.unasked = {one.index for one in links if one.connection is Connection.DISABLED}
        except OperatorError as error:
            done(error)

    # --- the local volume ----------------------------------------------------------------------

    def _in_order(self, job: Callable[[], None]) -> None:
        """Run a job of the volumes' one FIFO: at once on a fast disk, later on a slow one."""
        if not self.slow:
            job()
            return
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self.later(self.world.delay(self.job_seconds), self._next_job)

    def _next_job(self) -> None:
        self._jobs.popleft()()
        if self._jobs:
            self.later(self.world.delay(self.job_seconds), self._next_job)

    def _note_admitted(self, effect: fx.WriteLocal, backstore: Backstore) -> None:
        generation = backstore.history.position.generation
        for operation in effect.operations:
            asked = self._asked.pop(id(operation), operation.payload)
            assert asked == operation.payload, "I1: what is admitted is not what the host wrote"
            if operation.kind == RecordKind.RESIZE or _writes(operation):
                tail = b""
                if operation.kind == RecordKind.RESIZE:
                    self._check_room(operation)
                    tail = self._tail(operation, len(self.images[operation.volume]))
                for far in self.far:
                    far.admitted(generation, _record_of(operation), tail)

    def _check_room(self, operation: Operation) -> None:
        for far, link in zip(self.far, self.backstore.links, strict=True):
            unasked = link.index in self.unasked or link.connection is Connection.DISABLED
            if not self.later_allowed and not unasked:
                far.check_room(operation.volume, operation.length)

    def _tail(self, operation: Operation, size: int) -> bytes:
        """What a RESIZE brings to light behind ``size`` bytes."""
        return self.files[operation.volume].pread(operation.length - size, size)

    def _resize(self, operation: Operation) -> None:
        assert self.versions is not None
        volume, old = operation.volume, len(self.images[operation.volume])
        tail = self._tail(operation, old)
        self.images[volume] += tail
        self.versions.grow(volume, tail)
        blocks = range(old // BLOCK_BYTES, -(-operation.length // BLOCK_BYTES))
        self.touched.update((volume, block) for block in blocks)
        self.written.add(id(operation))

    def _write(self, operations: Sequence[Operation], backstore: Backstore) -> None:
        assert self.versions is not None
        for operation in operations:
            if operation.kind == RecordKind.RESIZE:
                self._resize(operation)
                continue
            data = _data(operation)
            if self.fail_writes:
                self.fail_writes -= 1
                operation.error = OSError(errno.EIO, "injected")
                for far in self.far:
                    far.exact = False
                data = data[: len(data) // 1024 * 512]
                self.world.trace(
                    "source", f"EIO after {len(data)} bytes of write {operation.sequence}"
                )
            else:
                self.written.add(id(operation))
            offset = operation.offset
            self.images[operation.volume][offset : offset + len(data)] = data
            self.versions.write(operation.volume, offset, data)
            if data:
                self.files[operation.volume].pwrite(data, offset)
            first, end = offset // BLOCK_BYTES, -(-(offset + operation.length) // BLOCK_BYTES)
            self.touched.update((operation.volume, block) for block in range(first, end))
        backstore.local_done(operations, self.world.now)

    def _check_written(self, operation: Operation) -> None:
        """I12: a write that completes well is on the local volume."""
        if _writes(operation) and operation.error is None:
            assert id(operation) in self.written, "I12: completed before its local write"
        self.written.discard(id(operation))
        self._asked.pop(id(operation), None)

    def _update(self, operation: Operation, backstore: Backstore) -> None:
        assert operation.transform is not None
        ahead = [o for o in backstore._in_flight.values() if _writes(o)]
        assert not ahead or self.slow, "an update reads before the writes ahead of it"
        image = self.images[operation.volume]
        old = bytes(image[operation.offset : operation.offset + operation.length])
        expected = getattr(operation, "expected", None)
        assert expected is None or expected == old
        backstore.update_read(operation, operation.transform(old), self.world.now)

    def _flush_later(self, operation: Operation, backstore: Backstore) -> None:
        """Off the loop, once the writes before it are through."""
        self.later(self.world.delay(0.001), lambda: self._flush(operation, backstore))

    def _flush(self, operation: Operation, backstore: Backstore) -> None:
        assert self.versions is not None
        mark = self.versions.mark(operation.volume)
        if self.fail_flushes:
            self.fail_flushes -= 1
            operation.error = OSError(errno.EIO, "injected")
        else:
            self.files[operation.volume].fdatasync()
            self.versions.flushed(operation.volume, mark)
        backstore.local_done((operation,), self.world.now)

    def _read(self, effect: fx.ReadBlocks, backstore: Backstore) -> None:
        def answer(blocks_max: int) -> list[fx.BlocksRead]:
            return [self._piece(piece, blocks_max) for piece in effect.ranges]

        def tell(answers: list[fx.BlocksRead]) -> None:
            backstore.blocks_read(effect.link, effect.read, answers, self.world.now)

        if self.slow:
            self._in_order(lambda: tell(answer(effect.blocks_max)))
        elif effect.sweep:
            tell([self._from_cache(piece) for piece in answer(1 << 30)])
        else:
            # Off the loop: read at one moment, answered at a later one.
            answers = answer(effect.blocks_max)
            self.later(self.world.delay(self.read_seconds), lambda: tell(answers))

    def _from_cache(self, piece: fx.BlocksRead) -> fx.BlocksRead:
        """What a sweep gets, which never waits for the disk."""
        return fx.BlocksRead(0) if self.world.chance(0.1) or self.cold else piece

    def _piece(self, piece: BlockRange, blocks_max: int) -> fx.BlocksRead:
        size = len(self.images[piece.volume])
        span = self.images[piece.volume][piece.offset : piece.offset + piece.length(size)]
        blocks = min(piece.count, blocks_max)
        if self.unreadable and any(
            (piece.volume, block) in self.unreadable
            for block in range(piece.first, piece.first + blocks)
        ):
            return fx.BlocksRead(0, error=OSError(errno.EIO, "Input/output error"))
        if not any(span) and self.world.chance(0.7):
            return fx.BlocksRead(piece.count)
        return fx.BlocksRead(blocks, bytes(span[: blocks * BLOCK_BYTES]))


def _data(operation: Operation) -> bytes:
    if operation.kind == RecordKind.WRITE:
        return bytes(operation.payload)
    return bytes(operation.length)


def _record_of(operation: Operation) -> Record:
    """The model's own record of a write or a RESIZE, whenever the product makes one."""
    return make_record(
        RecordKind(operation.kind),
        operation.volume,
        operation.offset,
        operation.length,
        bytes(operation.payload),
        operation.sequence,
    )


def _writes(operation: Operation) -> bool:
    """Whether it changes its volume, and so has a place in the order."""
    return operation.kind in (RecordKind.WRITE, RecordKind.ZERO)
