"""What a run is made of: volumes, log, links, load and the menu of faults."""

from dataclasses import dataclass, field
from random import Random

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.replication.states import Mode

KIB = 1024
SECTOR = 512

FAULTS = (
    "partition",
    "reset",
    "deaf",
    "acks lost",
    "replica kill",
    "replica power",
    "replica pause",
    "source kill",
    "source power",
    "source stop",
    "source pause",
    "image",
    "image power",
    "controls",
    "grow",
)
RARE_FAULTS = (
    "write error",
    "flush error",
    "read error",
    "replica disk error",
    "replica disk full",
    "replica rot",
    "replica rollback",
)
"""Faults of disks; a run has one of them at the most, for each is a story of its own."""


@dataclass(slots=True)
class Setup:
    """What a seed draws before anything happens; a scenario sets what it needs."""

    sizes: list[int] = field(default_factory=lambda: [64 * BLOCK_BYTES])
    log_bytes: int = 256 * KIB
    modes: list[Mode] = field(default_factory=lambda: [Mode.ASYNC])
    """One for each link."""
    sync_timeout: float = 2.0
    block: bool = False
    direct_resync: bool = False
    slow: bool = False
    """The local volume's writes and reads go through its one writer thread."""
    hostile: bool = False
    devices: bool = False
    """What a volume grows by is not zeros: a device that was extended has garbage there."""
    seconds: float = 12.0
    rate: float = 0.0
    """Arrivals of operations a second; 0: only what a scenario submits."""
    bursts: float = 0.0
    """Chance that an arrival brings many operations."""
    faults: list[str] = field(default_factory=list)
    fault_every: float = 1.0

    @classmethod
    def draw(cls, rng: Random) -> "Setup":
        """A set-up for a seed."""
        volumes = rng.choice([1, 1, 1, 2])
        sizes = [
            rng.choice([8, 24, 64]) * BLOCK_BYTES - rng.choice([0, 0, SECTOR, 5 * SECTOR])
            for _ in range(volumes)
        ]
        faults = rng.sample(FAULTS, rng.randint(1, 5))
        if rng.random() < 0.35:
            faults.append(rng.choice(RARE_FAULTS))
        modes = [Mode.ASYNC, Mode.ASYNC, Mode.SEMI_SYNC, Mode.SYNC]
        rate = rng.choice([10.0, 40.0, 150.0])
        return cls(
            sizes=sizes,
            log_bytes=rng.choice([64, 96, 128, 256, 1024]) * KIB,
            modes=[rng.choice(modes) for _ in range(rng.choice([1, 1, 1, 1, 1, 2]))],
            sync_timeout=rng.choice([0.5, 2.0, 5.0]),
            block=rng.random() < 0.2,
            direct_resync=rng.random() < 0.15,
            slow=rng.random() < 0.4,
            hostile=rng.random() < 0.3,
            devices=rng.random() < 0.3,
            rate=rate,
            bursts=rng.choice([0.0, 0.1, 0.4]) * (0.2 if rate > 100 else 1.0),
            faults=faults,
            fault_every=rng.choice([0.3, 1.0, 3.0]),
        )
