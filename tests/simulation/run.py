"""One simulated run: a seed draws a set-up, a load and faults; then all heals and must converge.

First break, then heal: while faults happen, the invariants are checked after every event; when they
stop, the pair must reach SYNCED by itself, and both sides must then hold the same bytes.
"""

from dataclasses import dataclass, field
from random import Random

from pratima_iscsi.backstore import GroupOptions
from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import NO_GENERATION
from pratima_iscsi.replication.link import Link, LinkOptions
from pratima_iscsi.replication.messages import Message, VolumeOffer
from pratima_iscsi.replication.operation import FLUSH, UPDATE, Operation
from pratima_iscsi.replication.source_state import SourceState, StopKind
from pratima_iscsi.replication.states import LinkState, Mode
from tests.simulation.disk import SimDisk
from tests.simulation.model import Model
from tests.simulation.network import Network
from tests.simulation.replica_node import ReplicaNode
from tests.simulation.source_node import SourceNode, Store
from tests.simulation.world import World

SECTOR = 512
KIB = 1024


@dataclass(slots=True)
class Setup:
    """What a seed draws before anything happens; a scenario sets what it needs."""

    sizes: list[int]
    log_bytes: int
    mode: Mode
    block: bool = False
    direct_resync: bool = False
    slow: bool = False
    hostile: bool = False
    seconds: float = 12.0
    rate: float = 40.0
    """Operations a second."""
    faults: list[str] = field(default_factory=list)
    fault_every: float = 2.0
    bursts: float = 0.1

    @classmethod
    def draw(cls, rng: Random) -> "Setup":
        """A set-up for a seed."""
        volumes = rng.choice([1, 1, 1, 2])
        sizes = [
            rng.choice([8, 24, 64]) * BLOCK_BYTES - rng.choice([0, 0, SECTOR, 5 * SECTOR])
            for _ in range(volumes)
        ]
        menu = [
            "partition", "reset", "replica kill", "replica power", "source kill", "source power",
            "source stop", "replica pause", "source pause", "image", "image power",
        ]
        faults = rng.sample(menu, rng.randint(1, 5))
        if rng.random() < 0.15:
            faults.append("write error")
        return cls(
            sizes=sizes,
            log_bytes=rng.choice([64, 96, 128, 256, 1024]) * KIB,
            mode=rng.choice([Mode.ASYNC, Mode.ASYNC, Mode.SEMI_SYNC, Mode.SYNC]),
            block=rng.random() < 0.2,
            direct_resync=rng.random() < 0.15,
            slow=rng.random() < 0.4,
            hostile=rng.random() < 0.3,
            rate=rng.choice([10.0, 40.0, 150.0]),
            faults=faults,
            fault_every=rng.choice([0.3, 1.0, 3.0]),
            bursts=rng.choice([0.0, 0.1, 0.4]),
        )


