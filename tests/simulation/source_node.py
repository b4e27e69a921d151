"""A simulated primary: the real Backstore, on a simulated disk, network and state store."""

import errno
from collections.abc import Callable
from dataclasses import replace

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.blocks import BLOCK_BYTES, BlockRange
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import NO_GENERATION
from pratima_iscsi.records import End
from pratima_iscsi.records import End, Record
from pratima_iscsi.replication import effects as fx
from pratima_iscsi.replication.messages import Message
from pratima_iscsi.replication.operation import Operation
from pratima_iscsi.replication.source_state import LinkState, SourceState, StopKind, VolumeState
from tests.simulation.disk import SimDisk
from tests.simulation.model import Model
from tests.simulation.network import Channel, Network
from tests.simulation.world import Node, World


class Store:
    """The primary's durable state: identity, history, clean mark, degraded mark."""

    def __init__(self, state: SourceState) -> None:
        self.state = state
        self.degraded = True
        self.boots = 0

    def load(self, stop: StopKind) -> SourceState:
        """The state as the next start finds it: tables only after a clean stop."""
        links = tuple(
            replace(link, degraded=self.degraded)
            if stop is StopKind.CLEAN
            else replace(
                link, degraded=self.degraded, table=(), unverified=(), direct_transaction=0
            )
            for link in self.state.links
        )
        return replace(self.state, stop=stop, links=links)


class Versions:
    """Every value that a sector may show after a power cut: nothing older than the last flush."""

    def __init__(self, images: list[bytearray]) -> None:
        self.floor = [bytes(image) for image in images]
        self.newer: list[list[tuple[int, bytes]]] = [[] for _ in images]

    def write(self, volume: int, offset: int, data: bytes) -> None:
        """A write reached the page cache."""
        self.newer[volume].append((offset, data))

    def mark(self, volume: int) -> int:
        """Where a flush of ``volume`` begins."""
        return len(self.newer[volume])

    def flushed(self, volume: int, mark: int) -> None:
        """A flush that began at ``mark`` has completed."""
        floor = bytearray(self.floor[volume])
        for offset, data in self.newer[volume][:mark]:
            floor[offset : offset + len(data)] = data
        self.floor[volume] = bytes(floor)
        # Later marks of other flushes under way stay valid only if places do not move.
        self.newer[volume][:mark] = [(0, b"")] * mark

    def check(self, volume: int, image: bytes) -> None:
        """I2: every sector of ``image`` is the flushed one or a later one."""
        for at in range(0, len(image), 512):
            sector = image[at : at + 512]
            if sector == self.floor[volume][at : at + 512]:
                continue
            assert any(
                offset <= at and at + 512 <= offset + len(data) and
                data[at - offset : at - offset + 512] == sector
                for offset, data in self.newer[volume]
            ), f"volume {volume} sector {at // 512} went behind a completed flush"


