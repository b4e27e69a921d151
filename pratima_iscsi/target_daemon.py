"""The target daemon: serves groups over iSCSI through the embedded portal, and mirrors them.

A process: options in, composition, signals; no logic of its own. One rule: nothing is served before
everything that could refuse it was asked.
"""

import asyncio
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Final

from pratima_iscsi import __version__
from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.control.options import ReplicaOptions, ServeGroup, ServeOptions, group_directory
from pratima_iscsi.control.service import answer
from pratima_iscsi.control.status import NodeStatus
from pratima_iscsi.edges.boot import read_boot_id
from pratima_iscsi.edges.control_socket import ControlServer
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.link_sockets import LinkContext
from pratima_iscsi.edges.link_source import SourceLink
from pratima_iscsi.edges.portal import Portal
from pratima_iscsi.edges.source_store import SourceStore
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.engine.local_volume import LocalVolume
from pratima_iscsi.engine.process import (
    Events,
    log_to_stderr,
    node_id,
    run_loop,
    say_ready,
    state_directory,
    until_signalled,
)
from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.engine.source_status import LagClock, source_status
from pratima_iscsi.engine.volume_storage import VolumeStorage
from pratima_iscsi.errors import RemoteProtocolError, StateError
from pratima_iscsi.iscsi.directory import Directory, ServedTarget
from pratima_iscsi.limits import LAG_SAMPLE_SECONDS
from pratima_iscsi.replication import effects as fx
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.messages import ToSource, VolumeOffer
from pratima_iscsi.replication.source_state import LinkState, SourceState
from pratima_iscsi.replication.states import Connection, Mode
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.target import Target

NOT_CLEAN: Final = 1
"""Exit code of a stop that a disk did not let be clean."""


