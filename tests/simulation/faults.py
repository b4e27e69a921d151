"""The faults, each with a name, that a seed's menu or a scenario asks for.

One rule: a fault only does what the world may do; what must follow is checked elsewhere.
"""

import errno
from typing import TYPE_CHECKING

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.edges.journal import PREFIX as JOURNAL_PREFIX
from pratima_iscsi.replication.messages import Ack, Closed, Ping, VerifyAnswer, Welcome
from pratima_iscsi.replication.source_state import StopKind
from pratima_iscsi.replication.states import Connection
from tests.simulation.disk import UNLIMITED
from tests.simulation.network import DATA, TO_REPLICA, TO_SOURCE
from tests.simulation.pair import Pair
from tests.simulation.setup import SECTOR

if TYPE_CHECKING:
    from tests.simulation.run import Simulation


def break_down(simulation: "Simulation", pair: Pair, fault: str) -> None:
    """Do the fault of this name now, to the primary or to ``pair``."""
    world, source = simulation.world, simulation.source
    rng, network, replica = world.rng, pair.network, pair.replica
    match fault:
        case "partition":
            network.partition()
            world.at(world.now + rng.choice([0.1, 1.0, 4.0, 20.0]), network.heal)
        case "reset":
            network.reset("connection reset")
        case "deaf":
            direction = rng.choice([TO_REPLICA, TO_SOURCE, DATA])
            network.deaf_until[direction] = world.now + rng.choice([0.5, 4.0, 20.0])
        case "acks lost":
            kind = rng.choice([Ack, Ack, Welcome, VerifyAnswer, Ping, Closed])
            network.lost_types[kind] = world.now + rng.choice([0.5, 4.0, 8.0])
        case "replica kill" | "replica power" if replica.alive:
            replica.crash(power=fault.endswith("power"))
            world.at(world.now + rng.choice([0.05, 0.5, 5.0]), pair.start_replica)
        case "replica pause":
            replica.pause(rng.choice([0.5, 4.0, 20.0]))
        case "source kill" | "source power" if source.alive:
            source.crash(power=fault.endswith("power"))
            stop = StopKind.POWER_LOST if fault.endswith("power") else StopKind.CRASHED
            world.at(world.now + rng.choice([0.05, 2.0]), lambda: simulation.start_source(stop))
            if rng.random() < 0.5:
                world.at(world.now + 6.0, lambda: _speak(simulation))
        case "source stop" if source.alive:
            source.stop()
            if rng.random() < 0.3:
                source.stop()
            world.at(world.now + 7.0, lambda: simulation.start_source(StopKind.CRASHED))
        case "source pause":
            source.pause(rng.choice([0.5, 4.0]))
        case "image" | "image power" if replica.alive:
            replica.check_image(power=fault.endswith("power"))
        case "controls" if source.alive:
            source.later(0.0, lambda: _control(simulation, pair))
        case "grow" if source.alive:
            _grow(simulation)
        case _:
            _disk_fault(simulation, pair, fault)


def _grow(simulation: "Simulation") -> None:
    """One volume grows by a few sectors or many, to three times its first size at the most."""
    rng, source = simulation.world.rng, simulation.source
    volume = rng.randrange(len(source.images))
    most = 3 * simulation.setup.sizes[volume]
    size = len(source.images[volume]) + rng.choice([1, 3, 8, 64, 200]) * SECTOR
    if size <= most:
        simulation.grow(volume, size, later=rng.random() < 0.3)


def _speak(simulation: "Simulation") -> None:
    if simulation.source.alive:
        simulation.source.later(0.0, simulation.resync_from_primary)


def _control(simulation: "Simulation", pair: Pair) -> None:
    """One of the operator's controls."""
    world, backstore = simulation.world, simulation.source.backstore
    disabled = pair.link.connection is Connection.DISABLED
    verbs = ["enable", "clean", "clean"] if disabled else ["kill", "reconnect", "disable", "clean"]
    match world.rng.choice(verbs):
        case "enable":
            backstore.enable(pair.index, world.now)
        case "clean":
            _clean(simulation, pair)
        case "kill":
            backstore.kill(pair.index, world.now)
        case "reconnect":
            backstore.reconnect(pair.index, world.now)
        case "disable":
            backstore.disable(pair.index, world.now)


