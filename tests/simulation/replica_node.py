"""A simulated replica: the real Sink over the real ReplicaStore, on a simulated disk.

Beside them goes a shadow: what the replica's effective image must be, made from the frames whose
durability was acknowledged and from nothing else. Every recovery is held against the model.
"""

from collections.abc import Callable

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.edges.replica_store import ReplicaStore
from pratima_iscsi.engine.standing import standing_of
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import ORIGIN, Position
from pratima_iscsi.replication import sink as sk
from pratima_iscsi.replication.messages import Closed, Hello, Message, Ping
from pratima_iscsi.replication.wire import decode_batch
from tests.simulation.disk import SimDisk
from tests.simulation.model import Model
from tests.simulation.network import Network
from tests.simulation.world import Node, World

SEGMENT_BYTES = 1 << 18
JOURNAL_BYTES = 6 * SEGMENT_BYTES
PEER = b"source"


class Shadow:
    """The effective durable image, by what was acknowledged."""

    def __init__(self, sizes: list[int]) -> None:
        self.images = [bytearray(size) for size in sizes]
        self.staged: dict[tuple[int, int], bytes] = {}
        self.touched: set[tuple[int, int]] = set()
        self.position: Position = ORIGIN
        self.consistent = False
        self.transaction = 0
        self.direct = False

    def take(self, frame: memoryview) -> None:
        """The records of ``frame`` became durable."""
        batch = decode_batch(frame)
        for entry in batch.entries:
            match entry.kind:
                case RecordKind.BEGIN:
                    payload = bytes(entry.payload)
                    self.transaction = int.from_bytes(payload[:8], "big")
                    self.direct = bool(payload[8])
                    self.staged.clear()
                    if self.direct:
                        self.consistent = False
                case RecordKind.END:
                    self._commit(bytes(entry.payload))
                case RecordKind.WRITE | RecordKind.RESYNC:
                    self._put(entry.volume, entry.offset, bytes(entry.payload))
                case RecordKind.ZERO | RecordKind.RESYNC_ZERO:
                    self._put(entry.volume, entry.offset, bytes(entry.length))
                case RecordKind.GENERATION if not self.transaction:
                    self.position = Position(int.from_bytes(entry.payload[:8], "big"), 0)
            if entry.sequence and not self.transaction:
                self.position = Position(self.position.generation, entry.sequence)

    def _put(self, volume: int, offset: int, data: bytes) -> None:
        image = self.images[volume]
        if not self.transaction or self.direct:
            image[offset : offset + len(data)] = data
            self.touched.update(self._blocks(volume, offset, len(data)))
            return
        for key in self._blocks(volume, offset, len(data)):
            start = key[1] * BLOCK_BYTES
            old = self.staged.get(key, bytes(image[start : start + BLOCK_BYTES]))
            block = bytearray(old)
            low, high = max(start, offset), min(start + len(block), offset + len(data))
            block[low - start : high - start] = data[low - offset : high - offset]
            self.staged[key] = bytes(block)

    def _blocks(self, volume: int, offset: int, length: int) -> list[tuple[int, int]]:
        first, end = offset // BLOCK_BYTES, -(-(offset + length) // BLOCK_BYTES)
        return [(volume, block) for block in range(first, end)]

    def _commit(self, payload: bytes) -> None:
        for (volume, block), data in self.staged.items():
            start = block * BLOCK_BYTES
            self.images[volume][start : start + len(data)] = data
            self.touched.add((volume, block))
        self.staged.clear()
        self.transaction, self.direct, self.consistent = 0, False, True
        generation, sequence = (int.from_bytes(payload[at : at + 8], "big") for at in (8, 16))
        self.position = Position(generation, sequence)


