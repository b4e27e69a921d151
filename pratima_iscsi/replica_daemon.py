"""The replica daemon: keeps groups of many primaries, answers for them, applies their order.

A process: options in, composition, signals; no logic of its own. One rule: what belongs to no group
of this daemon is refused by name.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from pratima_iscsi import __version__, limits
from pratima_iscsi.control.options import ReplicaDaemonOptions, group_directory, unknown_group
from pratima_iscsi.control.options import ReplicaGroup as GroupOptions
from pratima_iscsi.control.sections import ServeGroupSection
from pratima_iscsi.control.service import answer
from pratima_iscsi.control.status import NodeStatus
from pratima_iscsi.control.target_list import TargetList
from pratima_iscsi.edges.control_socket import ControlServer
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.link_replica import ReplicaEndpoint
from pratima_iscsi.edges.link_sockets import LinkContext
from pratima_iscsi.edges.replica_state import StateFile
from pratima_iscsi.edges.replica_store import ReplicaStore
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.edges.volume_paths import remember_volume_paths
from pratima_iscsi.engine.event_output import open_publisher
from pratima_iscsi.engine.event_stream import EventStream
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
from pratima_iscsi.engine.replica_group import ReplicaGroup, is_blank
from pratima_iscsi.engine.replica_status import replica_status
from pratima_iscsi.engine.service_manager import ServiceManager
from pratima_iscsi.errors import RemoteProtocolError, StateError
from pratima_iscsi.replication import sink_effects as fx
from pratima_iscsi.replication.messages import (
    Closed,
    Grow,
    Hello,
    Message,
    Ping,
    Refused,
    ToReplica,
)
from pratima_iscsi.replication.states import Role
from pratima_iscsi.replication.wire import HEADER, PROTOCOL_VERSION


def run(options: ReplicaDaemonOptions) -> int:
    """Keep the replicas until a signal ends it; the exit code. Raises OperatorError."""
    log_to_stderr()
    return run_loop(partial(_main, options))


class ReplicaDaemon:
    """The groups of one replica daemon and the endpoint that they share."""

    def __init__(self, options: ReplicaDaemonOptions, directory: DiskDirectory) -> None:
        self.options = options
        self._directory = directory
        self._node = node_id(directory)
        self._loop = asyncio.get_running_loop()
        self.events = Events(EventStream(self._node), self._loop.call_later)
        self.descriptors = descriptors_of(self.events)
        self.started = time.monotonic()
        self._context = LinkContext()
        self._groups: dict[str, ReplicaGroup] = {}
        self._directories: list[DiskDirectory] = []
        self._endpoint = ReplicaEndpoint(
            self._context,
            self,
            options.listen,
            options.data_listen,
            keys=options.keys,
            allowed=options.allowed,
            hook=self.events.stream.sockets(""),
            descriptors=self.descriptors,
        )

    # --- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Recover every group, then listen."""
        for group in self.options.groups:
            self._groups[group.name] = self._open_group(group)
        await self._endpoint.open()
        for opened in self._groups.values():
            opened.turn()

    def _open_group(self, group: GroupOptions) -> ReplicaGroup:
        directory = DiskDirectory.open_at(
            group_directory(self.options.state, group.name), create=True
        )
        self._directories.append(directory)
        known = 0 if _may_be_bound(directory) else None  # the store compares the sizes
        volumes = [
            Volume.open(volume.path, size=volume.size, create=True, grown=True, known=known)
            for volume in group.volumes
        ]
        try:
            remember_volume_paths(directory.path, [volume.path for volume in volumes])
        except OSError as error:
            reason = f"where its volumes are cannot be stored: {error.strerror}"
            self._notice(group.name, fx.Notice("volume paths", reason, alarm=True))
        credit = min(limits.CREDIT_BYTES_MAX, limits.CREDITS_BYTES_MAX // len(self.options.groups))

        def recover() -> ReplicaStore:
            return ReplicaStore.open(
                directory,
                volumes,
                journal_bytes=self.options.journal_bytes,
                kept_bytes=credit,
                patient=True,
            )

        opened = ReplicaGroup(
            group.name,
            recover,
            volumes,
            node=self._node,
            blank=group.overwrite or all(map(is_blank, volumes)),
            credit=credit,
            journal_bytes=self.options.journal_bytes,
            loop=self._loop,
            tell=self._tell,
            notice=self._notice,
            allowed=self.options.allowed,
        )
        held = opened.store.state.group_name
        if opened.store.state.bound and held != group.name:
            raise StateError(
                f"{directory.path} holds group {held!r}",
                f"start with --group {held}, or name another --state",
            )
        return opened

    async def close(self) -> None:
        """A clean stop."""
        for group in self._groups.values():
            group.begin_close()
        for group in self._groups.values():
            failure = await self._loop.run_in_executor(None, group.finish)
            if failure:
                self._notice(group.name, fx.Notice("failed", failure, alarm=True))
        self._endpoint.close()
        self._context.close()
        for directory in self._directories:
            directory.close()

    # --- the endpoint's handler ----------------------------------------------------------------

    def _tell(self, peer: bytes, message: Message) -> None:
        self._endpoint.send_control(peer, message)

    def _notice(self, group: str, notice: fx.Notice) -> None:
        self.events.note(f"group {group}", notice.event, notice.reason, alarm=notice.alarm)

    def on_control(self, peer: bytes, user: str | None, message: ToReplica) -> None:
        """A source sent a control message."""
        if isinstance(message, Hello):
            group = self._groups.get(message.group_name)
            if group is None:
                reason = f"this replica keeps no group {message.group_name!r}"
                refusal = Refused(PROTOCOL_VERSION, message.attempt, "group", reason)
                self._tell(peer, refusal)
                return
            group.hello(peer, user or "", message)
        elif isinstance(message, Ping | Closed | Grow):
            for group in self._in_session_with(peer):
                group.control(peer, message)

    def _in_session_with(self, peer: bytes) -> list[ReplicaGroup]:
        """The groups that have their session with ``peer``, a ROUTER id; one, if it is honest."""
        return [
            group
            for group in self._groups.values()
            if group.sink.session is not None and group.sink.session.peer == peer
        ]

    def on_frame(self, frame: memoryview, user: str | None) -> None:
        """A frame arrived on the data port."""
        group_id = HEADER.unpack_from(frame)[5] if len(frame) >= HEADER.size else b""
        for group in self._groups.values():
            if group.sink.standing.group == group_id:
                group.frame(frame, user or "")
                return

    def on_violation(
        self, peer: bytes | None, user: str | None, error: RemoteProtocolError
    ) -> None:
        """A peer sent what is no message: its session ends."""
        self.events.note("link", "violation", str(error), alarm=False)
        if peer is not None:
            for group in self._in_session_with(peer):
                group.violation(str(error))

    # --- what the control socket asks ----------------------------------------------------------

    def status(self, group: str) -> NodeStatus:
        """How the groups stand."""
        return NodeStatus(
            version=__version__,
            pid=os.getpid(),
            uptime_seconds=round(time.monotonic() - self.started, 1),
            groups=tuple(
                replica_status(known, self.events.alarms(known.name))
                for known in self._chosen(group)
            ),
            node_alarms=self.events.node_alarms(),
        )

    def _chosen(self, group: str) -> Sequence[ReplicaGroup]:
        if not group:
            return tuple(self._groups.values())
        if group not in self._groups:
            raise unknown_group(group, self._groups)
        return (self._groups[group],)

    def _not_here(self) -> str:
        raise StateError(
            "this node is a replica: its primary decides about the link",
            "give the command on the primary",
        )

    def resync(self, group: str, replica: str, from_primary: bool) -> str:
        """Refused: a replica does not resync itself."""
        return self._not_here()

    def kill(self, group: str, replica: str) -> str:
        """Refused: see ``resync``."""
        return self._not_here()

    def reconnect(self, group: str, replica: str) -> str:
        """Refused: see ``resync``."""
        return self._not_here()

    def enable(self, group: str, replica: str) -> str:
        """Refused: see ``resync``."""
        return self._not_here()

    def disable(self, group: str, replica: str) -> str:
        """Refused: see ``resync``."""
        return self._not_here()

    def clean(self, group: str, replica: str, proof: bool) -> str:
        """Refused: see ``resync``."""
        return self._not_here()

    def _no_targets(self) -> NoReturn:
        raise StateError(
            "this node is a replica: it has no targets", "give the command on the primary"
        )

    async def create_target(self, section: ServeGroupSection) -> str:
        """Refused: a replica is not served from."""
        self._no_targets()

    async def delete_target(self, group: str, end_sessions: bool) -> str:
        """Refused: see ``create_target``."""
        self._no_targets()

    async def list_targets(self) -> TargetList:
        """Refused: see ``create_target``."""
        self._no_targets()

    async def resize(self, group: str, volume: str, size: int | None, later: bool) -> str:
        """Refused: a replica grows when its primary asks it to."""
        return self._not_here()


def _may_be_bound(directory: DiskDirectory) -> bool:
    """Whether a group's copy may be in the volumes: they are not made then. Raises StateError."""
    try:
        file = StateFile(directory)
    except OSError:
        return True
    try:
        return file.state.bound
    finally:
        file.close()


async def _main(options: ReplicaDaemonOptions) -> int:
    loop = asyncio.get_running_loop()
    stop = until_signalled(loop)
    directory = state_directory(options.state)
    daemon = ReplicaDaemon(options, directory)
    await daemon.open()

    async def answered(data: bytes) -> bytes:
        return await answer(daemon, data)

    publisher = await open_publisher(
        options.state, options.events, options.keys, daemon.events, daemon.descriptors
    )
    control = ControlServer(answered)
    await control.open(options.state)
    daemon.events.stream.start(publisher.publish, Role.REPLICA, lambda: daemon.status(""))
    events = f", events on {publisher.port}" if publisher.port else ""
    say(f"replica: listening on {options.listen}, data on {options.data_listen}{events}")
    manager = ServiceManager()
    manager.ready()
    await stop.wait()
    manager.stopping()
    try:
        await control.close()
    finally:
        await daemon.close()
    daemon.events.stream.stop()
    publisher.close()
    daemon.descriptors.close()
    directory.close()
    manager.close()
    return 0
