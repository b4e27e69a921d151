"""Thin provisioning end to end: what an initiator gives back is given back by both files."""

from pathlib import Path
from random import Random

import pytest

from pratima_iscsi.edges.initiator import Initiator
from tests.conformance.tools import run, tool
from tests.integration.daemons.nodes import MIB, SECTOR, WAIT_SECONDS, Pair
from tests.torture.daemons import wait_until

WRITTEN = 16 * MIB
SLACK = 64 << 10
"""What a file system may keep for itself beside a file's data."""


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def wait_allocated(pair: Pair, size: int) -> None:
    """Both files hold ``size`` bytes of data, and the same ones."""
    pair.wait_equal()
    for volume in (pair.primary.volume, pair.replica.volume):
        wait_until(
            lambda volume=volume: abs(allocated(volume) - size) <= SLACK,  # type: ignore[misc]
            WAIT_SECONDS,
            f"{volume} holds {size} bytes",
            [pair.primary, pair.replica],
        )


def fill(session: Initiator) -> None:
    draw = Random(1)
    for at in range(0, WRITTEN, MIB):
        session.write(at // SECTOR, draw.randbytes(MIB))


def test_unmap_and_write_same_punch_holes_at_both_ends(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step(), pair.primary.login() as session:
        fill(session)
        wait_allocated(pair, WRITTEN)
        session.unmap([(0, 4 * MIB // SECTOR), (8 * MIB // SECTOR, 2 * MIB // SECTOR)])
        wait_allocated(pair, WRITTEN - 6 * MIB)
        session.write_same(4 * MIB // SECTOR, 3 * MIB // SECTOR, bytes(SECTOR), unmap=True)
        wait_allocated(pair, WRITTEN - 9 * MIB)
        assert session.read(0, 8) == bytes(8 * SECTOR)


def test_what_was_unmapped_while_the_replica_was_away_is_punched_there_too(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step(), pair.primary.login() as session:
        fill(session)
        wait_allocated(pair, WRITTEN)
        pair.replica.finish()
        session.unmap([(0, 10 * MIB // SECTOR)])
        pair.bring_back()
        wait_allocated(pair, WRITTEN - 10 * MIB)


@pytest.mark.tools
def test_a_discard_of_qemu_gives_space_back_at_both_ends(place: Path) -> None:
    program = tool("qemu-io", "qemu-utils qemu-block-extra")
    pair = Pair(place)
    with pair.in_step():
        status = pair.primary.status()
        url = f"iscsi://{status.portal}/{status.target}/0"
        commands = ("write -P 7 0 16M", "discard 2M 8M", "read -P 0 2M 8M", "flush")
        words = [word for command in commands for word in ("-c", command)]
        said = run(program, "-f", "raw", "-d", "unmap", *words, url)
        assert "failed" not in said.stdout + said.stderr, said
        wait_allocated(pair, WRITTEN - 8 * MIB)
