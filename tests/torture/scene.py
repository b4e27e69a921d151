"""A primary, a replica and a workload, and images of them judged by the oracle.

One rule: an image is judged as a stranger would: copied from outside, brought up by the product's
own `recover`, read, and compared with what the recorder saw. An image that is wrong stays in the
run's directory, where `python -m tests.oracle` judges it again.
"""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Final

from tests.oracle.checker import Verdict, check
from tests.oracle.client_view import lost
from tests.oracle.recorder import Frozen, History, Recorder
from tests.oracle.stamps import SECTOR_BYTES, Image, read_image
from tests.torture.daemons import (
    Primary,
    Replica,
    Status,
    copy,
    discard,
    free_ports,
    recover,
)
from tests.torture.login import login
from tests.torture.proxy import FaultProxy, ZmtpFraming
from tests.torture.workload import Mix, Workload

SYNC_SECONDS: Final = 90.0
"""How long a pair may take to be SYNCED once nothing disturbs it (I11)."""
TWICE: Final = 0.25
"""Share of the images that are recovered twice: it must change nothing."""
VOLUME_BYTES: Final = 16 << 20
BLOCK_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Shot:
    """A recovered image of the replica, with the history to judge it by, as it was then."""

    frozen: Frozen
    history: History
    image: Image


class Wire:
    """Proxies before a replica's control and data ports, in their place."""

    def __init__(self, replica_port: int, seed: int) -> None:
        self.port = free_ports(3)
        self.control, self.data = (
            FaultProxy(
                ("127.0.0.1", replica_port + number), ZmtpFraming, seed + number, self.port + number
            )
            for number in range(2)
        )

    @property
    def both(self) -> tuple[FaultProxy, FaultProxy]:
        """Control and data."""
        return self.control, self.data

    def heal(self) -> None:
        """End every fault on both."""
        for proxy in self.both:
            proxy.heal()


