"""One served group: its store, its engine, its links' sockets, its SCSI target.

What serves it (a portal, the kernel) is not known here. One rule: a group opens as a whole or not
at all, so that a daemon can try one at run time and go on without it.
"""

import asyncio
import time
from dataclasses import replace

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.control.options import ReplicaOptions, ServeGroup, ServeOptions
from pratima_iscsi.edges.curve import CurveKeys
from pratima_iscsi.edges.link_sockets import LinkContext
from pratima_iscsi.edges.link_source import SourceLink
from pratima_iscsi.engine.group_disks import GroupDisks
from pratima_iscsi.engine.local_volume import LocalVolume
from pratima_iscsi.engine.process import Events
from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.engine.source_status import LagClock
from pratima_iscsi.engine.volume_growth import VolumeGrowth
from pratima_iscsi.engine.volume_storage import VolumeStorage
from pratima_iscsi.errors import RemoteProtocolError, StateError
from pratima_iscsi.limits import LAG_SAMPLE_SECONDS
from pratima_iscsi.replication import effects as fx
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.link_spill import flags_of
from pratima_iscsi.replication.messages import ToSource, VolumeOffer
from pratima_iscsi.scsi.device import unit_serial
from pratima_iscsi.scsi.logical_unit import LogicalUnit
from pratima_iscsi.scsi.target import Target


class ServedGroup:
    """One group of a daemon: its store, its engine, its links' sockets, its SCSI target."""

    def __init__(
        self,
        options: ServeGroup,
        disks: GroupDisks,
        keys: CurveKeys | None,
        context: LinkContext,
        events: Events,
    ) -> None:
        """Takes over ``disks``. Raises UsageError, with ``disks`` as they were."""
        self.options = options
        self.events = events
        self.clock = LagClock()
        self.disks = disks
        self._loop = asyncio.get_running_loop()
        self._sampler: asyncio.TimerHandle | None = None
        offers = tuple(
            VolumeOffer(v.name, volume.size)
            for v, volume in zip(options.volumes, disks.volumes, strict=True)
        )
        links = tuple(map(_link_options, options.replicas))
        self.engine = SourceGroup(
            Backstore(GroupOptions(offers, links, options.log_bytes), disks.state),
            [
                LocalVolume(volume, self._loop, f"{options.name}-{index}")
                for index, volume in enumerate(disks.volumes)
            ],
            disks.store,
            disks.boot_id,
            self._loop,
            self._report,
        )
        self.links = [
            SourceLink(
                context,
                LinkEvents(self.engine, index),
                replica.address,
                replica.data_address,
                keys=keys,
                peer_key=replica.peer_key,
                hook=self.events.stream.sockets(self.place(index)),
            )
            for index, replica in enumerate(options.replicas)
        ]
        self.engine.links.extend(self.links)
        self.device = Target()
        for index in range(len(disks.volumes)):
            storage = VolumeStorage(self.engine, index)
            serial = unit_serial(disks.state.group, index)
            unit = LogicalUnit(storage, serial=serial, block_size=options.block_bytes)
            self.device.add(index, unit)
        self.growth = VolumeGrowth(self.engine, self.device, options.block_bytes)
        if disks.store.doubt:
            alarm = bool(links)
            self._report(fx.Report(None, "unclean start", disks.store.doubt, alarm))

    @classmethod
    async def open(
        cls,
        options: ServeGroup,
        serve: ServeOptions,
        node: bytes,
        context: LinkContext,
        events: Events,
    ) -> "ServedGroup":
        """Open all that the group needs. Raises OperatorError, with nothing left open."""
        loop = asyncio.get_running_loop()
        try:
            disks = await loop.run_in_executor(None, GroupDisks.open, options, serve, node)
        except OSError as error:
            raise StateError(
                f"group {options.name}: {error.filename or 'its state'}: {error.strerror or error}",
                "see to the disk or the file, and try again",
            ) from None
        try:
            return cls(options, disks, serve.keys, context, events)
        except BaseException:
            disks.unmake()
            raise

    def place(self, link: int | None) -> str:
        """How events name the group, or one link of it."""
        where = f"group {self.options.name}"
        return where if link is None else f"{where} replica {self.options.replicas[link].name}"

    def _report(self, report: fx.Report) -> None:
        where = self.place(report.link)
        self.events.note(where, report.event, report.reason, alarm=report.alarm)

    def remember(self, link: Link, *, enabled: bool) -> None:
        """Store whether the link is to be enabled, BEFORE it is: a restart must not undo what an
        operator was told. Raises StateError, with nothing changed."""
        try:
            self.engine.remember_link(replace(flags_of(link), enabled=enabled))
        except OSError as error:
            raise StateError(
                f"{link.options.name}: it cannot be stored, and nothing was changed: "
                f"{error.strerror or error}",
                "see to the state directory's disk, and give the command again",
            ) from None

    def connect(self) -> None:
        """Begin to seek the replicas, and keep the lag's clock."""
        for link in self.engine.backstore.links:
            self.seek(link)
        self.engine.turn()
        self._sample()

    def seek(self, link: Link) -> None:
        """Dial the replica now where no control connection stands: a back-off is cut short."""
        sockets = self.links[link.index]
        if not sockets.is_up:
            link.sought()
            sockets.connect()

    def _sample(self) -> None:
        self.clock.sample(self.engine, time.monotonic())
        self._sampler = self._loop.call_later(LAG_SAMPLE_SECONDS, self._sample)

    async def stop(self) -> bool:
        """A clean stop, if the disks allow it; no front end submits any more."""
        clean = await self._end()
        self.disks.close()
        return clean

    async def discard(self) -> None:
        """Stop, and remove what opening the group made: it could not be served."""
        await self._end()
        await self._loop.run_in_executor(None, self.disks.unmake)

    async def _end(self) -> bool:
        if self._sampler is not None:
            self._sampler.cancel()
        clean = await self.engine.stop()
        for link in self.links:
            link.close()
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
        self._engine.violation(self._index, f"not understood: {error}")

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
