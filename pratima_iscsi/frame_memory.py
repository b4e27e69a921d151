"""Memory of frames to come: the data of writes is put right where their frame will have it.

It would else be copied twice, into a payload of its own and from there into the frame. Memory is
used again, since to get it anew, and cleared, costs most of what that saves. One rule: a place is
given out once, and memory is given out again only when nobody looks at it any more: a bytearray of
which there are views refuses to change its length, so it is asked.
"""

from collections import deque
from typing import Final

from pratima_iscsi.limits import BATCH_BYTES_MAX, FRAME_HEAD_BYTES, FRAME_MEMORIES_MAX

FRAME_DIGEST_BYTES: Final = 8
"""Behind the payloads."""
_WHOLE: Final = slice(None)


class FrameMemory:
    """Room for the head of a frame, for a batch of payloads, and for the digest behind them."""

    __slots__ = ("_limit", "_view", "end")

    def __init__(self, area: bytearray) -> None:
        self._view = memoryview(area)
        self._limit = len(area) - FRAME_DIGEST_BYTES
        self.end = FRAME_HEAD_BYTES
        """Where the next payload goes."""

    def fits(self, payload_bytes: int) -> bool:
        """Whether there is room for so much more."""
        return self.end + payload_bytes <= self._limit

    @property
    def half_full(self) -> bool:
        """Whether at least half of it is used."""
        return 2 * self.end >= FRAME_HEAD_BYTES + self._limit

    def put(self, data: memoryview, length: int) -> memoryview:
        """Copy ``data``, of that length, behind the payloads that are there; gives its place."""
        start = self.end
        end = self.end = start + length
        place = self._view[start:end]
        place[_WHOLE] = data
        return place

    def around(self) -> memoryview:
        """All that is there, with the room for the head before it and for the digest behind it."""
        return self._view[: self.end + FRAME_DIGEST_BYTES]


class FrameMemories:
    """Gives out memory for batches of ``batch_bytes`` of payload, what was given out before once
    nobody looks at it."""

    __slots__ = ("_batch_bytes", "_given", "payload_bytes_max")

    def __init__(
        self, batch_bytes: int = BATCH_BYTES_MAX, payload_bytes_max: int = BATCH_BYTES_MAX // 4
    ) -> None:
        self.payload_bytes_max = payload_bytes_max
        """Longer ones are not put here: they would leave too much of it empty."""
        self._batch_bytes = batch_bytes
        self._given: deque[bytearray] = deque()
        """What is to be used again, in the order in which it was given out."""

    def next(self) -> FrameMemory:
        """Memory that nobody looks at."""
        given = self._given
        if given and _is_free(given[0]):
            area = given.popleft()
        else:
            area = bytearray(FRAME_HEAD_BYTES + self._batch_bytes + FRAME_DIGEST_BYTES)
        given.append(area)
        if len(given) > FRAME_MEMORIES_MAX:
            given.popleft()  # it is whole for as long as somebody looks at it
        return FrameMemory(area)


SHARED: Final = FrameMemories()
"""All groups of a process, which run on one loop, share what is used again."""


def _is_free(area: bytearray) -> bool:
    try:
        last = area.pop()
    except BufferError:
        return False
    area.append(last)
    return True