class Scene:
    """One group on two nodes, written to by one workload.

    ``required``: what is acknowledged while the link is SYNCED and not degraded must be in every
    image from then on (sync mode).
    """

    def __init__(
        self,
        directory: Path,
        seed: int,
        options: Sequence[str] = (),
        *,
        required: bool = False,
        wired: bool = False,
        mix: Mix | None = None,
    ) -> None:
        self.directory = directory
        self.random = Random(seed)
        self.required = required
        self.verdicts: list[Verdict] = []
        self.replica = Replica(directory)
        self.wire = Wire(self.replica.port, seed) if wired else None
        link = self.wire.port if self.wire else self.replica.port
        self.primary = Primary(directory, VOLUME_BYTES, link, options)
        run = directory / "run"
        run.mkdir()
        self.recorder = Recorder(run, secrets.randbits(63), [VOLUME_BYTES // SECTOR_BYTES])
        self.workload = Workload(
            self.recorder, lambda: login(self.primary.port), seed=seed, mix=mix
        )
        self._images = 0

    @contextlib.contextmanager
    def running(self) -> Iterator["Scene"]:
        """Start both, and the proxies; at the end nothing of it is left running."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.recorder)
            for proxy in self.wire.both if self.wire else ():
                stack.enter_context(proxy.in_thread())
            stack.enter_context(self.replica)
            self.replica.start()
            stack.enter_context(self.primary)
            self.primary.start()
            self.wait_synced()
            yield self

    # --- waiting --------------------------------------------------------------------------------

    def wait_synced(self) -> Status:
        """Until every link is SYNCED and none degraded; acknowledgements then are promises."""
        found = self.primary.wait_status(
            lambda status: status.synced, SYNC_SECONDS, "SYNCED", [self.replica]
        )
        self.workload.promised = self.required
        return found

    def wait_caught_up(self) -> Status:
        """Until the replica has acknowledged everything that was written."""
        return self.primary.wait_status(
            lambda status: status.caught_up, SYNC_SECONDS, "caught up", [self.replica]
        )

    def work(self, at_least: int, at_most: int) -> None:
        """Grant some operations and wait until a random number of them is answered."""
        granted = self.random.randint(at_least, at_most)
        self.workload.work(granted, until=self.random.randint(1, granted // 2))

    # --- images ---------------------------------------------------------------------------------

    def shoot(self) -> Shot:
        """Copy the replica as it stands still for a moment, and recover the copy."""
        since = self.recorder.now()
        with self.replica.frozen():
            by = self.recorder.now()
            self.workload.promised = False
            history, copied = self.recorder.history(), self._copy()
        return self._recovered(copied, history, since, by)

    def shoot_killed(self) -> Shot:
        """SIGKILL the replica, copy what it left, and recover the copy."""
        since = self.recorder.now()
        self.replica.kill()
        by = self.recorder.now()
        self.workload.promised = False
        history, copied = self.recorder.history(), self._copy()
        return self._recovered(copied, history, since, by)

    def _copy(self) -> Path:
        self._images += 1
        copied = self.directory / f"image-{self._images}"
        self.replica.copy_to(copied)
        return copied

    def _recovered(self, copied: Path, history: History, since: int, by: int) -> Shot:
        recovery = recover(copied / "state", copied / "volume.img")
        assert recovery.consistent, f"{copied.name} is not consistent: {recovery.said}"
        if self.random.random() < TWICE:
            again = recover(copied / "state", copied / "volume.img")
            assert again == recovery, f"{copied.name}: {recovery.said}; again: {again.said}"
        frozen = self.recorder.frozen(copied.name, since, by)
        (path,) = self.recorder.image_paths(copied.name)
        (copied / "volume.img").rename(path)
        image = read_image([path], self.recorder.run, self.recorder.sectors)
        discard(copied)
        return Shot(frozen, history, image)

    def judge(self, shot: Shot) -> Verdict:
        """What the oracle says of it; the image is kept when that is no."""
        verdict = check(shot.history, shot.image, shot.frozen.since, shot.frozen.by)
        if verdict.ok:
            for path in self.recorder.image_paths(shot.frozen.name):
                path.unlink()
        self.verdicts.append(verdict)
        return verdict

    def expect_prefix(self, shot: Shot) -> None:
        """The image must be a prefix; what sync mode promised must be in it."""
        verdict = self.judge(shot)
        assert verdict.ok, f"{shot.frozen.name} in {self.recorder.directory}: {verdict}"

    def expect_client_view(self) -> None:
        """The primary was killed: its volume must show everything acknowledged."""
        now = self.recorder.now()
        image = read_image([self.primary.volume], self.recorder.run, self.recorder.sectors)
        problems = lost(self.recorder.history(), image, now, now)
        assert not problems, problems[:10]

    def rebase(self) -> None:
        """Take the primary's volume for the truth that all images start from."""
        self._images += 1
        name = f"base-{self._images}"
        (path,) = self.recorder.image_paths(name)
        copy(self.primary.volume, path)
        self.recorder.rebase(name)

    def touched_blocks(self, since: int) -> int:
        """Replication blocks that operations issued after ``since`` touch."""
        per_block = BLOCK_BYTES // SECTOR_BYTES
        return len(
            {
                (op.volume, block)
                for op in self.recorder.history().ops
                if op.issued > since
                for block in range(op.lba // per_block, (op.end - 1) // per_block + 1)
            }
        )

    def expect_equal(self) -> None:
        """No load, no faults: the pair converges by itself, and both volumes are equal."""
        self.workload.drain()
        self.wait_caught_up()
        shot = self.shoot()
        whole = replace(
            shot.history,
            ops=tuple(
                replace(op, required=op.acknowledged < shot.frozen.since) for op in shot.history.ops
            ),
        )
        self.expect_prefix(replace(shot, history=whole))
        primary = read_image([self.primary.volume], self.recorder.run, self.recorder.sectors)
        assert list(primary.volumes[0]) == list(shot.image.volumes[0])

    def report(self) -> str:
        """How many images were judged, and that the verdicts were about something."""
        members = [verdict.least for verdict in self.verdicts]
        return (
            f"{len(members)} images, all of them prefixes, of {min(members)} to {max(members)} "
            f"operations; {self.workload.acknowledged} acknowledged"
        )
