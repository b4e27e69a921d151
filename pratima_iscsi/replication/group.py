"""What a link asks of the group it belongs to, and how one link is set up.

One rule: a link knows its group by this protocol alone, never the other links.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pratima_iscsi import limits
from pratima_iscsi.ordered_log import OrderedLog
from pratima_iscsi.positions import History
from pratima_iscsi.replication.effects import Effect
from pratima_iscsi.replication.messages import Grown, VolumeOffer
from pratima_iscsi.replication.states import Mode


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """How one link behaves; times in seconds, rates in bytes a second."""

    name: str
    mode: Mode = Mode.ASYNC
    sync_timeout: float = limits.SYNC_TIMEOUT_SECONDS
    block: bool = False
    """On a timeout of a waiting write: hold it (True) or degrade (False)."""
    direct_resync: bool = False
    overwrite: bool = False
    """A first sync may overwrite a replica volume that is not blank."""


class Group(Protocol):
    """What a link asks of the group it belongs to."""

    log: OrderedLog
    digest: bytes
    sizes: tuple[int, ...]
    incarnation: int
    unclean: bool
    """The run before did not end cleanly, or what it left is not believed."""
    emit: Callable[[Effect], None]
    new_id: Callable[[], int]

    @property
    def history(self) -> History:
        """Where the group stands, and how it came there."""

    def offer(self) -> tuple[bytes, str, bytes, tuple[VolumeOffer, ...]]:
        """Group id, group name, node id, volumes."""

    def history_begun(self) -> bool:
        """Whether the generation that a resync needs has begun; False: it now begins."""

    def hold_writes(self) -> bool:
        """Admit no write until ``release_writes``; False when something else holds them."""

    def release_writes(self, now: float) -> None:
        """Admit writes again."""

    def grown(self, link: int, answer: Grown, now: float) -> None:
        """The replica of a link answers whether it has room for a volume that is to grow."""

    def confirmed(self, now: float) -> None:
        """A link's watermarks moved: writes that waited for them may complete."""
