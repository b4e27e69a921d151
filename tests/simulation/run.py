"""One simulated run: a seed draws a set-up, a load and faults; then all heals and must converge.

First break, then heal: while faults happen, the invariants are checked after every event; when they
stop, the pairs must reach SYNCED by themselves, and both sides must then hold the same bytes.
"""

from collections.abc import Callable
from random import Random

from pratima_iscsi.backstore import GroupOptions
from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import Operation
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.messages import VolumeOffer
from pratima_iscsi.replication.source_state import LinkState, SourceState, StopKind
from pratima_iscsi.replication.states import Mode
from tests.simulation.disk import UNLIMITED, SimDisk
from tests.simulation.faults import break_down
from tests.simulation.load import Load
from tests.simulation.model import Model
from tests.simulation.network import Network
from tests.simulation.pair import Pair
from tests.simulation.replica_node import ReplicaNode
from tests.simulation.setup import SECTOR, Setup
from tests.simulation.source_node import SourceNode, Store
from tests.simulation.world import World


class Simulation:
    """A primary, its replicas, its load and its faults."""

    def __init__(self, seed: int, setup: Setup | None = None, *, trace: bool = False) -> None:
        self.world = World(seed, trace=trace)
        rng = self.world.rng
        setup = self.setup = setup or Setup.draw(rng)
        options = GroupOptions(
            tuple(VolumeOffer(f"v{i}", size) for i, size in enumerate(setup.sizes)),
            tuple(
                LinkOptions(
                    f"replica{index}",
                    mode,
                    sync_timeout=setup.sync_timeout,
                    block=setup.block,
                    direct_resync=setup.direct_resync,
                )
                for index, mode in enumerate(setup.modes)
            ),
            setup.log_bytes,
        )
        # As the daemon does it: a link that is to be synchronous is known before the first write.
        known = [
            LinkState(link.name, ever_sync=True)
            for link in options.links
            if link.mode is not Mode.ASYNC
        ]
        state = SourceState(b"group-id-16bytes", "default", b"source-node-id..", links=tuple(known))
        disk = _first_disk(setup.sizes, rng)
        images = _images(disk, setup.sizes)
        self.source = SourceNode(self.world, options, disk, Store(state), slow=setup.slow)
        self.source.on_complete = self._completed
        self.pairs = [
            Pair(
                self.world,
                self.source,
                index,
                setup.sizes,
                images,
                mode=mode,
                credit=setup.log_bytes,
                hostile=setup.hostile,
            )
            for index, mode in enumerate(setup.modes)
        ]
        self.source.far = list(self.pairs)
        if setup.direct_resync:
            # No room at all, or enough: a room that ends midway holds the link until there is more.
            for pair in self.pairs:
                pair.replica.staging_bytes = rng.choice([0, 0, 1 << 30]) * BLOCK_BYTES
        self.world.checks.append(self._check)
        self.load = Load(list(setup.sizes))
        self.source.on_grown = self._grown
        self.writing = True
        self.completed = 0
        self.failed = 0

    # The first pair, by short names: most scenarios have no other.

    @property
    def pair(self) -> Pair:
        """The first pair."""
        return self.pairs[0]

    @property
    def link(self) -> Link:
        """The first link."""
        return self.pair.link

    @property
    def network(self) -> Network:
        """The first link's network."""
        return self.pair.network

    @property
    def replica(self) -> ReplicaNode:
        """The first replica."""
        return self.pair.replica

    @property
    def model(self) -> Model:
        """The order as the first replica sees it."""
        return self.pair.model

    # --- load ----------------------------------------------------------------------------------

    def arrive(self) -> None:
        """Submit some operations and come again."""
        world, rng = self.world, self.world.rng
        if not self.writing:
            return
        if self.source.alive and world.now >= self.source.paused_until:
            count = rng.randint(5, 60) if world.chance(self.setup.bursts) else 1
            self.submit(*(self.load.draw(rng) for _ in range(count)))
        world.at(world.now + rng.expovariate(self.setup.rate), self.arrive)

    def submit(self, *operations: Operation) -> None:
        """Operations arrive together."""
        self.source.later(0.0, lambda: self.source.submit(list(operations)))

    def _grown(self, volume: int, size: int) -> None:
        """Initiators are told of a new size: from now on they use it."""
        self.load.sizes[volume] = size

    def grow(self, volume: int, size: int, *, later: bool = False) -> None:
        """The operator lets a volume grow; of devices every side has been extended before."""
        if self.setup.devices:
            for pair in self.pairs:
                pair.replica.extend_to(volume, size)
            self.source.extend_to(volume, size)
        self.source.later(0.0, lambda: self.source.grow(volume, size, later=later))

    def _completed(self, operation: Operation) -> None:
        if operation.error is not None:
            self.failed += 1
            return
        self.completed += 1
        for pair in self.pairs:
            pair.completed(operation)

    # --- checks --------------------------------------------------------------------------------

    def _check(self) -> None:
        source = self.source
        if not source.stirred and not any(pair.replica.shadow.touched for pair in self.pairs):
            return  # Neither what differs nor what covers it can have changed.
        source.stirred = False
        touched, source.touched = source.touched, set()
        for pair in self.pairs:
            pair.compare(touched)
        if not source.alive:
            return
        log = source.backstore.log
        assert 0 <= log.bytes <= log.limit, f"I4: the log holds {log.bytes} of {log.limit} bytes"
        for pair in self.pairs:
            pair.check()
        if not any(pair.link.waits for pair in self.pairs):
            assert not source.backstore.waiting_for_replica(), "I4: a write waits for nobody"

    # --- starting and stopping -----------------------------------------------------------------

    def start_source(self, stop: StopKind) -> None:
        """Bring the primary back; ``stop`` is not believed when it had stopped cleanly."""
        source = self.source
        if source.alive:
            return
        if stop is StopKind.CRASHED:
            if source.stopped_clean:
                stop = StopKind.CLEAN
            elif source.other_boot:
                stop = StopKind.POWER_LOST
        if stop is StopKind.POWER_LOST:
            for pair in self.pairs:
                pair.lost_power |= pair.mode is not Mode.ASYNC
        if stop is StopKind.CLEAN:
            for pair in self.pairs:
                pair.amnesia |= pair.unspilled
        source.start(stop)
        told, found = self.load.sizes, list(map(len, source.images))
        assert all(map(int.__le__, told, found)), f"a volume shrank: told {told}, now {found}"
        self.load.sizes = found
        for pair in self.pairs:
            pair.recheck()

    def resync_from_primary(self) -> None:
        """The operator says that the primary's content is the truth."""
        for pair in self.pairs:
            pair.lost_power = False
        self.source.backstore.resync_from_primary(self.world.now)
        self.source.after_event()

    # --- the run -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start everything."""
        for pair in self.pairs:
            pair.replica.start()
        self.source.start(StopKind.NONE)
        for pair in self.pairs:
            pair.recheck()
        if self.setup.rate:
            self.world.at(self.world.now, self.arrive)

    def run(self) -> None:
        """Break, heal, converge; AssertionError for whatever does not hold."""
        world = self.world
        self.begin()
        world.at(world.now + self.setup.fault_every, self._break)
        world.run(world.now + self.setup.seconds)
        self.heal()

    def _break(self) -> None:
        """Do one fault of the seed's menu and come again."""
        if not self.writing:
            return
        world, rng = self.world, self.world.rng
        fault = rng.choice(self.setup.faults)
        pair = rng.choice(self.pairs)
        world.trace("fault", fault)
        break_down(self, pair, fault)
        world.at(world.now + rng.expovariate(1.0 / self.setup.fault_every), self._break)

    def heal(self) -> None:
        """Faults stop: the pairs reach SYNCED by themselves, and both sides hold the same."""
        world, source = self.world, self.source
        world.trace("world", "heals")
        self.writing = False
        source.fail_writes = source.fail_flushes = 0
        source.unreadable.clear()
        for pair in self.pairs:
            pair.network.heal()
            pair.replica.disk.faults.heal()
            pair.replica.disk.faults.capacity_bytes = UNLIMITED
            pair.replica.resume()
        source.resume()
        world.run(world.now + 10.0)
        if source.alive and source.backstore.volume_failed:
            source.crash(power=False)
        for pair in self.pairs:
            pair.start_replica()
        self.start_source(StopKind.CRASHED)
        self.resync_from_primary()
        for pair in self.pairs:
            source.backstore.enable(pair.index, world.now)  # also where `clean` fails later
        source.after_event()
        self.converge()

    def converge(self) -> None:
        """I11 and I6: every pair reaches SYNCED, stays so, and holds the same on both sides."""
        world = self.world
        # Writes must be slower than the link: thousands that waited for a slow one come first.
        admitted = world.run(world.now + 600.0, stop=self.admitted)
        assert admitted, "writes wait for ever to be admitted"
        assert world.run(world.now + 120.0, stop=self.converged), "I11: after healing " + "; ".join(
            f"{pair.link.state.value}: {pair.link.reason}" for pair in self.pairs
        )
        world.run(world.now + 30.0)
        assert self.converged(), "it did not stay SYNCED"
        assert not self.source.backstore.waiting_for_replica(), "a write waits for ever"
        for pair in self.pairs:
            pair.check_same()

    def admitted(self) -> bool:
        """Whether no write waits for its place in the order."""
        return not (self.source.alive and self.source.backstore._waiting)

    def converged(self) -> bool:
        """Whether every pair is in step with nothing under way."""
        source = self.source
        return source.alive and source.backstore.quiet and all(p.converged() for p in self.pairs)

    def until(self, condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Run until ``condition`` holds after an event; for scenarios."""
        if condition():
            return
        reached = self.world.run(self.world.now + seconds, stop=condition)
        assert reached, f"not reached: {self.link.state.value}, {self.link.reason}"


def _first_disk(sizes: list[int], rng: Random) -> SimDisk:
    disk = SimDisk()
    directory = disk.directory()
    for index, size in enumerate(sizes):
        file = directory.open(f"v{index}", create=True)
        file.truncate(size)
        for _ in range(rng.choice([0, 3, 20])):
            at = rng.randrange(size // SECTOR) * SECTOR
            file.pwrite(rng.randbytes(min(rng.choice([1, 8, 40]) * SECTOR, size - at)), at)
        file.fdatasync()
    directory.sync()
    return disk


def _images(disk: SimDisk, sizes: list[int]) -> list[bytes]:
    directory = disk.directory()
    return [directory.open(f"v{i}").pread(size, 0) for i, size in enumerate(sizes)]


def run_setup(seed: int, draw: Callable[[Random], Setup]) -> Simulation:
    """Run one seed of a hunt."""
    simulation = Simulation(seed, draw(Random(seed)))
    simulation.run()
    return simulation


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
