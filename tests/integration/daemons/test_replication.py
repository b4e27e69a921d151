"""The ordinary life of a pair: serving, first sync, following, the replica's own recovery."""

import json
import re
from pathlib import Path
from random import Random

from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import (
    BLOCK,
    MIB,
    SECTOR,
    Load,
    Pair,
    Primary,
    Replica,
    pratima,
    same,
    wait_equal,
)


def test_a_volume_without_a_replica_is_served_and_keeps_what_was_written(place: Path) -> None:
    with Primary(place, size=8 * MIB) as primary:
        primary.start()
        data = Random(1).randbytes(3 * SECTOR)
        with primary.login() as session:
            assert session.read_capacity() == (8 * MIB // SECTOR, SECTOR)
            session.write(5, data)
            session.flush()
            assert session.read(4, 5) == bytes(SECTOR) + data + bytes(SECTOR)
        assert primary.exit_code == 0
        primary.finish()
        assert primary.volume.read_bytes()[5 * SECTOR : 8 * SECTOR] == data
        primary.start()
        with primary.login() as session:
            assert session.read(5, 3) == data
        primary.finish()


def filled(path: Path, size: int) -> None:
    """A volume with data, written zeros and holes, all of odd places."""
    draw = Random(7)
    with path.open("wb") as file:
        file.truncate(size)
        for _ in range(24):
            file.seek(draw.randrange(size - 300_000))
            file.write(draw.randbytes(draw.randrange(1, 200_000)))
        file.seek(size // 2)
        file.write(bytes(MIB))
        file.seek(size - 512)
        file.write(draw.randbytes(512))


def test_a_first_sync_of_data_and_holes_under_load_ends_in_step(place: Path) -> None:
    size = 96 * MIB + 3 * SECTOR
    replica = Replica(place)
    primary = Primary(place, size=None, replicas=[replica])
    filled(primary.volume, size)
    with replica, primary:
        primary.start()
        with Load(primary, span=16 * MIB) as load:
            load.wait(200)
            replica.launch()
            primary.wait_link(lambda link: link.state is LinkState.SYNCED, "SYNCED", replica)
            load.wait(100)
        load.check()
        wait_equal(primary, replica)
        assert replica.volume.stat().st_size == size
        resync = primary.link().resync
        assert resync.blocks_done == resync.blocks_total > 0
        assert resync.bytes_sent < size // 2, "holes and zeros travel without data"
        assert replica.volume.stat().st_blocks * 512 < size // 2, "holes stay holes"


def test_a_replica_before_its_first_end_is_not_consistent(place: Path) -> None:
    with Replica(place) as replica:
        replica.start()
        assert replica.exit_code == 1
        assert "waiting for the first primary" in replica.status().reason
        replica.finish()
        ran = pratima("recover", "--state", str(replica.state))
        assert ran.returncode == 2
        assert "NOT BOUND" in ran.stdout


def test_recover_on_a_copy_gives_the_position_and_the_image(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step(), Load(pair.primary) as load:
        load.wait(300)
        load.end()
        load.check()
        status = pair.primary.wait_synced(pair.replica)
        pair.replica.kill()
        ran = pair.recovered()
        assert ran.returncode == 0, ran
        assert same(pair.primary.volume, place / "copy" / "0.img")
        position = f"{status.position.generation}:{status.position.sequence}"
        assert position in ran.stdout
        again = pratima(
            "recover",
            "--json",
            "--state",
            str(place / "copy" / "state"),
            "--volume",
            str(place / "copy" / "0.img"),
        )
        assert again.returncode == 0
        found = json.loads(again.stdout)
        assert found["consistent"] is True
        assert found["position"] == {
            "generation": status.position.generation,
            "sequence": status.position.sequence,
        }


def test_recover_without_a_volume_finds_that_of_the_daemon(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with pair.primary.login() as session:
            session.write(0, b"x" * BLOCK)
        pair.primary.wait_synced(pair.replica)
        pair.replica.kill()
        ran = pratima("recover", "--state", str(pair.replica.state))
        assert ran.returncode == 0, ran
        assert same(pair.primary.volume, pair.replica.volume)
        # And the daemon goes on from there.
        pair.replica.start()
        with pair.primary.login() as session:
            session.write(8, b"y" * BLOCK)
        pair.wait_equal()


def test_recover_beside_the_running_daemon_is_refused(place: Path) -> None:
    with Replica(place) as replica:
        replica.start()
        ran = pratima("recover", "--state", str(replica.state))
        assert ran.returncode == 2
        assert "in use" in ran.stderr and "next:" in ran.stderr


def test_status_json_has_the_promised_fields_and_exit_codes(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        with pair.primary.login() as session:
            session.write(0, b"x" * BLOCK)
        pair.primary.wait_synced(pair.replica)
        ran = pratima("status", "--state", str(pair.primary.state), "--json")
        assert ran.returncode == 0, ran
        status = json.loads(ran.stdout)
        assert status["role"] == "primary"
        assert re.fullmatch("[0-9a-f]{16}", status["position"]["generation"])
        assert status["position"]["sequence"] == 1
        (link,) = status["links"]
        assert link["replica"] == pair.replica.address
        assert link["state"] == "SYNCED" and link["degraded"] is False and link["reason"]
        assert set(link["lag"]) == {"writes", "bytes", "seconds"}
        assert link["bwt_blocks"] == 0
        assert {"blocks_total", "blocks_done", "bytes_sent"} <= set(link["resync"])
        ran = pratima("status", "--state", str(pair.replica.state), "--json")
        assert ran.returncode == 0, ran
        assert json.loads(ran.stdout)["position"] == status["position"]
        words = pratima("status", "--state", str(pair.primary.state))
        assert words.returncode == 0 and "SYNCED" in words.stdout
        pair.replica.kill()
        pair.primary.wait_link(lambda link: link.state is LinkState.CONNECTING, "CONNECTING")
        ran = pratima("status", "--state", str(pair.primary.state), "--json")
        assert ran.returncode == 1, ran


def test_each_kind_of_command_reaches_the_replica_in_order(place: Path) -> None:
    pair = Pair(place)
    with pair.in_step():
        draw = Random(3)
        with pair.primary.login() as session:
            session.write(0, draw.randbytes(4 * MIB))
            session.unmap([(100, 333), (2000, 64)])
            session.write_same(4000, 1001, draw.randbytes(SECTOR))
            session.write_same(3000, 77, bytes(SECTOR), unmap=True)
            old = session.read(5000, 2)
            assert session.compare_and_write(5000, old, draw.randbytes(2 * SECTOR))
            assert not session.compare_and_write(5000, old, bytes(2 * SECTOR))
            session.write(65_000, draw.randbytes(11 * SECTOR), fua=True)
        pair.wait_equal()
