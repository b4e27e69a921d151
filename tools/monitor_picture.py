#!/usr/bin/env python3
"""docs/monitor.svg: what `pratima monitor` shows of a real pair in the middle of a resync.

    .venv/bin/python tools/monitor_picture.py docs/monitor.svg

A primary with two replicas runs on loopback in a directory of its own; one replica is killed,
written past and started again. What the monitor draws of them then is the picture.
"""

import argparse
import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from rich.console import Console

from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.status import GroupStatus
from pratima_iscsi.edges.event_sockets import EventSubscriber, Watched, find_event_socket
from pratima_iscsi.edges.initiator import Initiator, write_16
from pratima_iscsi.errors import StateError
from pratima_iscsi.monitor.model import Model
from pratima_iscsi.monitor.picture import picture
from pratima_iscsi.monitor.watch import hear
from pratima_iscsi.replication.states import LinkState

MIB = 1 << 20
VOLUME_BYTES = 1024 * MIB
WRITE_BYTES = MIB
OUTAGE_WRITES = 700
COLUMNS, LINES = 80, 24
WAIT_SECONDS = 120.0


class Scene:
    """The daemons, and a monitor's model of them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port = _free_ports(6)
        names = ("paris", "lyon", "nice")
        self.subscriber = EventSubscriber(
            [Watched(name, find_event_socket(place / name)) for name in names]
        )
        self.model = Model(names, time.monotonic())
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Start a daemon and wait until it answers."""
        command = [sys.executable, "-m", "pratima_iscsi", *arguments]
        with (self.place / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*command, "--state", name], cwd=self.place, stdout=log, stderr=log
            )
        self.until(lambda: self.status(name) is not None, f"{name} answers")

    def replica(self, name: str, port: int) -> None:
        """Start a replica."""
        address = f"127.0.0.1:{port}"
        volume = f"{name}.img"
        self.start(name, "replica", "--group", "db", "--listen", address, "--volume", volume)

    def status(self, name: str) -> GroupStatus | None:
        """What a daemon says of its group; None: nobody answers."""
        try:
            with ControlClient(self.place / name) as client:
                return client.status().groups[0]
        except StateError:
            return None

    def link(self, port: int) -> LinkState:
        """The state of the primary's link to the replica at ``port``."""
        status = self.status("paris")
        assert status is not None
        return next(link.state for link in status.links if link.replica.endswith(f":{port}"))

    def listen(self, seconds: float) -> None:
        """Let the model hear what is published."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            hear(
                self.subscriber,
                left,
                lambda source, event: self.model.take(source, event, time.monotonic()),
                self.model.misunderstood,
            )

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Listen until something is so."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"not within {WAIT_SECONDS:.0f} s: {what}")
            self.listen(0.05)

    def write(self, count: int) -> None:
        """Write from the beginning of the volume on, and listen all the while."""
        status = self.status("paris")
        assert status is not None
        host, _, port = status.portal.rpartition(":")
        noise = Random(1).randbytes(2 * WRITE_BYTES)
        with Initiator.connect(host, int(port), target=status.target) as session:
            for number in range(count):
                at = number * 4096 % WRITE_BYTES
                blocks = WRITE_BYTES // 512
                command = write_16(number * blocks % (VOLUME_BYTES // 512), blocks)
                session.submit(command, data_out=noise[at : at + WRITE_BYTES])
                session.drain()
                self.listen(0.005)

    def close(self) -> None:
        """End everything."""
        self.subscriber.close()
        for process in self.running.values():
            process.terminate()
            process.wait()


def _free_ports(count: int) -> int:
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
        found = [socket.socket() for _ in range(count)]
        try:
            for number, one in enumerate(found):
                one.bind(("127.0.0.1", port + number))
            return port
        except (OSError, OverflowError):
            continue
        finally:
            for one in found:
                one.close()


def play(scene: Scene) -> None:
    """From the first sync to the middle of a resync."""
    lyon, nice = scene.port, scene.port + 3
    scene.replica("lyon", lyon)
    scene.replica("nice", nice)
    options = ["--group", "db", "--volume", "disk.img", "--size", str(VOLUME_BYTES)]
    options += ["--portal", "127.0.0.1:0", "--log-limit", "32MiB"]
    for port in (lyon, nice):
        options += ["--replica", f"127.0.0.1:{port}"]
    scene.start("paris", "serve", *options)
    for port in (lyon, nice):
        scene.until(lambda port=port: scene.link(port) is LinkState.SYNCED, "in step")  # type: ignore[misc]
    scene.write(60)
    scene.running["nice"].kill()
    scene.running["nice"].wait()
    scene.write(OUTAGE_WRITES)
    scene.replica("nice", nice)

    def halfway() -> bool:
        for source, view in scene.model.groups():
            for link in view.status.links if source.name == "paris" else ():
                if link.state is LinkState.RESYNCING and link.resync.blocks_total:
                    return 0.2 < link.resync.blocks_done / link.resync.blocks_total < 0.9
        return False

    scene.until(halfway, "the resync is halfway")


def main() -> None:
    """Make the picture that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("picture", type=Path)
    target = parser.parse_args().picture.absolute()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        scene = Scene(Path(directory))
        try:
            play(scene)
            lines = picture(scene.model, time.monotonic(), time.time(), COLUMNS, LINES)
        finally:
            scene.close()
    console = Console(record=True, width=COLUMNS, height=LINES, file=io.StringIO())
    for line in lines:
        console.print(line)
    console.save_svg(str(target), title="pratima monitor --state paris --state lyon --state nice")


if __name__ == "__main__":
    main()