class Simulation:
    """A pair, its load and its faults."""

    def __init__(self, seed: int, setup: Setup | None = None, *, trace: bool = False) -> None:
        self.world = World(seed, trace=trace)
        rng = self.world.rng
        self.setup = setup or Setup.draw(rng)
        setup = self.setup
        volumes = tuple(VolumeOffer(f"v{i}", size) for i, size in enumerate(setup.sizes))
        options = GroupOptions(
            volumes,
            (
                LinkOptions(
                    "replica",
                    setup.mode,
                    sync_timeout=rng.choice([0.5, 2.0, 5.0]),
                    block=setup.block,
                    direct_resync=setup.direct_resync,
                ),
            ),
            setup.log_bytes,
        )
        self.disk = self._first_disk(rng)
        images = self._images()
        self.model = Model(images)
        self.network = Network(self.world, hostile=setup.hostile)
        state = SourceState(b"group-id-16bytes", "default", b"source-node-id..")
        self.source = SourceNode(
            self.world,
            self.network,
            options,
            self.model,
            self.disk,
            Store(state),
            slow=setup.slow,
            deliver_control=lambda message: self.replica.control(message),
            deliver_frame=lambda frame: self.replica.frame(frame),
        )
        self.source.on_complete = self._completed
        self.replica = ReplicaNode(
            self.world,
            self.network,
            setup.sizes,
            self.model,
            credit=setup.log_bytes,
            tell_source=self._tell_source,
        )
        self.world.checks.append(self._check)
        self.writing = True
        self.completed = 0
        self.failed = 0
        self.compared: set[tuple[int, int]] = set()
        self.differing: set[tuple[int, int]] = set()
        self.stamp = 0

    def _first_disk(self, rng: Random) -> SimDisk:
        disk = SimDisk()
        directory = disk.directory()
        for index, size in enumerate(self.setup.sizes):
            file = directory.open(f"v{index}", create=True)
            file.truncate(size)
            for _ in range(rng.choice([0, 3, 20])):
                at = rng.randrange(size // SECTOR) * SECTOR
                file.pwrite(rng.randbytes(min(rng.choice([1, 8, 40]) * SECTOR, size - at)), at)
            file.fdatasync()
        directory.sync()
        return disk

    def _images(self) -> list[bytes]:
        directory = self.disk.directory()
        return [directory.open(f"v{i}").pread(size, 0) for i, size in enumerate(self.setup.sizes)]

    def _tell_source(self, message: Message) -> None:
        self.source.control(message)

    @property
    def link(self) -> Link:
        """The source's link."""
        assert self.source.backstore is not None
        return self.source.backstore.links[0]

    # --- load ----------------------------------------------------------------------------------

    def load(self) -> None:
        """Submit some operations and come again."""
        world, rng = self.world, self.world.rng
        if not self.writing:
            return
        if self.source.alive and world.now >= self.source.paused_until:
            count = rng.randint(5, 60) if world.chance(self.setup.bursts) else 1
            operations = [self._operation(rng) for _ in range(count)]
            self.source.later(0.0, lambda: self.source.submit(operations))
        world.at(world.now + rng.expovariate(self.setup.rate), self.load)

    def _operation(self, rng: Random) -> Operation:
        volume = rng.randrange(len(self.setup.sizes))
        size = self.setup.sizes[volume]
        length = min(rng.choice([1, 1, 2, 7, 8, 8, 16, 33]) * SECTOR, size)
        hot = size // 4 if rng.random() < 0.5 else size
        offset = min(rng.randrange(max(1, hot // SECTOR)) * SECTOR, size - length)
        if rng.random() < 0.3:
            offset -= offset % BLOCK_BYTES
        roll = rng.random()
        if roll < 0.06:
            return Operation(FLUSH, volume, 0, 0)
        if roll < 0.12:
            length = min(rng.choice([1, 8, 64]) * SECTOR, size - offset)
            return Operation(RecordKind.ZERO, volume, offset, length)
        if roll < 0.16:
            new = self._data(length)
            wanted = rng.random() < 0.5
            return Operation(
                UPDATE, volume, offset, length, transform=lambda old: new if wanted else None
            )
        return Operation(
            RecordKind.WRITE, volume, offset, length, self._data(length), fua=rng.random() < 0.05
        )

    def _data(self, length: int) -> bytes:
        self.stamp += 1
        return self.stamp.to_bytes(8, "big") * (length // 8)

    def _completed(self, operation: Operation) -> None:
        if operation.error is not None:
            self.failed += 1
            return
        self.completed += 1
        link = self.link
        if operation.sequence == 0 or self.setup.mode is Mode.ASYNC:
            return
        if self.setup.mode is Mode.SYNC and not link.degraded and link.waits:
            self._check_sync(operation)

    def _check_sync(self, operation: Operation) -> None:
        """I3: acknowledged in sync mode, not degraded: it is in the replica's effective image."""
        shadow = self.replica.shadow
        assert self.source.backstore is not None
        generation = self.source.backstore.history.position.generation
        assert shadow.consistent, "acknowledged in sync mode with an inconsistent replica"
        assert shadow.position.generation == generation, f"{shadow.position} is another generation"
        assert shadow.position.sequence >= operation.sequence, (
            f"write {operation.sequence} acknowledged, the replica has {shadow.position}"
        )

    # --- checks --------------------------------------------------------------------------------

    def _check(self) -> None:
        source, shadow = self.source, self.replica.shadow
        touched = source.touched | shadow.touched
        if touched:
            source.touched.clear()
            shadow.touched.clear()
            self._compare(touched)
        if source.alive and source.backstore is not None:
            self._check_source()

    def _compare(self, blocks: set[tuple[int, int]]) -> None:
        for volume, block in blocks:
            span = slice(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
            mine, theirs = self.source.images[volume], self.replica.shadow.images[volume]
            if mine[span] == theirs[span]:
                self.differing.discard((volume, block))
            else:
                self.differing.add((volume, block))

    def _check_source(self) -> None:
        backstore = self.source.backstore
        assert backstore is not None
        link = backstore.links[0]
        assert 0 <= backstore.log.bytes <= max(backstore.log.limit, 40 * KIB), "the log grew"
        if self.differing:
            cover = link.cover()
            cover.update(backstore.in_flight_cover())
            for block in self.differing:
                assert block in cover, f"I5: block {block} differs and nothing covers it"
        if link.state is LinkState.SYNCED:
            assert link.covered and self.replica.shadow.consistent, "SYNCED, but not covered"
        if self.setup.mode is Mode.ASYNC:
            assert not backstore.waiting_for_replica(), "I4: an asynchronous write waits"

    def recheck_all(self) -> None:
        """Compare every block again: after a restart the images are the disks'."""
        self.source.touched.update(
            (volume, block)
            for volume, size in enumerate(self.setup.sizes)
            for block in range(-(-size // BLOCK_BYTES))
        )

    # --- faults --------------------------------------------------------------------------------

    def break_something(self) -> None:
        """Do one fault of the seed's menu and come again."""
        if not self.writing:
            return
        world, rng = self.world, self.world.rng
        if self.setup.faults:
            fault = rng.choice(self.setup.faults)
            world.trace("fault", fault)
            self.fault(fault)
        world.at(world.now + rng.expovariate(1.0 / self.setup.fault_every), self.break_something)

    def fault(self, fault: str) -> None:
        """One named fault, now."""
        world, rng, source, replica = self.world, self.world.rng, self.source, self.replica
        match fault:
            case "partition":
                self.network.partition()
                world.at(world.now + rng.choice([0.1, 1.0, 4.0, 20.0]), self.network.heal)
            case "reset":
                self.network.reset("connection reset")
            case "replica kill" | "replica power" if replica.alive:
                replica.crash(power=fault.endswith("power"))
                world.at(world.now + rng.choice([0.05, 0.5, 5.0]), self._start_replica)
            case "source kill" | "source power" if source.alive:
                source.crash(power=fault.endswith("power"))
                stop = StopKind.POWER_LOST if fault.endswith("power") else StopKind.CRASHED
                world.at(world.now + rng.choice([0.05, 2.0]), lambda: self._start_source(stop))
            case "source stop" if source.alive:
                source.stop()
                world.at(world.now + 7.0, lambda: self._start_source(StopKind.CRASHED))
            case "replica pause":
                replica.paused_until = world.now + rng.choice([0.5, 4.0, 20.0])
            case "source pause":
                source.paused_until = world.now + rng.choice([0.5, 4.0])
            case "write error":
                source.fail_writes = 1
            case "image" | "image power" if replica.alive:
                replica.check_image(power=fault.endswith("power"))
            case _:
                pass

    def _start_replica(self) -> None:
        if not self.replica.alive:
            self.replica.start()
            self.recheck_all()

    def _start_source(self, stop: StopKind) -> None:
        if not self.source.alive:
            clean = stop is StopKind.CRASHED and self.source.stopped_clean
            self.source.start(StopKind.CLEAN if clean else stop)
            self.recheck_all()

    # --- the run -------------------------------------------------------------------------------

    def run(self) -> None:
        """Break, heal, converge; AssertionError for whatever does not hold."""
        world = self.world
        self.replica.start()
        self.source.start(StopKind.NONE)
        self.recheck_all()
        world.at(world.now, self.load)
        world.at(world.now + self.setup.fault_every, self.break_something)
        world.run(world.now + self.setup.seconds)
        self.writing = False
        self.heal()

    def heal(self) -> None:
        """Faults stop: the pair reaches SYNCED by itself, and both sides hold the same."""
        world = self.world
        world.trace("world", "heals")
        self.setup.faults = []
        self.network.heal()
        self.replica.paused_until = self.source.paused_until = 0.0
        self.source.fail_writes = 0
        world.run(world.now + 10.0)
        self._start_replica()
        self._start_source(StopKind.CRASHED)
        assert self.source.backstore is not None
        self.source.backstore.resync_from_primary(world.now)
        assert world.run(world.now + 120.0, stop=self._converged), (
            f"I11: after healing the link is {self.link.state.value}: {self.link.reason}"
        )
        world.run(world.now + 30.0)
        assert self._converged(), "it did not stay SYNCED"
        backstore = self.source.backstore
        assert not backstore.waiting_for_replica(), "a write waits for ever"
        assert not self.differing, f"I6: SYNCED and idle, yet {sorted(self.differing)[:5]} differ"
        self.replica.check_image(power=False)
        self.replica.check_image(power=True)
        if self.source.exact and backstore.history.position.generation != NO_GENERATION:
            images = [bytes(image) for image in self.source.images]
            assert images == self.model.images(backstore.history.position)

    def _converged(self) -> bool:
        link = self.link
        if link.state is not LinkState.SYNCED or len(link.queue) or not self.source.alive:
            return False
        assert self.source.backstore is not None
        return self.source.backstore.quiet and not (link.degraded and self.setup.mode is Mode.SYNC)


def simulate(seed: int, *, trace: bool = False) -> Simulation:
    """Run one seed; raises AssertionError with the seed in its notes."""
    simulation = Simulation(seed, trace=trace)
    try:
        simulation.run()
    except BaseException as error:
        error.add_note(f"seed {seed}: python -m tests.simulation {seed} --trace")
        error.add_note("\n".join(simulation.world.lines[-400:]))
        raise
    return simulation
