"""The replica is another machine: the wire between them is cut under I/O, and the replica killed.

The guest is the initiator and the primary; the second one does what it is asked for.
"""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from pratima_iscsi.control.status import GroupStatus
from pratima_iscsi.replication.states import LinkState
from tests.integration.daemons.nodes import in_step
from tests.kernel.inside import lio, rig, second
from tests.kernel.inside.lio import LioServed
from tests.kernel.inside.scene import DEPTH, PATIENCE_SECONDS, DiskSession
from tests.oracle.client_view import lost
from tests.oracle.recorder import Recorder
from tests.oracle.stamps import SECTOR_BYTES, read_image
from tests.torture.workload import Mix, Workload

SIZE = 16 * rig.MIB
SECONDS = 120


@contextlib.contextmanager
def cut() -> Iterator[None]:
    """What we send is lost on the wire, and nobody is told; what the second guest sends arrives."""
    rig.run("modprobe", "sch_netem")
    rig.run("tc", "qdisc", "add", "dev", second.DEVICE, "root", "netem", "loss", "100%")
    try:
        yield
    finally:
        rig.run("tc", "qdisc", "del", "dev", second.DEVICE, "root")


@contextlib.contextmanager
def killed() -> Iterator[None]:
    """The replica is dead, and started again."""
    second.ask("kill")
    yield
    second.ask("start")


def test_a_cut_wire_and_a_killed_replica_cost_no_write_and_heal_by_themselves(
    tmp_path: Path,
) -> None:
    place = second.SHARE / second.NAME
    keys = second.keyed(tmp_path, place / second.FIRST_KEY, place / second.SECOND_KEY)
    link = ("--replica", second.ask("start"), "--mode", "sync", "--sync-timeout", "2")
    volume = tmp_path / "volume.img"
    recorder = Recorder(tmp_path, secrets.randbits(63), [SIZE // SECTOR_BYTES])
    with recorder, LioServed(tmp_path, *keys) as served:
        served.start()
        iqn = served.make("default", "--volume", str(volume), "--size", str(SIZE), *link)
        served.wait_status(in_step, "in step", seconds=SECONDS)
        with lio.login(iqn, [served.serial("default")]) as (disk,):
            (Path("/sys/block") / disk.name / "device/timeout").write_text(str(PATIENCE_SECONDS))

            async def connect() -> DiskSession:
                return DiskSession(disk)

            workload = Workload(recorder, connect, seed=37, depth=DEPTH, mix=Mix(compares=0))
            with workload.running():
                for fault in (cut, killed):
                    workload.work(100, until=50)
                    with fault():
                        workload.grant(50)
                        served.wait_status(is_lost, f"{fault.__name__}: noticed", seconds=SECONDS)
                        workload.work(50, until=50)
                    workload.work(50, until=50)
                    served.wait_status(in_step, f"{fault.__name__}: in step", seconds=SECONDS)
                workload.drain()
            workload.check()
        served.wait_status(in_step, "in step", seconds=SECONDS)
        assert served.delete("default").returncode == 0
        served.finish()
    now = recorder.now()
    shown = read_image([volume], recorder.run, recorder.sectors)
    assert not lost(recorder.history(), shown, now, now)
    assert second.ask("recover") == second.digest(volume)
    second.ask(second.END)


def is_lost(status: GroupStatus) -> bool:
    """Whether the link is down and writes do not wait for it any more."""
    (link,) = status.links
    return link.state is not LinkState.SYNCED and link.degraded
