"""The target daemon: serves groups over iSCSI through a front end, and mirrors them.

A process: options in, composition, signals; no logic of its own. One rule: nothing is served before
everything that could refuse it was asked.
"""

import asyncio
import os
import time
from functools import partial
from typing import Final

from pratima_iscsi import __version__
from pratima_iscsi.control.options import ServeGroup, ServeOptions
from pratima_iscsi.control.sections import ServeGroupSection
from pratima_iscsi.control.service import answer
from pratima_iscsi.control.status import NodeStatus
from pratima_iscsi.control.target_list import TargetList
from pratima_iscsi.control.text import printable
from pratima_iscsi.edges.control_socket import ControlServer
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.link_sockets import LinkContext
from pratima_iscsi.engine.event_output import open_publisher
from pratima_iscsi.engine.event_stream import EventStream
from pratima_iscsi.engine.front_end_choice import choose_front_end
from pratima_iscsi.engine.process import (
    Events,
    descriptors_of,
    log_to_stderr,
    node_id,
    run_loop,
    say,
    state_directory,
    until_signalled,
)
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.engine.service_manager import ServiceManager
from pratima_iscsi.engine.source_status import not_served, source_status
from pratima_iscsi.engine.source_verbs import SourceVerbs
from pratima_iscsi.engine.targets import Targets
from pratima_iscsi.replication.states import Role

NOT_CLEAN: Final = 1
"""Exit code of a stop that a disk did not let be clean."""


def run(options: ServeOptions) -> int:
    """Serve until a signal ends it; the exit code. Raises OperatorError."""
    log_to_stderr()
    return run_loop(partial(_main, options))


class TargetDaemon(SourceVerbs):
    """The groups of one target daemon and the front end that serves them."""

    def __init__(self, options: ServeOptions, directory: DiskDirectory) -> None:
        super().__init__()
        self.options = options
        self._node = node_id(directory)
        self.events = Events(EventStream(self._node), asyncio.get_running_loop().call_later)
        self.started = time.monotonic()
        self._context = LinkContext()
        self.descriptors = descriptors_of(self.events)
        self.front_end, self._why = choose_front_end(
            options, self.events, directory, self._node, self.descriptors
        )
        self.targets = Targets(
            directory,
            options,
            self.groups,
            self._open_group,
            self.front_end,
            self.descriptors,
        )

    async def _open_group(self, options: ServeGroup) -> ServedGroup:
        return await ServedGroup.open(options, self.options, self._node, self._context, self.events)

    async def serve(self) -> None:
        """Let initiators in. Raises OperatorError."""
        await self.targets.open()
        for name, error in self.targets.failed.items():
            self.events.note(f"group {name}", "not served", str(error), alarm=True)
        await self.front_end.open()

    def connect(self) -> None:
        """Begin to mirror."""
        for group in self.groups.values():
            group.connect()

    async def close(self) -> bool:
        """A clean stop: initiators first, then the groups, then the sockets; whether it was."""
        await self.targets.settle()
        await self.front_end.close()
        clean = [await group.stop() for group in self.groups.values()]
        self._context.close()
        return all(clean)

    def names(self) -> list[str]:
        """Of the groups that there are, served or not."""
        return list({**self.groups, **self.targets.failed})

    # --- what the control socket asks ----------------------------------------------------------

    def status(self, group: str) -> NodeStatus:
        """How the groups stand."""
        failed = self.targets.failed
        served = [] if group in failed and group not in self.groups else self.chosen(group)
        return NodeStatus(
            version=__version__,
            pid=os.getpid(),
            uptime_seconds=round(time.monotonic() - self.started, 1),
            groups=tuple(
                source_status(
                    known.engine,
                    known.clock,
                    self.events.alarms(known.options.name),
                    portal=self.front_end.address(known),
                    front_end=f"{self.front_end.name} ({self._why})",
                    trouble=self.front_end.trouble(known),
                    target=known.options.target,
                    sessions=self.front_end.sessions(known),
                )
                for known in served
            )
            + tuple(
                not_served(name, str(error), self.events.alarms(name))
                for name, error in failed.items()
                if group in ("", name)
            ),
            node_alarms=self.events.node_alarms(),
        )

    async def create_target(self, section: ServeGroupSection) -> str:
        """Serve one more group."""
        self.events.control(f"group {printable(section.name)}", "target create")
        return await asyncio.shield(self.targets.create(section))

    async def delete_target(self, group: str, end_sessions: bool) -> str:
        """Serve a group no more."""
        self.events.control(f"group {printable(group)}", "target delete")
        return await asyncio.shield(self._delete_target(group, end_sessions))

    async def _delete_target(self, group: str, end_sessions: bool) -> str:
        said = await self.targets.delete(group, end_sessions=end_sessions)
        self.events.forget(group)
        return said

    async def list_targets(self) -> TargetList:
        """The targets."""
        return await self.targets.list()


async def _main(options: ServeOptions) -> int:
    loop = asyncio.get_running_loop()
    stop = until_signalled(loop)
    directory = state_directory(options.state)
    daemon = TargetDaemon(options, directory)

    async def answered(data: bytes) -> bytes:
        return await answer(daemon, data)

    publisher = await open_publisher(
        options.state, options.events, options.keys, daemon.events, daemon.descriptors
    )
    await daemon.serve()
    control = ControlServer(answered)
    await control.open(options.state)
    daemon.events.stream.start(publisher.publish, Role.PRIMARY, lambda: daemon.status(""))
    daemon.connect()
    for group in daemon.groups.values():
        for lun in range(len(group.options.volumes)):
            say(f"target: {daemon.front_end.locate(group, lun)}")
    if not daemon.groups:
        say("ready: there is no target yet; pratima target create makes one")
    if publisher.port is not None:
        say(f"events: on {publisher.port}")
    manager = ServiceManager()
    manager.ready()
    await stop.wait()
    manager.stopping()
    try:
        await control.close()
    finally:
        clean = await daemon.close()
    daemon.events.stream.stop()
    publisher.close()
    daemon.descriptors.close()
    directory.close()
    manager.close()
    return 0 if clean else NOT_CLEAN
