"""A simulated replica: the real Sink over the real ReplicaStore, on a simulated disk.

Beside them goes a shadow: what the replica's effective image must be, made from the frames whose
durability was acknowledged and from nothing else. Every recovery is held against the model.
"""

import contextlib
import errno
from collections.abc import Callable
from random import Random

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.edges.replica_store import ReplicaDamaged, ReplicaStore
from pratima_iscsi.engine.standing import standing_of
from pratima_iscsi.replication import sink_effects as fx
from pratima_iscsi.replication.messages import Closed, Grow, Hello, Message, Ping
from pratima_iscsi.replication.sink import Sink
from tests.simulation.disk import UNLIMITED, SimDisk, SimFile
from tests.simulation.model import Model
from tests.simulation.network import TO_SOURCE, Network
from tests.simulation.shadow import Shadow
from tests.simulation.timers import Restless
from tests.simulation.world import Node, World

SEGMENTS = 6
KEPT_BYTES = (1 << 20, 0, 16 << 10)
"""Of frames kept until they are applied, one after the other as lives go by."""
PEER = b"source"


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
        name: str = "replica",
    ) -> None:
        super().__init__(world, name)
        self.network = network
        self.model = model
        self.credit = credit
        self.segment_bytes = max(1 << 16, credit // 4 + 8192)
        self.tell_source = tell_source
        self.volumes_count = len(sizes)
        self.disk = fresh_disk(self.volumes_count)
        self.shadow = Shadow([0 for _ in sizes])
        self.frames: dict[int, memoryview] = {}
        """Frames by journal unit, until they are durable."""
        self.appended = False
        self.tick_at = float("inf")
        self.sink: Sink
        self.store: ReplicaStore
        self.recoveries = 0
        self.notices: list[fx.Notice] = []
        self.restless = Restless()
        self.staging_bytes = 1 << 40
        self.reserve_bytes = (SEGMENTS + 1) * self.segment_bytes
        """What staging leaves to the journal and to the state."""
        self.spoilt = False
        """Its disk was exchanged or damaged: what it acknowledged may be gone."""

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Recover and come up, if there is room to recover."""
        self.life += 1
        self.tick_at = float("inf")
        self.frames.clear()
        self.appended = False
        self.disk.faults.heal()
        try:
            self.store = self.recover(self.disk)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
            self.world.trace(self.name, f"cannot be recovered: {error}")
            self.disk = self.disk.crash()
            return
        self.alive = True
        self.check_recovered(self.store, self.disk)
        self.spoilt = False
        rng = self.world.rng
        state = self.store.state
        self._follow()
        self.sink = Sink(
            standing_of(state),
            node=b"replica-node-id.",
            sizes=[len(image) for image in self.volumes(self.disk)],
            applied=state.applied,
            credit=self.credit,
            blank=True,
            failure=state.failed,
            new_nonce=lambda: rng.randbytes(16),
            journal_room=self.store.journal_room,
            staging_room=self.store.staging_room,
        )
        self.world.trace(self.name, f"up at {state.history.position} n={state.n} {state.reason}")
        self.after_event()

    def recover(self, disk: SimDisk) -> ReplicaStore:
        """The product's own recovery, on ``disk``."""
        self.recoveries += 1
        directory = disk.directory()
        files = [directory.open(f"v{index}") for index in range(self.volumes_count)]
        return ReplicaStore.open(
            directory,
            files,
            segment_bytes=self.segment_bytes,
            journal_bytes=SEGMENTS * self.segment_bytes,
            staging_bytes=self.staging_bytes,
            reserve_bytes=self.reserve_bytes,
            kept_bytes=KEPT_BYTES[self.recoveries % len(KEPT_BYTES)],
            clock=lambda: int(self.world.now * 1e9),
            random_bytes=self.world.rng.randbytes,
        )

    def _follow(self) -> None:
        """A recovery may present more than was acknowledged: the shadow goes on from the disk."""
        images = self.volumes(self.disk)
        state, shadow = self.store.state, self.shadow
        for index, image in enumerate(images):
            if shadow.images[index] != image:
                shadow.images[index][:] = image
        shadow.position, shadow.consistent = state.history.position, state.consistent
        shadow.transaction, shadow.direct = state.transaction, state.direct
        shadow.staged.clear()
        staging = self.store._applier.staging
        if staging is not None:
            for index, volume in enumerate(state.volumes):
                for block in range(-(-volume.size // BLOCK_BYTES)):
                    start = block * BLOCK_BYTES
                    data = bytes(staging.read(index, start, min(BLOCK_BYTES, volume.size - start)))
                    if data != images[index][start : start + len(data)]:
                        shadow.staged[index, block] = data

    def volumes(self, disk: SimDisk) -> list[bytes]:
        """The replica's files, whole: they may have more than its volumes."""
        directory = disk.directory()
        files = [directory.open(f"v{index}") for index in range(self.volumes_count)]
        return [file.pread(file.size, 0) for file in files]

    def check_recovered(self, store: ReplicaStore, disk: SimDisk) -> None:
        """I1 and I3: a consistent replica presents the order's image, not behind what it acked."""
        state, shadow = store.state, self.shadow
        assert not state.failed, f"recovery failed: {state.failed}"
        if not state.consistent:
            # A direct BEGIN that nobody was told of yet may have reached the disk all the same.
            lost = shadow.consistent and not state.direct
            assert self.spoilt or not lost, f"a good replica was lost: {state.reason}"
            return
        position, acked = state.history.position, shadow.position
        images = self.volumes(disk)
        legal = self.model.may_show(position)
        sizes = [volume.size for volume in state.volumes]
        assert any(_shows(images, sizes, image) for image in legal), (
            f"I1: the image is not that of {position}"
        )
        if shadow.consistent and position.generation == acked.generation and not self.spoilt:
            assert position.sequence >= acked.sequence, f"I3: acked {acked}, recovered {position}"

    def check_image(self, *, power: bool) -> None:
        """Take an image now, as a power cut or a copy would, recover it, hold it to the model."""
        disk = self.disk.power_cut(self.world.rng) if power else self.disk.clone()
        disk.faults.heal()
        disk.faults.capacity_bytes = UNLIMITED
        self.check_recovered(self.recover(disk), disk)

    def crash(self, *, power: bool) -> None:
        """Die now."""
        self.world.trace(self.name, "POWER CUT" if power else "KILLED")
        self.die()
        self.network.reset("the replica died")
        self.disk = self.disk.power_cut(self.world.rng) if power else self.disk.crash()

    def exchange(self, disk: SimDisk) -> None:
        """The dead replica gets another disk: an older copy, or an empty one."""
        assert not self.alive
        self.disk = disk
        self.spoilt = True

    # --- events --------------------------------------------------------------------------------

    def control(self, message: Message) -> None:
        """A control message of the source's arrives."""

        def handle() -> None:
            if isinstance(message, Hello):
                self.sink.hello(PEER, "", message, self.world.now)
            elif isinstance(message, Ping | Closed | Grow):
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
        due = self.sink.next_timer(now)
        self.restless.check(due, now)
        due = max(due, now + 0.0005)
        if due < self.tick_at - 1e-9 or self.tick_at <= now:
            self.tick_at = due
            self.later(due - now, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self.tick_at == due:
            self.tick_at = float("inf")
            self.restless.ticked = True
            self._tell_written()
            self.sink.tick(self.world.now)

    def _carry_out(self, effect: fx.SinkEffect) -> None:
        world = self.world
        match effect:
            case fx.Tell():
                if world.tracing:
                    world.trace(self.name, f"> {effect.message}")
                self.network.control(TO_SOURCE, effect.message, self.tell_source)
            case fx.Bind():
                self.later(world.delay(0.002), lambda: self._bind(effect))
            case fx.WriteJournal():
                self.later(world.delay(0.0005), lambda: self._write_journal(effect))
            case fx.Apply():
                self.later(world.delay(0.003), lambda: self._apply(effect))
            case fx.Checkpoint():
                self.later(world.delay(0.01), self._checkpoint)
            case fx.Release():
                self.later(world.delay(0.001), lambda: self._release(effect))
            case fx.MakeRoom():
                self.later(world.delay(0.002), lambda: self._make_room(effect))
            case fx.Notice():
                self.notices.append(effect)
                world.trace(self.name, f"{effect.event}: {effect.reason}")

    # --- the two threads' jobs, as engine/replica_group.py has them ------------------------------

    def _failed(self, what: str, error: Exception) -> None:
        self.sink.fail(f"{what}: {error}")

    def _bind(self, effect: fx.Bind) -> None:
        try:
            files = self.store._volumes
            for file, (_, size) in zip(files, effect.volumes, strict=True):
                if file.size != size:
                    file.truncate(size)
            self._files_grew()
            self.store.bind(effect.group, effect.name, effect.volumes, b"replica-node-id.")
        except OSError as error:
            self._failed("the replica cannot be bound", error)
            return
        self.sink.bound(effect, self.world.now)

    def _make_room(self, effect: fx.MakeRoom) -> None:
        zeros: tuple[bool, ...] = ()
        refusal = ""
        try:
            zeros = self.store.make_room(effect.sizes)
        except OSError as error:
            refusal = str(error)
        self._files_grew()
        sizes = [file.size for file in self.store._volumes]
        self.sink.room_made(effect, sizes, zeros, refusal, self.world.now)

    def _files_grew(self) -> None:
        for index, image in enumerate(self.volumes(self.disk)):
            self.shadow.follow(index, image)

    def extend_to(self, volume: int, size: int) -> None:
        """The operator makes the device behind a volume larger; it has garbage there."""
        file = self.disk.directory().open(f"v{volume}")
        if 0 < file.size < size:  # of size 0: it is a file still, and made when it is bound
            extend(file, size, self.world.rng)
            self._files_grew()

    def _write_journal(self, effect: fx.WriteJournal) -> None:
        try:
            for taken in effect.frames:
                index = self.store.append(taken, effect.mark)
                if taken is not None:
                    self.frames[index] = taken.frame
        except OSError as error:
            self._failed("the journal cannot be written", error)
            return
        self.appended = True
        if effect.wanted:
            self._tell_written()
        if effect.sync:
            self.later(self.world.delay(0.004), self._sync)
        else:
            self._tell_written()
            self.sink.journal_done(False, self.world.now)

    def _tell_written(self) -> None:
        if self.appended:
            self.appended = False
            self.sink.journal_written(self.world.now)

    def _sync(self) -> None:
        try:
            self.store.sync()
        except OSError as error:
            self._failed("the journal cannot be synced", error)
            return
        for index in sorted(self.frames):
            self.shadow.take(self.frames.pop(index))
        self._tell_written()
        self.sink.journal_done(True, self.world.now)

    def _apply(self, effect: fx.Apply) -> None:
        try:
            applied = self.store.apply(effect.upto, 1 << 20)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self.sink.apply_blocked(f"no room: {error}", self.world.now)
            else:
                self._failed("the volume cannot be written", error)
            return
        except ReplicaDamaged as error:
            assert self.spoilt, f"rot where nothing was spoilt: {error}"
            self._failed("the journal cannot be applied", error)
            return
        answers = [(a.transaction, a.verify, a.differing) for a in applied.answers]
        self.sink.applied(applied.index, applied.frame_bytes, answers, self.world.now)

    def _checkpoint(self) -> None:
        try:
            upto = self.store.checkpoint()
        except OSError as error:
            self._failed("the volume cannot be synced", error)
            return
        self.sink.checkpointed(upto, self.world.now)

    def _release(self, effect: fx.Release) -> None:
        try:
            self.store.release(effect.upto)
        except OSError as error:
            self._failed("the journal cannot be reused", error)
            return
        self.sink.released(self.world.now)


def extend(file: SimFile, size: int, rng: Random) -> None:
    """What a device has behind its old end is whatever was written there before."""
    tail = rng.randbytes(size - file.size)
    with contextlib.suppress(OSError):  # a disk that fails or is full is not extended
        file.pwrite(tail, file.size)
        file.fdatasync()


def _shows(files: list[bytes], sizes: list[int], model: list[bytes]) -> bool:
    """Whether volumes of these sizes show the model's image; behind it they may be larger, when a
    transaction that has not ended said so, and a file may have more room than its volume."""
    return all(
        size >= len(image) and file[: len(image)] == image
        for file, size, image in zip(files, sizes, model, strict=True)
    )


def fresh_disk(volumes: int) -> SimDisk:
    """A replica's disk with empty volumes, whose sizes it will be told, and no state."""
    disk = SimDisk()
    directory = disk.directory()
    for index in range(volumes):
        file = directory.open(f"v{index}", create=True)
        file.fdatasync()
    directory.sync()
    return disk