def _clean(simulation: "Simulation", pair: Pair) -> None:
    """By a proof; or by a word, but only one that is true."""
    world, source = simulation.world, simulation.source
    pair.recheck()
    pair.compare(set(source.touched))
    knows = pair.replica.alive and not pair.amnesia and source.backstore.settled
    word = knows and not pair.cover.differs and world.rng.random() < 0.7
    source.backstore.clean(pair.index, world.now, proof=not word)


def _disk_fault(simulation: "Simulation", pair: Pair, fault: str) -> None:
    world, source = simulation.world, simulation.source
    rng, replica = world.rng, pair.replica
    match fault:
        case "write error":
            source.fail_writes = 1
        case "flush error":
            source.fail_flushes = 1
            world.at(world.now + 1.0, lambda: _restart_failed(simulation))
        case "read error":
            volume = rng.randrange(len(simulation.setup.sizes))
            blocks = -(-simulation.setup.sizes[volume] // 4096)
            source.unreadable.add((volume, rng.randrange(blocks)))
            world.at(world.now + rng.choice([1.0, 15.0]), source.unreadable.clear)
        case "replica disk error" if replica.alive:
            replica.disk.faults.fail(rng.randrange(60), errno.EIO)
            world.at(world.now + rng.choice([0.5, 3.0]), pair.start_replica)
        case "replica disk full" if replica.alive:
            disk, reserve = replica.disk, replica.reserve_bytes
            left = rng.choice([0, reserve, reserve + 8 * BLOCK_BYTES, reserve + 32 * BLOCK_BYTES])
            disk.faults.capacity_bytes += left - disk.free_bytes()
            world.at(world.now + rng.choice([0.5, 5.0]), lambda: _give_room(pair))
            if rng.random() < 0.5:
                world.at(world.now + rng.choice([0.2, 0.4, 2.0]), lambda: _restart(pair))
        case "replica rot" if replica.alive:
            replica.crash(power=rng.random() < 0.5)
            _rot(pair)
            pair.start_replica()
        case "replica rollback":
            if pair.older is None:
                pair.older = replica.disk.clone()
            elif replica.alive:
                replica.crash(power=False)
                if source.alive and pair.link.clean is not None:
                    # Whoever gave a word of this replica knows that it is another one now.
                    source.later(0.0, lambda: source.backstore.kill(pair.index, world.now))
                pair.go_back()
                pair.start_replica()
        case _:
            pass


def _restart_failed(simulation: "Simulation") -> None:
    source = simulation.source
    if source.alive and source.backstore.volume_failed:
        source.crash(power=False)
        simulation.start_source(StopKind.CRASHED)


def _restart(pair: Pair) -> None:
    """Whatever room its disk has."""
    if pair.replica.alive:
        pair.replica.crash(power=pair.replica.world.rng.random() < 0.5)
    pair.start_replica()


def _give_room(pair: Pair) -> None:
    pair.replica.disk.faults.capacity_bytes = UNLIMITED
    pair.start_replica()


def _rot(pair: Pair) -> None:
    """Flip one bit of the journal on the dead replica's disk."""
    replica = pair.replica
    rng = replica.world.rng
    directory = replica.disk.directory()
    names = [name for name in directory.names() if name.startswith(JOURNAL_PREFIX)]
    written = [name for name in names if directory.open(name).pread(4, 0) != bytes(4)]
    if not written:
        return
    file = directory.open(rng.choice(written))
    at = rng.randrange(min(file.size, 40_000))
    byte = file.pread(1, at)[0] ^ 1 << rng.randrange(8)
    file.pwrite(bytes([byte]), at)
    file.fdatasync()
    replica.spoilt = True
    pair.forget()
