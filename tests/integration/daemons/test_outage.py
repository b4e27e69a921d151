"""The replica is away for a while: replay from the log, or a resync of what the log lost."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from pratima_iscsi.edges.initiator import Initiator, write_16
from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    SECTOR,
    Load,
    Pair,
    Primary,
    Replica,
    same,
)
from tests.integration.daemons.test_groups import Configured
from tests.torture.daemons import wait_until

LOG_BYTES = 4 * MIB
TARGET_SLACK_BYTES = 64 * MIB
"""What the target may take beside its log."""


def write_blocks(session: Initiator, numbers: list[int], draw: Random) -> None:
    """Write one random 4 KiB block at each of these places."""
    per_block = BLOCK // SECTOR
    for number in numbers:
        session.submit(write_16(number * per_block, per_block), data_out=draw.randbytes(BLOCK))
    session.drain()


def down(primary: Primary) -> None:
    """Wait until the primary knows that the replica is gone."""
    primary.wait_link(lambda link: link.state is LinkState.CONNECTING, "CONNECTING")


def test_few_writes_are_replayed_from_the_log(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step(), pair.primary.login() as session:
        pair.replica.finish()
        down(pair.primary)
        write_blocks(session, list(range(100)), Random(1))
        link = pair.primary.link()
        assert link.lag.writes == 100
        assert 100 * BLOCK <= link.lag.bytes < 101 * BLOCK
        assert link.bwt_blocks == 0
        before = link.resync
        pair.replica.start()
        pair.wait_equal()
        link = pair.primary.link()
        assert pair.primary.said("log holds all: "), pair.primary.output()
        assert link.resync == before, "no resync ran"


def test_an_overflow_is_resynced_block_by_block_while_writes_go_on(place: Path) -> None:
    pair = Pair(place, "--log-limit", "4MiB", size=256 * MIB)
    draw = Random(2)
    with pair.in_step(), pair.primary.login() as session:
        write_blocks(session, list(range(200)), draw)
        pair.primary.wait_synced(pair.replica)
        pair.replica.kill()
        down(pair.primary)
        dirty = draw.sample(range(8192), 4000)
        write_blocks(session, dirty, draw)
        write_blocks(session, dirty[:1000], draw)  # again: a block counts once
        status = pair.primary.status()
        link = status.links[0]
        assert status.log is not None and status.log.bytes <= status.log.limit == LOG_BYTES
        assert 0 < link.bwt_blocks <= len(dirty)
        assert link.bwt_blocks + link.lag.writes >= len(dirty)
        pair.replica.start()
        # Writes of other blocks go on meanwhile.
        others = list(range(32768, 32768 + 600))
        write_blocks(session, others, draw)
        pair.wait_equal()
        link = pair.primary.link()
        assert link.bwt_blocks == 0
        assert 0 < link.resync.bytes_sent <= 1.1 * (len(dirty) + len(others)) * BLOCK
        assert link.resync.blocks_done == link.resync.blocks_total


@pytest.mark.long
def test_random_load_through_an_overflow_and_the_replica_killed_in_the_resync(place: Path) -> None:
    pair = Pair(place, "--log-limit", "4MiB", size=64 * MIB)
    with pair.in_step():
        with Load(pair.primary) as load:
            load.wait(50)
            for kill in (True, True, False):
                pair.replica.kill()
                load.wait(600)
                assert pair.primary.link().bwt_blocks > 0
                pair.replica.start()
                pair.primary.wait_link(
                    lambda link: link.state is LinkState.RESYNCING, "RESYNCING", pair.replica
                )
                if kill:
                    continue
                pair.primary.wait_link(
                    lambda link: link.state is LinkState.SYNCED, "SYNCED", pair.replica
                )
            load.wait(50)
        load.check()
        pair.wait_equal()


def test_during_a_resync_the_replica_recovers_to_its_old_point(place: Path) -> None:
    pair = Pair(place, "--log-limit", "4MiB", size=256 * MIB)
    draw = Random(4)
    with pair.in_step(), pair.primary.login() as session:
        write_blocks(session, list(range(300)), draw)
        pair.wait_equal()
        old = pair.place / "old.img"
        old.write_bytes(pair.replica.volume.read_bytes())
        position = pair.primary.status().position
        pair.replica.kill()
        down(pair.primary)
        for lba in range(0, 48 * MIB // SECTOR, 2048):
            session.write(lba, draw.randbytes(MIB))
        pair.replica.launch()
        wait_until(
            lambda: (
                pair.primary.link().resync.blocks_done > 1000
                and pair.primary.link().state is LinkState.RESYNCING
            ),
            60,
            "in the midst of a resync",
            [pair.primary, pair.replica],
        )
        pair.replica.kill()
        ran = pair.recovered()
        assert ran.returncode == 0, ran
        assert f"{position.generation}:{position.sequence}" in ran.stdout
        assert same(old, place / "copy" / "0.img")
        pair.replica.start()
        pair.wait_equal()


def test_memory_stays_bounded_with_a_frozen_replica_and_a_full_log(place: Path) -> None:
    log = 64 * MIB
    pair = Pair(place, "--log-limit", str(log), size=256 * MIB)
    draw = Random(5)
    with pair.in_step(), pair.primary.login() as session:
        session.write(0, draw.randbytes(MIB))
        pair.primary.wait_synced(pair.replica)
        idle = pair.primary.resident_bytes
        with pair.replica.frozen():
            noise = draw.randbytes(2 * MIB)
            for number in range(20_000):
                at = number * 97 % MIB
                session.submit(
                    write_16(draw.randrange(65_000) * 8, 8), data_out=noise[at : at + BLOCK]
                )
            session.drain()
            status = pair.primary.status()
            assert status.links[0].bwt_blocks > 0, "the log overflowed"
            assert pair.primary.resident_bytes_max <= idle + log + TARGET_SLACK_BYTES
        pair.wait_equal()
        assert pair.primary.resident_bytes_max <= idle + log + TARGET_SLACK_BYTES


@pytest.mark.long
def test_memory_with_large_writes_stays_bounded_too(place: Path) -> None:
    log = 64 * MIB
    pair = Pair(place, "--log-limit", str(log), size=128 * MIB)
    with pair.in_step(), pair.primary.login() as session:
        session.write(0, Random(6).randbytes(MIB))
        pair.primary.wait_synced(pair.replica)
        idle = pair.primary.resident_bytes
        data = Random(6).randbytes(4 * MIB)
        with pair.replica.frozen():
            for number in range(32):
                session.submit(write_16(number * 8192, 8192), data_out=data)
                if session.in_flight >= 8:
                    session.poll()
            session.drain()
            assert pair.primary.link().bwt_blocks > 0
            assert pair.primary.resident_bytes_max <= idle + log + TARGET_SLACK_BYTES


class Stranger:
    """A port that is not Pratima's: it accepts, says ``greeting`` and then nothing."""

    def __init__(self, greeting: Callable[[], bytes]) -> None:
        self._greeting = greeting
        self._port = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._port.getsockname()[1]}"
        self.accepted: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, name="stranger")
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._port.accept()
                self.accepted.append(connection)
                with contextlib.suppress(OSError):
                    connection.sendall(self._greeting())

    def __enter__(self) -> "Stranger":
        return self

    def __exit__(self, *exception: object) -> None:
        self._port.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for connection in (*self.accepted, self._port):
            connection.close()


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (lambda: b"", "accepts connections but says nothing: it is not Pratima"),
        (lambda: b"\0" + os.urandom(64), "says what is no text, not ZeroMQ: it is not Pratima"),
    ],
    ids=["silent", "noise"],
)
def test_a_peer_that_is_not_pratima_is_one_reason_and_one_line_of_the_log(
    place: Path, greeting: Callable[[], bytes], reason: str
) -> None:
    with Stranger(greeting) as stranger:
        primary = Primary(place, "--replica", stranger.address, size=8 * MIB)
        with primary:
            primary.start()
            # Each time that it is sought: a dial, and a connection that finds out why.
            wait_until(lambda: len(stranger.accepted) >= 5, 60.0, "it is sought again", [primary])
            link = primary.link()
            assert link.state is LinkState.CONNECTING
            assert link.reason == f"control port: {stranger.address} {reason}"
            lines = [
                line
                for line in primary.output().splitlines()
                if f"replica {stranger.address}: " in line
            ]
            assert len(lines) == 1 and reason in lines[0], lines


def test_a_replica_of_which_one_port_only_answers_is_few_lines_of_either_log(place: Path) -> None:
    with Stranger(lambda: b"\0" + os.urandom(64)) as stranger, Replica(place) as replica:
        config = place / "serve.toml"
        config.write_text(f"""
state = "serve-state"
[portal]
listen = "127.0.0.1:0"
[[group]]
name = "default"
[[group.volume]]
path = "data.img"
size = "8MiB"
[[group.replica]]
address = "{replica.address}"
data_address = "{stranger.address}"
""")
        with Configured("serve", config, place) as serve:
            replica.start()
            serve.launch()
            # Each time that it is sought: a dial, and a connection that finds out why.
            wait_until(lambda: len(stranger.accepted) >= 10, 60.0, "sought", [serve, replica])
            for node, events in (
                (serve, (" welcome: first sync: ", " waiting: data port: ")),
                (replica, (" session closed: by the primary: data port: ",)),
            ):
                said = node.log.read_text()
                assert [said.count(event) for event in events] == [1] * len(events), said
