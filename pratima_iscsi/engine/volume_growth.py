"""Growing a served volume: from an operator's words to the unit attention at every initiator.

One rule: initiators are told when every side has the new size, as the group's mode means it.
"""

import asyncio

from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.engine.source_group import SourceGroup
from pratima_iscsi.errors import OperatorError, StateError, UsageError
from pratima_iscsi.limits import GROW_ANSWER_SECONDS
from pratima_iscsi.scsi.target import Target


class VolumeGrowth:
    """Grows the volumes of ``group``, each the unit of its index in ``target``."""

    def __init__(self, group: SourceGroup, target: Target, block_bytes: int) -> None:
        self._group = group
        self._target = target
        self._block_bytes = block_bytes

    async def grow(self, name: str, size: int | None, *, later: bool) -> str:
        """Grow the volume (no name: the only one) to ``size`` bytes (None: what its device has by
        now), and say what was done, or that it goes on. Raises OperatorError."""
        index = self._index(name)
        volume = self._group.volumes[index].volume
        wanted = self._wanted(volume, size)
        name = self._group.backstore.options.volumes[index].name
        if wanted == volume.size:
            return f"volume {name} has {wanted} bytes already"
        grown: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: OperatorError | None) -> None:
            if error is None:
                self._target.unit_at(index).capacity_changed()
            if grown.cancelled():
                return
            if error is None:
                grown.set_result(None)
            else:
                grown.set_exception(error)

        self._group.grow(index, wanted, done, later=later)
        try:
            await asyncio.wait_for(grown, GROW_ANSWER_SECONDS)
        except TimeoutError:
            return f"volume {name} waits for a replica and then grows by itself: see pratima status"
        return f"volume {name} has {wanted} bytes now, and its initiators are told"

    def _index(self, name: str) -> int:
        names = [volume.name for volume in self._group.backstore.options.volumes]
        if not name and len(names) == 1:
            return 0
        if name not in names:
            raise StateError(
                f"there is no volume {name!r}" if name else "there are several volumes",
                f"say which with --volume: {', '.join(names)}",
            )
        return names.index(name)

    def _wanted(self, volume: Volume, size: int | None) -> int:
        block = self._block_bytes
        if size is None:
            if not volume.is_block_device:
                raise UsageError(f"volume {volume.path} is a file", "say how large with --size")
            return volume.capacity // block * block
        if size <= 0 or size % block:
            raise UsageError(
                f"{size} bytes are no whole number of {block}-byte blocks",
                f"choose a size that {block} divides",
            )
        return size