class SourceNode(Node):
    """One life after the other of a primary."""

    def __init__(
        self,
        world: World,
        network: Network,
        options: GroupOptions,
        model: Model,
        disk: SimDisk,
        store: Store,
        *,
        slow: bool,
        deliver_control: Callable[[Message], None],
        deliver_frame: Callable[[bytes], None],
    ) -> None:
        super().__init__(world, "source")
        self.network = network
        self.options = options
        self.model = model
        self.disk = disk
        self.store = store
        self.slow = slow
        self.deliver_control = deliver_control
        self.deliver_frame = deliver_frame
        self.backstore: Backstore | None = None
        self.images: list[bytearray] = []
        self.exact = True
        """False once a local write failed: until END the primary is not what the order says."""
        self.touched: set[tuple[int, int]] = set()
        self.on_complete: Callable[[Operation], None] = lambda operation: None
        self.reports: list[fx.Report] = []
        self.fifo_free_at = 0.0
        self.fail_writes = 0
        self.versions: Versions | None = None
        self.channel: Channel | None = None
        self.stopped_clean = False
        self.seen_end: Record | None = None
        self.tick_at = float("inf")

    # --- life ----------------------------------------------------------------------------------

    def start(self, stop: StopKind) -> None:
        """Come up after ``stop``."""
        self.alive = True
        self.life += 1
        self.store.boots += 1
        directory = self.disk.directory()
        self.files = [
            directory.open(f"v{index}") for index in range(len(self.options.volumes))
        ]
        self.images = [
            bytearray(file.pread(volume.size, 0))
            for file, volume in zip(self.files, self.options.volumes, strict=True)
        ]
        if stop is not StopKind.CRASHED or self.versions is None:
            self.versions = Versions(self.images)
        self.fifo_free_at = self.world.now
        self.tick_at = float("inf")
        rng = self.world.rng
        state = self.store.load(stop)
        self.backstore = Backstore(
            self.options, state, new_id=lambda: rng.getrandbits(64) or 1
        )
        self.exact = True
        if stop not in (StopKind.CLEAN, StopKind.NONE):
            # What the primary has now is the truth, partial writes and all (PROTOCOL 13).
            self.model.generations.setdefault(NO_GENERATION, self.model.generations[0])
            generation = self.backstore.history.position.generation
            if generation != NO_GENERATION:
                self.model.begin(generation, [bytes(image) for image in self.images])
        self.world.trace("source", f"starts after {stop.name}")
        self.after_event()

    def crash(self, *, power: bool) -> None:
        """Die now; with ``power`` the unsynced part of the volume is cut, too."""
        self.world.trace("source", "POWER CUT" if power else "KILLED")
        self.die()
        self.network.reset("the primary died")
        if power:
            self.disk = self.disk.power_cut(self.world.rng)
            directory = self.disk.directory()
            for index, volume in enumerate(self.options.volumes):
                image = directory.open(f"v{index}").pread(volume.size, 0)
                assert self.versions is not None
                self.versions.check(index, image)
        else:
            self.disk = self.disk.crash()

    def stop(self) -> None:
        """Ask for a clean stop; it ends when all is settled, or after CLEAN_STOP_SECONDS."""
        assert self.backstore is not None
        self.backstore.begin_stop()
        self._await_stop(self.world.now + 5.0)

    def _await_stop(self, deadline: float) -> None:
        backstore = self.backstore
        assert backstore is not None
        if not backstore.settled or (not backstore.quiet and self.world.now < deadline):
            self.later(0.05, lambda: self._await_stop(deadline))
            return
        for file in self.files:
            file.fdatasync()
        volumes = [VolumeState(volume.name, volume.size) for volume in self.options.volumes]
        if not backstore.volume_failed:
            self.store.state = backstore.snapshot(volumes, "boot")
            self.stopped_clean = True
        self.world.trace("source", "stopped clean")
        self.die()
        self.network.reset("the primary stopped")

    # --- events --------------------------------------------------------------------------------

    def submit(self, operations: list[Operation]) -> None:
        """Operations of the initiator arrive."""
        assert self.backstore is not None
        self.backstore.submit(operations, self.world.now)

    def control(self, message: Message) -> None:
        """A control message arrives."""
        if self.alive and self.backstore is not None:
            backstore = self.backstore
            self.later(0.0, lambda: backstore.control(0, message, self.world.now))

    def after_event(self) -> None:
        """Carry out the effects, then see to the next tick."""
        backstore = self.backstore
        if backstore is None or not self.alive:
            return
        while True:
            while todo := backstore.take_effects():
                for effect in todo:
                    self._carry_out(effect, backstore)
            backstore.pump(self.world.now)
            if not backstore.effects:
                break
        due = max(backstore.next_timer(self.world.now), self.world.now + 0.0005)
        if due < self.tick_at - 1e-9 or self.tick_at <= self.world.now:
            self.tick_at = due
            self.later(due - self.world.now, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self.tick_at == due:
            self.tick_at = float("inf")
            if self.backstore is not None:
                self.backstore.tick(self.world.now)

    def _note_end(self, backstore: Backstore) -> None:
        """END was appended: what it promises is the primary's image at this moment."""
        transaction = backstore.links[0].transaction
        if transaction is None or transaction.end is None or transaction.end is self.seen_end:
            return
        self.seen_end = transaction.end
        position = End.decode(transaction.end.payload).history.position
        images = [bytes(image) for image in self.images]
        self.model.end(position, images, exact=self.exact)
        self.exact = True

    def _carry_out(self, effect: fx.Effect, backstore: Backstore) -> None:
        world = self.world
        self._note_end(backstore)
        match effect:
            case fx.WriteLocal():
                self._note_admitted(effect, backstore)
                self._in_order(lambda: self._write(effect.operations, backstore))
            case fx.UpdateLocal():
                self._in_order(lambda: self._update(effect.operation, backstore))
            case fx.FlushLocal():
                self._in_order(lambda: self._flush(effect.operation, backstore), quick=False)
            case fx.Complete():
                for operation in effect.operations:
                    self.on_complete(operation)
                    operation.tell()
            case fx.Settle():
                effect.done(None)
            case fx.SendControl():
                world.trace("source", f"> {effect.message}")
                self.network.control(
                    "to replica", lambda: self.deliver_control(effect.message)
                )
            case fx.OpenSession():
                self._open(effect.session, backstore)
            case fx.CloseSession():
                if self.network.channel is not None:
                    self.network.channel.close()
            case fx.SendFrame():
                if self.channel is not None:
                    self.channel.send(bytes(effect.frame))
            case fx.ReadBlocks():
                self._read(effect, backstore)
            case fx.PersistGeneration():
                self.later(world.delay(0.002), lambda: self._persist_generation(effect, backstore))
            case fx.PersistDegraded():
                self.later(world.delay(0.002), lambda: self._persist_degraded(effect, backstore))
            case fx.Report():
                self.reports.append(effect)
                world.trace("source", f"{effect.event}: {effect.reason}")

    def _open(self, session: bytes, backstore: Backstore) -> None:
        def ready() -> None:
            self.later(0.0, lambda: backstore.data_ready(0, session, self.world.now))

        def lost(reason: str) -> None:
            self.later(0.0, lambda: backstore.data_lost(0, session, reason, self.world.now))

        self.channel = self.network.open(self.deliver_frame, lost, ready)

    def _persist_generation(self, effect: fx.PersistGeneration, backstore: Backstore) -> None:
        state = self.store.state
        links = {link.name: link for link in state.links}
        for link in backstore.links:
            saved = links.get(link.options.name, LinkState(link.options.name))
            links[link.options.name] = replace(saved, ever_sync=link.ever_sync)
        self.store.state = replace(
            state, history=effect.history, digest=effect.digest, links=tuple(links.values())
        )
        self.stopped_clean = False
        self.model.begin(
            effect.history.position.generation, [bytes(image) for image in self.images]
        )
        backstore.generation_persisted(self.world.now)

    def _persist_degraded(self, effect: fx.PersistDegraded, backstore: Backstore) -> None:
        self.store.degraded = effect.degraded
        backstore.degraded_persisted(effect.link, effect.degraded, self.world.now)

    # --- the local volume ----------------------------------------------------------------------

    def _in_order(self, job: Callable[[], None], *, quick: bool = True) -> None:
        """Run a job of the volume's one FIFO: at once on a fast disk, later on a slow one."""
        if not self.slow and quick:
            job()
            return
        when = max(self.fifo_free_at, self.world.now) + self.world.delay(0.001)
        self.fifo_free_at = when if self.slow else self.fifo_free_at
        self.later(when - self.world.now, job)

    def _note_admitted(self, effect: fx.WriteLocal, backstore: Backstore) -> None:
        generation = backstore.history.position.generation
        for operation in effect.operations:
            if operation.record is not None:
                self.model.admit(generation, operation.record)

    def _write(self, operations: "list[Operation] | tuple[Operation, ...]", backstore: Backstore) -> None:
        for operation in operations:
            data = (
                operation.payload
                if operation.kind == RecordKind.WRITE
                else bytes(operation.length)
            )
            if self.fail_writes:
                self.fail_writes -= 1
                operation.error = OSError(errno.EIO, "injected")
                self.exact = False
                data = data[: len(data) // 1024 * 512]
                self.world.trace("source", f"EIO after {len(data)} bytes of {operation.record}")
            self.images[operation.volume][operation.offset : operation.offset + len(data)] = data
            assert self.versions is not None
            self.versions.write(operation.volume, operation.offset, data)
            if data:
                self.files[operation.volume].pwrite(data, operation.offset)
            self._touch(operation)
        backstore.local_done(operations, self.world.now)

    def _touch(self, operation: Operation) -> None:
        first = operation.offset // BLOCK_BYTES
        end = -(-(operation.offset + operation.length) // BLOCK_BYTES)
        self.touched.update((operation.volume, block) for block in range(first, end))

    def _update(self, operation: Operation, backstore: Backstore) -> None:
        image = self.images[operation.volume]
        old = bytes(image[operation.offset : operation.offset + operation.length])
        assert operation.transform is not None
        backstore.update_read(operation, operation.transform(old), self.world.now)

    def _flush(self, operation: Operation, backstore: Backstore) -> None:
        assert self.versions is not None
        mark = self.versions.mark(operation.volume)
        self.files[operation.volume].fdatasync()
        self.versions.flushed(operation.volume, mark)
        backstore.local_done((operation,), self.world.now)

    def _read(self, effect: fx.ReadBlocks, backstore: Backstore) -> None:
        if effect.sweep and not self.slow:
            answers = [
                fx.BlocksRead(0) if self.world.chance(0.1) else self._piece(piece, 1 << 30)
                for piece in effect.ranges
            ]
            backstore.blocks_read(effect.link, effect.read, answers, self.world.now)
            return
        if self.slow:
            self._in_order(lambda: self._answer_read(effect, backstore))
            return
        # Off the loop: read at one moment, answered at a later one.
        answers = [self._piece(piece, effect.blocks_max) for piece in effect.ranges]
        self.later(
            self.world.delay(0.003),
            lambda: backstore.blocks_read(effect.link, effect.read, answers, self.world.now),
        )

    def _answer_read(self, effect: fx.ReadBlocks, backstore: Backstore) -> None:
        answers = [self._piece(piece, effect.blocks_max) for piece in effect.ranges]
        backstore.blocks_read(effect.link, effect.read, answers, self.world.now)

    def _piece(self, piece: BlockRange, blocks_max: int) -> fx.BlocksRead:
        size = len(self.images[piece.volume])
        image = self.images[piece.volume]
        span = image[piece.offset : piece.offset + piece.length(size)]
        if not any(span) and self.world.chance(0.7):
            return fx.BlocksRead(piece.count)
        blocks = min(piece.count, blocks_max)
        return fx.BlocksRead(blocks, bytes(span[: blocks * BLOCK_BYTES]))