def run(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Raises OperatorError."""
    log_to_stderr()
    return run_loop(_main(options))


class ServedGroup:
    """One group of this daemon: its store, its engine, its links' sockets, its target."""

    def __init__(
        self,
        options: ServeGroup,
        serve: ServeOptions,
        node: bytes,
        context: LinkContext,
        events: Events,
    ) -> None:
        self.options = options
        self.events = events
        self.clock = LagClock()
        self._loop = asyncio.get_running_loop()
        self.directory = DiskDirectory.open_at(
            group_directory(serve.state, options.name), create=True
        )
        volumes = [Volume.open(v.path, size=v.size) for v in options.volumes]
        boot_id = read_boot_id()
        self.store = SourceStore(self.directory.path)
        state = self._load(volumes, boot_id, node)
        offers = tuple(
            VolumeOffer(v.name, volume.size)
            for v, volume in zip(options.volumes, volumes, strict=True)
        )
        links = tuple(map(_link_options, options.replicas))
        self._remember(state, links)
        backstore = Backstore(GroupOptions(offers, links, options.log_bytes), state)
        self.engine = SourceGroup(
            backstore,
            [
                LocalVolume(volume, self._loop, f"{options.name}-{index}")
                for index, volume in enumerate(volumes)
            ],
            self.store,
            boot_id,
            self._loop,
            self._report,
        )
        self.links = [
            SourceLink(
                context,
                LinkEvents(self.engine, index),
                replica.address,
                replica.data_address,
                keys=serve.keys,
                peer_key=replica.peer_key,
            )
            for index, replica in enumerate(options.replicas)
        ]
        self.engine.links.extend(self.links)
        group_id = state.group
        self.device = Target()
        for index in range(len(volumes)):
            serial = hashlib.sha256(group_id + index.to_bytes(2, "big")).hexdigest()[:32]
            storage = VolumeStorage(self.engine, index)
            self.device.add(
                index, LogicalUnit(storage, serial=serial, block_size=options.block_bytes)
            )
        if self.store.doubt:
            self._report(fx.Report(None, "unclean start", self.store.doubt, alarm=bool(links)))

    def _load(self, volumes: Sequence[Volume], boot_id: str, node: bytes) -> SourceState:
        names = [volume.name for volume in self.options.volumes]
        states = [v.state(name) for v, name in zip(volumes, names, strict=True)]
        state = self.store.load(states, boot_id)
        if state is None:
            state = SourceState(secrets.token_bytes(16), self.options.name, node)
            self.store.create(state)
        if state.name != self.options.name:
            raise StateError(
                f"{self.directory.path} holds group {state.name!r}",
                f"start with --group {state.name}, or name another --state",
            )
        return state

    def _remember(self, state: SourceState, links: Sequence[LinkOptions]) -> None:
        """A link that is synchronous once counts as such after any power cut."""
        known = {link.name for link in state.links if link.ever_sync}
        for link in links:
            self.store.mark(link.name)
            if link.mode is not Mode.ASYNC and link.name not in known:
                self.store.remember_link(LinkState(link.name, ever_sync=True))

    def _report(self, report: fx.Report) -> None:
        where = f"group {self.options.name}"
        if report.link is not None:
            where += f" replica {self.options.replicas[report.link].name}"
        self.events.note(where, report.event, report.reason, alarm=report.alarm)

    def remember(self, link: Link) -> None:
        """Keep whether the link is enabled over a restart. Raises StateError."""
        state = LinkState(
            link.options.name,
            ever_sync=link.ever_sync,
            synced_once=link.synced_once,
            enabled=link.connection is not Connection.DISABLED,
        )
        try:
            self.engine.remember_link(state)
        except OSError as error:
            raise StateError(
                f"it is done, but a restart would forget it: {error.strerror or error}",
                "see to the state directory's disk, and give the command again",
            ) from None

    def connect(self) -> None:
        """Begin to seek the replicas, and keep the lag's clock."""
        for link in self.links:
            link.connect()
        self.engine.turn()
        self._sample()

    def _sample(self) -> None:
        self.clock.sample(self.engine, time.monotonic())
        self._sampler = self._loop.call_later(LAG_SAMPLE_SECONDS, self._sample)

    async def stop(self) -> bool:
        """A clean stop, if the disks allow it; no front end submits any more."""
        self._sampler.cancel()
        clean = await self.engine.stop()
        for link in self.links:
            link.close()
        self.store.close()
        self.directory.close()
        return clean


class LinkEvents:
    """What one link's sockets tell, told on to the group with the link's index."""

    def __init__(self, engine: SourceGroup, index: int) -> None:
        self._engine = engine
        self._index = index

    def on_up(self) -> None:
        """The control connection stands."""
        self._engine.control_up(self._index)

    def on_down(self, reason: str) -> None:
        """There is no control connection."""
        self._engine.control_down(self._index, reason)

    def on_control(self, message: ToSource) -> None:
        """The replica sent a control message."""
        self._engine.control(self._index, message)

    def on_violation(self, error: RemoteProtocolError) -> None:
        """The replica sent what is no control message."""
        self._engine.control_down(self._index, f"not understood: {error}")

    def on_data_ready(self) -> None:
        """The data channel stands."""
        self._engine.data_ready(self._index)

    def on_data_lost(self, reason: str) -> None:
        """The data channel is gone."""
        self._engine.data_lost(self._index, reason)


def _link_options(replica: ReplicaOptions) -> LinkOptions:
    return LinkOptions(
        name=replica.name,
        mode=replica.mode,
        sync_timeout=replica.sync_timeout,
        block=replica.block,
        direct_resync=replica.direct_resync,
        overwrite=replica.overwrite,
    )


class TargetDaemon:
    """The groups of one target daemon and the portal that serves them."""

    def __init__(self, options: ServeOptions, directory: DiskDirectory) -> None:
        self.options = options
        self.events = Events()
        self.started = time.monotonic()
        self._context = LinkContext()
        node = node_id(directory)
        self.groups = {
            group.name: ServedGroup(group, options, node, self._context, self.events)
            for group in options.groups
        }
        accounts = () if options.account is None else (options.account,)
        self._directory = Directory.of(
            [
                ServedTarget(group.options.target, group.device, accounts, group.options.initiators)
                for group in self.groups.values()
            ],
            accounts,
        )
        self._engines = [group.engine for group in self.groups.values()]
        self.portal = Portal(self._directory, on_drained=self._drained)
        self.portal.listen(options.portal.host, options.portal.port)

    def _drained(self) -> None:
        for engine in self._engines:
            if engine.batch:
                engine.turn()

    def open(self) -> None:
        """Begin to mirror."""
        for group in self.groups.values():
            group.connect()

    async def close(self) -> bool:
        """A clean stop: initiators first, then the groups, then the sockets; whether it was."""
        await self.portal.close()
        clean = [await group.stop() for group in self.groups.values()]
        self._context.close()
        return all(clean)

    @property
    def address(self) -> str:
        """Where the portal listens."""
        host, port = self.portal.addresses[0]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # --- what the control socket asks ----------------------------------------------------------

    def status(self, group: str) -> NodeStatus:
        """How the groups stand."""
        return NodeStatus(
            version=__version__,
            pid=os.getpid(),
            uptime_seconds=round(time.monotonic() - self.started, 1),
            groups=tuple(
                source_status(
                    known.engine,
                    known.clock,
                    self.events.alarms(known.options.name),
                    portal=self.address,
                    target=known.options.target,
                    sessions=len(self._directory.sessions),
                )
                for known in self._chosen(group)
            ),
        )

    def _chosen(self, group: str) -> list[ServedGroup]:
        if not group:
            return list(self.groups.values())
        if group not in self.groups:
            raise StateError(
                f"there is no group {group!r} here", f"its groups are: {', '.join(self.groups)}"
            )
        return [self.groups[group]]

    def _each(
        self, group: str, replica: str, act: Callable[[ServedGroup, Link, float], None]
    ) -> list[str]:
        """Do something to the links that are meant; their names."""
        done = []
        now = time.monotonic()
        for known in self._chosen(group):
            for link in known.engine.backstore.links:
                if replica in ("", link.options.name):
                    act(known, link, now)
                    done.append(link.options.name)
            known.engine.turn()
        if not done:
            raise StateError(
                f"there is no replica {replica!r}" if replica else "there is no replica",
                "see `pratima status` for their names",
            )
        return done

    def resync(self, group: str, replica: str, from_primary: bool) -> str:
        """Bring over what is missing, now."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            if from_primary:
                link.resync_from_primary(now)
            known.engine.backstore.reconnect(link.index, now)

        return "resync of " + ", ".join(self._each(group, replica, act))

    def kill(self, group: str, replica: str) -> str:
        """Drop queue and session."""
        names = self._each(
            group, replica, lambda known, link, now: known.engine.backstore.kill(link.index, now)
        )
        return "killed the sessions of " + ", ".join(names)

    def reconnect(self, group: str, replica: str) -> str:
        """Connect now."""
        names = self._each(
            group,
            replica,
            lambda known, link, now: known.engine.backstore.reconnect(link.index, now),
        )
        return "connecting to " + ", ".join(names)

    def enable(self, group: str, replica: str) -> str:
        """Put disabled links to work."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            known.engine.backstore.enable(link.index, now)
            known.remember(link)

        return "enabled " + ", ".join(self._each(group, replica, act))

    def disable(self, group: str, replica: str) -> str:
        """Stop links and forget their tables."""

        def act(known: ServedGroup, link: Link, now: float) -> None:
            known.engine.backstore.disable(link.index, now)
            known.remember(link)

        return "disabled " + ", ".join(self._each(group, replica, act))


async def _main(options: ServeOptions) -> int:
    loop = asyncio.get_running_loop()
    stop = until_signalled(loop)
    directory = state_directory(options.state)
    daemon = TargetDaemon(options, directory)

    async def answered(data: bytes) -> bytes:
        return answer(daemon, data)

    control = ControlServer(answered)
    await control.open(options.state)
    daemon.open()
    for group in daemon.groups.values():
        for lun in range(len(group.options.volumes)):
            say_ready(f"target: iscsi://{daemon.address}/{group.options.target}/{lun}")
    await stop.wait()
    await control.close()
    clean = await daemon.close()
    directory.close()
    return 0 if clean else NOT_CLEAN
