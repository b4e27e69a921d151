"""One link of the simulated primary with its replica, and what must hold between the two."""

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import FLUSH, Operation
from pratima_iscsi.positions import Position
from pratima_iscsi.records import Record
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.messages import Message
from pratima_iscsi.replication.states import Connection, LinkState, Mode
from tests.simulation.cover import Cover
from tests.simulation.disk import SimDisk
from tests.simulation.model import Model
from tests.simulation.network import Network
from tests.simulation.replica_node import ReplicaNode, fresh_disk
from tests.simulation.source_node import SourceNode
from tests.simulation.world import World

_SENDING = frozenset({Connection.OPENING, Connection.OPEN, Connection.SILENT})


class Pair:
    """The source's link ``index``: network, replica, model, cover."""

    def __init__(
        self,
        world: World,
        source: SourceNode,
        index: int,
        sizes: list[int],
        images: list[bytes],
        *,
        mode: Mode,
        credit: int,
        hostile: bool,
    ) -> None:
        self.world = world
        self.source = source
        self.index = index
        self.mode = mode
        self.model = Model(images)
        self.cover = Cover(len(sizes))
        self.network = Network(world, hostile=hostile)
        self.replica = ReplicaNode(
            world,
            self.network,
            sizes,
            self.model,
            credit,
            tell_source=lambda message: source.control(index, message),
            name=f"replica{index}",
        )
        self.exact = True
        """False once a local write failed: until END the primary is not what the order says."""
        self.amnesia = False
        """The replica forgot what it had acknowledged, and no handshake has shown it yet."""
        self.unspilled = False
        """It did so after the primary's last clean stop, whose spill does not tell of it."""
        self.lost_power = False
        """The primary lost power after the link had been synchronous; nobody has spoken yet."""
        self.older: SimDisk | None = None

    @property
    def link(self) -> Link:
        """The source's link."""
        return self.source.backstore.links[self.index]

    @property
    def marked(self) -> bool:
        """Whether the degraded mark is on the primary's disk."""
        return self.source.store.degraded.get(self.link.options.name, True)

    # --- what the source tells -----------------------------------------------------------------

    def control(self, message: Message) -> None:
        """A control message for the replica."""
        self.replica.control(message)

    def frame(self, frame: bytes) -> None:
        """A frame for the replica."""
        self.replica.frame(frame)

    def generation_began(self, generation: int, images: list[bytes]) -> None:
        """A generation began on these images."""
        self.model.begin(generation, images)

    def admitted(self, generation: int, record: Record, tail: bytes) -> None:
        """A write was admitted; ``tail``: what a RESIZE brings to light."""
        self.model.admit(generation, record, tail)

    def ended(self, position: Position, images: list[bytes]) -> None:
        """END was appended at ``position``."""
        self.model.end(position, images, exact=self.exact)
        self.exact = True

    def spilled(self) -> None:
        """The primary stopped cleanly: what a handshake has shown it, its next run knows."""
        self.unspilled = self.amnesia

    # --- faults --------------------------------------------------------------------------------

    def start_replica(self) -> None:
        """Bring the replica back, if it is down or has failed."""
        replica = self.replica
        if replica.alive and replica.sink.failure:
            replica.crash(power=False)
        if not replica.alive:
            replica.start()
        if replica.alive:
            self.recheck()

    def go_back(self) -> None:
        """The dead replica's disk is exchanged for the older copy, or for an empty one."""
        self.replica.exchange(self.older or fresh_disk(self.replica.volumes_count))
        self.older = None
        self.forget()

    def forget(self) -> None:
        """The replica has less than it had acknowledged."""
        self.amnesia = self.unspilled = True
        self.source.unasked.add(self.index)  # nor has it the room that it had made

    def recheck(self) -> None:
        """Compare every block again: after a restart the images are the disks'."""
        self.source.touched.update(self.cover.every_block(self.source.images))
        self.source.stirred = True

    # --- checks --------------------------------------------------------------------------------

    def compare(self, touched: set[tuple[int, int]]) -> None:
        """Look again at the blocks that the source or this replica touched."""
        shadow = self.replica.shadow
        if shadow.touched:
            touched = touched | shadow.touched
            shadow.touched.clear()
        if touched:
            self.cover.compare(touched, self.source.images, shadow.images)

    def check(self) -> None:
        """What must hold after every event."""
        link = self.link
        connection = link.connection
        if self.amnesia and connection in _SENDING and self.replica.alive:
            session = self.replica.sink.session
            self.amnesia = session is None or session.nonce != link.session
        if not self.amnesia and connection is not Connection.DISABLED:
            self.cover.check(self.source.backstore, link)
        self._check_sizes()
        if link.state is LinkState.SYNCED:
            assert not link.table and link.transaction is None, "SYNCED, but not covered"
            assert self.replica.shadow.consistent or self.amnesia, "SYNCED and inconsistent"
        if self.lost_power and connection in _SENDING:
            assert not self.replica.shadow.consistent, (
                "race 9: the primary lost power, and the replica is written over"
            )
            self.lost_power = False  # A replica without a good copy has nothing to lose.
        if not link.waits and self.mode is not Mode.ASYNC:
            assert self.marked, "writes complete without the replica, and no mark is on disk"

    def _check_sizes(self) -> None:
        """Race 22: no replica has a larger volume than its primary would remember."""
        if self.replica.alive and self.replica.sink.standing.bound:
            ours = [volume.size for volume in self.source.remembered()]
            theirs = self.replica.sink.standing.sizes
            assert all(map(int.__le__, theirs, ours)), f"race 22: {theirs} there, {ours} here"

    def check_room(self, volume: int, size: int) -> None:
        """Race 22: a primary grows only after its replica has room for that, durably."""
        file = self.replica.disk.directory().open(f"v{volume}")
        assert file.size >= size or self.amnesia, "race 22: the primary grows before its replica"

    def completed(self, operation: Operation) -> None:
        """I3: acknowledged with no degraded mark on disk: the replica's effective image has it."""
        if self.mode is Mode.ASYNC or self.marked or self.amnesia:
            return
        durable = self.mode is Mode.SYNC or operation.kind == FLUSH or operation.fua
        if not durable or operation.sequence == 0:
            return
        shadow = self.replica.shadow
        generation = self.source.backstore.history.position.generation
        assert shadow.consistent, "I3: acknowledged with an inconsistent replica"
        assert shadow.position.generation == generation, f"I3: {shadow.position} is another's"
        assert shadow.position.sequence >= operation.sequence, (
            f"I3: {operation.sequence} acknowledged, the replica has {shadow.position}"
        )

    def converged(self) -> bool:
        """In step, with nothing under way."""
        link = self.link
        waits = self.mode is Mode.ASYNC or not link.degraded
        return link.state is LinkState.SYNCED and not len(link.queue) and waits

    def check_same(self) -> None:
        """I6: in step and idle: both sides hold the same."""
        assert self.replica.sink.durable.sizes == tuple(map(len, self.source.images))
        assert not self.cover.differs, "I6: SYNCED and idle, yet blocks differ"
        self.replica.check_image(power=False)
        self.replica.check_image(power=True)
        position = self.source.backstore.history.position
        if self.exact and position.generation:
            images = [bytes(image) for image in self.source.images]
            assert images == self.model.images(position), "the primary is not what the order says"

    @property
    def dirty_bytes(self) -> int:
        """Bytes of the blocks that differ."""
        return self.cover.differs * BLOCK_BYTES
