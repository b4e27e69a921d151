"""A target that the daemon has made, under I/O of a real initiator: bad links, kills, verification.

The guest is the initiator, the primary, and, by a second daemon, the replica.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.kernel.inside import lio, rig
from tests.kernel.inside.lio import LioServed
from tests.kernel.inside.scene import KernelScene
from tests.torture.daemons import Replica

SIZE = 32 * rig.MIB
LOST_SECONDS = 90


@contextlib.contextmanager
def bad_network(*how: str) -> Iterator[None]:
    """Everything on loopback, iSCSI and replication alike, goes through netem."""
    rig.run("modprobe", "sch_netem")
    rig.run("tc", "qdisc", "add", "dev", "lo", "root", "netem", *how)
    try:
        yield
    finally:
        rig.run("tc", "qdisc", "del", "dev", "lo", "root")


def test_delay_loss_and_reordering_cost_time_and_nothing_else(tmp_path: Path) -> None:
    scene = KernelScene(tmp_path, 23, ("--mode", "sync"), required=True, lio_setup=True)
    with scene.running(), scene.workload.running():
        scene.workload.work(100, until=80)
        with bad_network("delay", "10ms", "5ms", "loss", "3%", "reorder", "10%"):
            scene.workload.work(60, until=40)
        with bad_network("loss", "100%"):
            scene.workload.grant(40)
            scene.primary.wait_status(lambda now: not now.synced, LOST_SECONDS, "the link is lost")
        scene.workload.work(50, until=50)
        scene.expect_all_that_was_acknowledged()


def test_a_killed_daemon_finds_its_target_as_it_left_it(tmp_path: Path) -> None:
    scene = KernelScene(tmp_path, 29, lio_setup=True)
    with scene.running(), scene.workload.running():
        for stop in (scene.primary.kill, scene.primary.stop):
            scene.workload.work(150, until=100)
            scene.workload.grant(100)
            stop()
            scene.workload.promised = False
            before = scene.primary.log.read_text().count("kernel: ")
            scene.primary.start()
            scene.workload.work(50, until=50)
            assert scene.primary.log.read_text().count("kernel: ") == before, "nothing to do"
        scene.expect_all_that_was_acknowledged()


def test_fio_verifies_what_it_wrote_and_the_replica_is_equal(tmp_path: Path) -> None:
    with Replica(tmp_path) as replica, LioServed(tmp_path) as served:
        replica.start()
        served.start()
        iqn = served.make(
            "default",
            *("--volume", str(tmp_path / "volume.img"), "--size", f"{SIZE}"),
            *("--replica", f"127.0.0.1:{replica.port}", "--mode", "semi-sync"),
        )
        with lio.login(iqn, [served.serial("default")]) as (disk,):
            rig.run(
                *("fio", "--name=lab", f"--filename={disk}", "--direct=1", "--ioengine=libaio"),
                *("--rw=randwrite", "--bsrange=4k-64k", "--iodepth=16", f"--size={SIZE}"),
                *("--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=7"),
            )
        served.wait_status(
            lambda status: not status.links[0].lag.writes, "the replica has all", replica
        )
        assert served.delete("default").returncode == 0
        assert replica.stop() == 0
        rig.run("cmp", str(tmp_path / "volume.img"), str(replica.volume))