class ReplicaNode(Node):
    """One life after the other of a replica."""

    def __init__(
        self,
        world: World,
        network: Network,
        sizes: list[int],
        model: Model,
        credit: int,
        tell_source: Callable[[Message], None],
    ) -> None:
        super().__init__(world, "replica")
        self.network = network
        self.sizes = sizes
        self.model = model
        self.credit = credit
        self.tell_source = tell_source
        self.disk = SimDisk()
        directory = self.disk.directory()
        for index, size in enumerate(sizes):
            file = directory.open(f"v{index}", create=True)
            file.truncate(size)
            file.fdatasync()
        directory.sync()
        self.shadow = Shadow(sizes)
        self.frames: dict[int, memoryview] = {}
        """Frames by journal unit, until they are durable."""
        self.tick_at = float("inf")
        self.sink: sk.Sink
        self.store: ReplicaStore
        self.recoveries = 0

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover and come up."""
        self.life += 1
        self.alive = True
        self.tick_at = float("inf")
        self.frames.clear()
        self.store = self.recover(self.disk)
        self.check_recovered(self.store, self.disk)
        rng = self.world.rng
        state = self.store.state
        self._follow(state.n)
        self.sink = sk.Sink(
            standing_of(state),
            node=b"replica-node-id.",
            sizes=self.sizes,
            applied=state.applied,
            credit=self.credit,
            blank=True,
            failure=state.failed,
            new_nonce=lambda: rng.randbytes(16),
            journal_room=self.store.journal_room,
            staging_room=self.store.staging_room,
        )
        self.world.trace("replica", f"up at {state.history.position} n={state.n}")
        self.after_event()

    def recover(self, disk: SimDisk) -> ReplicaStore:
        """The product's own recovery, on ``disk``."""
        self.recoveries += 1
        directory = disk.directory()
        files = [directory.open(f"v{index}") for index in range(len(self.sizes))]
        return ReplicaStore.open(
            directory,
            files,
            segment_bytes=SEGMENT_BYTES,
            journal_bytes=JOURNAL_BYTES,
            reserve_bytes=0,
            clock=lambda: int(self.world.now * 1e9),
            random_bytes=self.world.rng.randbytes,
        )

    def _follow(self, n: int) -> None:
        """A recovery may present more than was acknowledged: the shadow goes on from the disk."""
        images = self.volumes(self.disk)
        state = self.store.state
        shadow = self.shadow
        for index, image in enumerate(images):
            for block in range(-(-len(image) // BLOCK_BYTES)):
                span = slice(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
                if shadow.images[index][span] != image[span]:
                    shadow.images[index][span] = image[span]
                    shadow.touched.add((index, block))
        shadow.position, shadow.consistent = state.history.position, state.consistent
        shadow.transaction, shadow.direct = state.transaction, state.direct
        shadow.staged.clear()
        staging = self.store._applier.staging
        if staging is not None:
            for index, size in enumerate(self.sizes):
                for block in range(-(-size // BLOCK_BYTES)):
                    start = block * BLOCK_BYTES
                    data = bytes(staging.read(index, start, min(BLOCK_BYTES, size - start)))
                    if data != images[index][start : start + len(data)]:
                        shadow.staged[index, block] = data

    def volumes(self, disk: SimDisk) -> list[bytes]:
        """The replica's volumes as files."""
        directory = disk.directory()
        return [directory.open(f"v{i}").pread(size, 0) for i, size in enumerate(self.sizes)]

    def check_recovered(self, store: ReplicaStore, disk: SimDisk) -> None:
        """I1 and I3: a consistent replica presents the order's image, not behind what it acked."""
        state = store.state
        assert not state.failed, f"recovery failed: {state.failed}"
        if not state.consistent:
            assert not self.shadow.consistent, f"a consistent replica was lost: {state.reason}"
            return
        position, acked = state.history.position, self.shadow.position
        images = self.volumes(disk)
        assert images == self.model.images(position), f"recovered image is not that of {position}"
        if self.shadow.consistent and position.generation == acked.generation:
            assert position.sequence >= acked.sequence, f"acked {acked}, recovered {position}"

    def check_image(self, *, power: bool) -> None:
        """Take an image now, as a power cut or a copy would, recover it, hold it to the model."""
        disk = self.disk.power_cut(self.world.rng) if power else self.disk.clone()
        self.check_recovered(self.recover(disk), disk)

    def crash(self, *, power: bool) -> None:
        """Die now."""
        self.world.trace("replica", "POWER CUT" if power else "KILLED")
        self.die()
        self.network.reset("the replica died")
        self.disk = self.disk.power_cut(self.world.rng) if power else self.disk.crash()

    # --- events --------------------------------------------------------------------------------

    def control(self, message: Message) -> None:
        """A control message of the source's arrives."""

        def handle() -> None:
            if isinstance(message, Hello):
                self.sink.hello(PEER, "", message, self.world.now)
            elif isinstance(message, Ping | Closed):
                self.sink.control(PEER, message, self.world.now)

        if self.alive:
            self.later(0.0, handle)

    def frame(self, frame: bytes) -> None:
        """A frame arrives on the data channel."""
        if self.alive:
            self.later(0.0, lambda: self.sink.frame(memoryview(frame), "", self.world.now))

    def after_event(self) -> None:
        """Carry out the effects, then see to the next tick."""
        if not self.alive:
            return
        while todo := self.sink.take_effects():
            for effect in todo:
                self._carry_out(effect)
        now = self.world.now
        due = max(self.sink.next_timer(now), now + 0.0005)
        if due < self.tick_at - 1e-9 or self.tick_at <= now:
            self.tick_at = due
            self.later(due - now, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self.tick_at == due:
            self.tick_at = float("inf")
            self.sink.tick(self.world.now)

    def _carry_out(self, effect: sk.SinkEffect) -> None:
        world, sink = self.world, self.sink
        match effect:
            case sk.Tell():
                world.trace("replica", f"> {effect.message}")
                self.network.control("to source", lambda: self.tell_source(effect.message))
            case sk.Bind():
                self.later(world.delay(0.002), lambda: self._bind(effect))
            case sk.WriteJournal():
                self.later(world.delay(0.0005), lambda: self._write_journal(effect))
            case sk.Apply():
                self.later(world.delay(0.003), lambda: self._apply(effect))
            case sk.Checkpoint():
                self.later(
                    world.delay(0.01),
                    lambda: sink.checkpointed(self.store.checkpoint(), world.now),
                )
            case sk.Release():
                self.later(world.delay(0.001), lambda: self._release(effect))
            case sk.Notice():
                world.trace("replica", f"{effect.event}: {effect.reason}")

    def _bind(self, effect: sk.Bind) -> None:
        self.store.bind(effect.group, effect.name, effect.volumes, b"replica-node-id.")
        self.sink.bound(effect, self.world.now)

    def _write_journal(self, effect: sk.WriteJournal) -> None:
        for frame in effect.frames:
            index = self.store.append(frame, effect.mark)
            if frame is not None:
                self.frames[index] = frame
        self.sink.journal_written(self.world.now)
        if effect.sync:
            self.later(self.world.delay(0.004), self._sync)
        else:
            self.sink.journal_done(False, self.world.now)

    def _sync(self) -> None:
        self.store.sync()
        for index in sorted(self.frames):
            self.shadow.take(self.frames.pop(index))
        self.sink.journal_done(True, self.world.now)

    def _apply(self, effect: sk.Apply) -> None:
        applied = self.store.apply(effect.upto, 1 << 20)
        answers = [(a.transaction, a.verify, a.differing) for a in applied.answers]
        self.sink.applied(applied.index, applied.frame_bytes, answers, self.world.now)

    def _release(self, effect: sk.Release) -> None:
        self.store.release(effect.upto)
        self.sink.released(self.world.now)


