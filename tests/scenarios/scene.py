"""The opening that most stories share, and the words they are told in."""

from collections.abc import Callable, Iterable

from pratima_iscsi.blocks import BLOCK_BYTES
from pratima_iscsi.operations import FLUSH, Operation, RecordKind
from pratima_iscsi.replication.messages import Message
from pratima_iscsi.replication.states import LinkState, Mode, Replication
from pratima_iscsi.replication.wire import decode_batch
from tests.simulation.disk import SimDisk
from tests.simulation.run import Simulation
from tests.simulation.setup import KIB, Setup


class Scene(Simulation):
    """A simulation whose load is what the story submits."""

    def __init__(
        self,
        *modes: Mode,
        blocks: int = 64,
        short: int = 0,
        volumes: int = 1,
        log_bytes: int = 256 * KIB,
        sync_timeout: float = 1.0,
        block: bool = False,
        direct_resync: bool = False,
        slow: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__(
            seed,
            Setup(
                sizes=[blocks * BLOCK_BYTES - short] * volumes,
                log_bytes=log_bytes,
                modes=list(modes) or [Mode.ASYNC],
                sync_timeout=sync_timeout,
                block=block,
                direct_resync=direct_resync,
                slow=slow,
            ),
        )
        self.source.no_room = 0.0
        self.done: list[Operation] = []

    def synced(self) -> "Scene":
        """Started, and in step."""
        self.begin()
        self.until(self.converged)
        return self

    def write(self, block: int, count: int = 1, *, volume: int = 0, fua: bool = False) -> Operation:
        """Submit a write of whole blocks."""
        offset, length = block * BLOCK_BYTES, count * BLOCK_BYTES
        return self.ask(self.load.write(volume, offset, length, fua=fua))

    def write_apart(self, blocks: Iterable[int], seconds: float) -> None:
        """Write these blocks one by one, with a rest behind each."""
        for block in blocks:
            self.write(block)
            self.rest(seconds)

    def flush(self, volume: int = 0) -> Operation:
        """Submit a FLUSH."""
        return self.ask(Operation(FLUSH, volume, 0, 0))

    def ask(self, operation: Operation) -> Operation:
        """Submit an operation that is remembered in ``done`` when it completes."""
        operation.done = lambda error: self.done.append(operation)
        self.submit(operation)
        self.rest(0.0)
        return operation

    def rest(self, seconds: float = 1.0) -> None:
        """Let time pass."""
        self.world.run(self.world.now + seconds)

    def wait(self, operation: Operation) -> Operation:
        """Wait until an operation completes."""
        self.until(lambda: operation in self.done)
        return operation

    def overflow(self) -> None:
        """Cut the network and write more than the log holds, all over the volume."""
        self.network.partition()
        self.rest(0.1)
        blocks = self.setup.sizes[0] // BLOCK_BYTES
        per_write = 4
        for at in range(2 * self.setup.log_bytes // (per_write * BLOCK_BYTES)):
            self.write(at * per_write % blocks, per_write)
            self.rest(0.001)
        assert self.link.replication is not Replication.STREAM
        self.network.heal()

    def roll_back(self, older: SimDisk | None = None) -> None:
        """The replica is killed, and comes back with an older disk, or with an empty one."""
        if self.replica.alive:
            self.replica.crash(power=False)
        self.pair.older = older
        self.pair.go_back()
        self.pair.start_replica()

    def at_record(self, kind: RecordKind, act: Callable[[], None]) -> None:
        """Do something once, when the first frame with such a record has arrived."""
        told = False

        def passed(direction: str, what: object) -> None:
            nonlocal told
            if told or not isinstance(what, bytes):
                return
            if any(entry.kind == kind for entry in decode_batch(memoryview(what)).entries):
                told = True
                act()

        self.network.passed = passed

    def at_message(self, kind: type[Message], act: Callable[[], None]) -> None:
        """Do something once, when the first message of this kind has arrived."""
        told = False

        def passed(direction: str, what: object) -> None:
            nonlocal told
            if isinstance(what, kind) and not told:
                told = True
                act()

        self.network.passed = passed

    def reasons(self) -> list[str]:
        """Every reason that the source gave."""
        return [f"{report.event}: {report.reason}" for report in self.source.reports]

    def alarms(self) -> list[str]:
        """The reasons that were alarms."""
        return [report.reason for report in self.source.reports if report.alarm]

    @property
    def state(self) -> LinkState:
        """The first link's state."""
        return self.link.state
