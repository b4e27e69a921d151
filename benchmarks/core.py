"""What the core alone costs an asynchronous 4 KiB write: ``python -m benchmarks.core``.

One group with one link in step, and nothing around it: writes are submitted in batches as a wake-up
brings them, completed locally, sent, and acknowledged. Disk, sockets and SCSI are not in it.
"""

import argparse
import statistics
import time

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.operations import Operation, RecordKind
from pratima_iscsi.replication import effects as fx
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.messages import Ack, VolumeOffer, Welcome
from pratima_iscsi.replication.source_state import SourceState

BLOCK = 4096
SESSION = b"s" * 16
BAR_MICROSECONDS = 5.0
STEPS_MAX = 1000


def in_step() -> Backstore:
    """A group whose only replica is in step."""
    options = GroupOptions((VolumeOffer("v0", 1 << 30),), (LinkOptions("replica"),))
    group = Backstore(options, SourceState(b"g" * 16, "default", b"n" * 16))
    bring_in_step(group, 1.0)
    return group


def bring_in_step(group: Backstore, now: float) -> float:
    """Let the only replica of a new group get into step, from ``now`` on: when it is."""
    group.tick(now)
    link = group.links[0]
    welcome = Welcome(
        version=1, node=b"n" * 16, attempt=link.attempt, session=SESSION, credit=1 << 24,
        bound=False, consistent=False, generation=0, sequence=0, history=bytes(16), ancestry=(),
        incarnation=0, durable=0, transaction=0, direct=False, ended=0, staging_bytes=1 << 40,
    )  # fmt: skip
    group.control(0, welcome, now)
    group.data_ready(0, SESSION, now)
    for _ in range(STEPS_MAX):
        if link.state.value == "SYNCED":
            return now
        now += 0.01
        for effect in group.take_effects():
            if isinstance(effect, fx.ReadBlocks):
                zeros = [fx.BlocksRead(piece.count) for piece in effect.ranges]
                group.blocks_read(0, effect.read, zeros, now)
            elif isinstance(effect, fx.WriteLocal):
                group.local_done(effect.operations, now)
        acknowledge(group, now)
        group.tick(now)
        group.pump(now)
    raise AssertionError(f"never in step: {link.state}, {link.reason}")


def acknowledge(group: Backstore, now: float) -> None:
    """The replica has all that was sent."""
    link = group.links[0]
    n = link.window.highest_n
    group.control(0, Ack(SESSION, n, n, 0, 0, bytes(16)), now)


def measure(group: Backstore, writes: int, depth: int) -> float:
    """Microseconds of this process for each write."""
    payload = bytes(BLOCK)
    offsets = [(at * 7919 % (1 << 18)) * BLOCK for at in range(writes)]
    now, spent = 10.0, 0
    for at in range(0, writes, depth):
        batch = [
            Operation(RecordKind.WRITE, 0, o, BLOCK, payload) for o in offsets[at : at + depth]
        ]
        now += depth / 50_000
        began = time.process_time_ns()
        group.submit(batch, now)
        group.pump(now)
        while effects := group.take_effects():
            for effect in effects:
                if isinstance(effect, fx.WriteLocal):
                    group.local_done(effect.operations, now)
                elif isinstance(effect, fx.PersistGeneration):
                    group.generation_persisted(now)
        if at % (64 * depth) == 0:
            acknowledge(group, now)
        spent += time.process_time_ns() - began
    return spent / 1000 / writes


def main() -> int:
    """Measure; 1 when the best of the rounds is above the bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.core", description=__doc__)
    parser.add_argument("--writes", type=int, default=40_000)
    parser.add_argument("--depth", type=int, default=16, help="writes that a wake-up brings")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rounds = [measure(in_step(), options.writes, options.depth) for _ in range(options.rounds)]
    best, median = min(rounds), statistics.median(rounds)
    print(
        f"core, {options.depth} writes a wake-up: best {best:.2f}, median {median:.2f} µs a write"
    )
    return int(best > BAR_MICROSECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
