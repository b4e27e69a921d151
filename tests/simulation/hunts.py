"""Set-ups that dwell on one kind of trouble: a mutant is looked for where its rule matters."""

from collections.abc import Callable
from random import Random
from typing import Final

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.replication.states import Mode
from tests.simulation.setup import KIB, SECTOR, Setup

_ASYNC, _SEMI, _SYNC = [Mode.ASYNC], [Mode.SEMI_SYNC], [Mode.SYNC]


def _overflow(rng: Random) -> Setup:
    """A log that is soon full, and sessions that end all the time."""
    return Setup(
        sizes=[24 * BLOCK_BYTES],
        log_bytes=64 * KIB,
        modes=_ASYNC,
        slow=rng.random() < 0.3,
        seconds=8.0,
        rate=30.0,
        bursts=0.3,
        faults=["reset", "partition", "replica kill", "source pause", "controls"],
        fault_every=0.4,
    )


def _power(rng: Random) -> Setup:
    """A replica that loses power all the time."""
    return Setup(
        sizes=[24 * BLOCK_BYTES],
        modes=rng.choice([_SYNC, _ASYNC]),
        direct_resync=rng.random() < 0.3,
        seconds=8.0,
        rate=40.0,
        bursts=0.1,
        faults=["replica power", "image power", "replica kill"],
        fault_every=0.3,
    )


def _hostile(rng: Random) -> Setup:
    """Frames and messages that no honest network delivers."""
    return Setup(
        sizes=[24 * BLOCK_BYTES],
        log_bytes=96 * KIB,
        modes=rng.choice([_SYNC, _ASYNC]),
        hostile=True,
        seconds=8.0,
        rate=40.0,
        bursts=0.1,
        faults=["reset", "image", "replica pause", "acks lost"],
        fault_every=0.5,
    )


def _restarts(rng: Random) -> Setup:
    """A primary that stops, is killed and loses power."""
    return Setup(
        sizes=[24 * BLOCK_BYTES],
        log_bytes=96 * KIB,
        modes=rng.choice([_SYNC, _ASYNC]),
        slow=rng.random() < 0.5,
        seconds=16.0,
        rate=30.0,
        bursts=0.1,
        faults=["source kill", "source power", "source stop", "partition", "image"],
        fault_every=1.0,
    )


def _waiting(rng: Random) -> Setup:
    """Writes that wait for a replica that comes and goes."""
    return Setup(
        sizes=[24 * BLOCK_BYTES],
        modes=rng.choice([_SYNC, _SEMI]),
        sync_timeout=0.5,
        seconds=8.0,
        rate=40.0,
        faults=["partition", "replica pause", "replica power", "reset"],
        fault_every=1.0,
    )


def _disks(rng: Random) -> Setup:
    """Local writes that fail, and replicas that go back to older disks."""
    return Setup(
        sizes=[24 * BLOCK_BYTES],
        log_bytes=96 * KIB,
        modes=_ASYNC,
        slow=rng.random() < 0.5,
        direct_resync=rng.random() < 0.3,
        seconds=8.0,
        rate=40.0,
        bursts=0.1,
        faults=["write error", "replica rollback", "replica rollback", "reset", "image"],
        fault_every=0.5,
    )


def _rollbacks(rng: Random) -> Setup:
    """Replicas that go back to older disks, and a primary that stops or dies before it hears of
    it: few writes, so that runs end that have written nothing."""
    return Setup(
        sizes=[rng.choice([24, 96]) * BLOCK_BYTES],
        log_bytes=64 * KIB,
        modes=_ASYNC,
        slow=rng.random() < 0.5,
        direct_resync=rng.random() < 0.7,
        seconds=16.0,
        rate=rng.choice([2.0, 20.0]),
        bursts=0.1,
        faults=[
            "write error",
            "replica rollback",
            "replica rollback",
            "replica kill",
            "reset",
            "partition",
            "source stop",
            "source stop",
            "source kill",
        ],
        fault_every=0.7,
    )


def _long(rng: Random) -> Setup:
    """Resyncs in small pieces that last, with writes all the while, and sessions that end."""
    return Setup(
        sizes=[192 * BLOCK_BYTES],
        log_bytes=64 * KIB,
        modes=_ASYNC,
        slow=rng.random() < 0.5,
        seconds=8.0,
        rate=120.0,
        bursts=0.02,
        faults=["reset", "partition", "replica kill", "controls", "image"],
        fault_every=0.7,
    )


def _controls(rng: Random) -> Setup:
    """An operator who gives commands all the time, between writes that are few."""
    return Setup(
        sizes=[24 * BLOCK_BYTES],
        log_bytes=64 * KIB,
        modes=rng.choice([_SYNC, _ASYNC]),
        direct_resync=rng.random() < 0.2,
        slow=rng.random() < 0.5,
        seconds=12.0,
        rate=rng.choice([0.3, 1.0, 4.0]),
        bursts=0.05,
        faults=["controls"] * 6 + ["reset", "partition", "replica kill", "source kill", "image"],
        fault_every=0.5,
    )


def _ghosts(rng: Random) -> Setup:
    """Messages and frames of sessions, and of whole runs of the primary, that are over."""
    return Setup(
        sizes=[24 * BLOCK_BYTES],
        log_bytes=96 * KIB,
        modes=_ASYNC,
        hostile=True,
        seconds=20.0,
        rate=40.0,
        bursts=0.05,
        faults=["source kill", "source stop", "reset", "replica pause"],
        fault_every=2.0,
    )


def _growth(rng: Random) -> Setup:
    """Volumes that grow while everything else happens, files and devices."""
    return Setup(
        sizes=[24 * BLOCK_BYTES - rng.choice([0, SECTOR]), 8 * BLOCK_BYTES],
        log_bytes=64 * KIB,
        modes=rng.choice([_ASYNC, _SYNC, [Mode.ASYNC, Mode.ASYNC]]),
        sync_timeout=0.5,
        slow=rng.random() < 0.5,
        devices=rng.random() < 0.5,
        seconds=12.0,
        rate=40.0,
        bursts=0.2,
        faults=[
            "grow",
            "grow",
            "grow",
            "reset",
            "partition",
            "replica power",
            "source kill",
            "image",
        ],
        fault_every=0.4,
    )


def _full(rng: Random) -> Setup:
    """A replica whose disk is full again and again, and a log that soon is."""
    return Setup(
        sizes=[rng.choice([24, 96]) * BLOCK_BYTES],
        log_bytes=64 * KIB,
        modes=rng.choice([_SYNC, _ASYNC]),
        direct_resync=rng.random() < 0.5,
        seconds=12.0,
        rate=rng.choice([40.0, 150.0]),
        bursts=0.1,
        faults=[
            "replica disk full",
            "replica disk full",
            "replica kill",
            "source kill",
            "partition",
            "controls",
            "image",
        ],
        fault_every=0.5,
    )


HUNTS: Final[dict[str, Callable[[Random], Setup]]] = {
    "any": Setup.draw,
    "overflow": _overflow,
    "long": _long,
    "power": _power,
    "hostile": _hostile,
    "ghosts": _ghosts,
    "controls": _controls,
    "restarts": _restarts,
    "waiting": _waiting,
    "disks": _disks,
    "rollbacks": _rollbacks,
    "growth": _growth,
    "full": _full,
}
