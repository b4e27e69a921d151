"""The same verdict as the checker's, by trying every order and every prefix.

It applies operations one after another, in every way that the order allows, and compares what is
left with the image after each. Nothing is shared with the checker but the words. For 6 operations
on a few sectors; states that were met before are not tried twice.
"""

from tests.oracle.recorder import NEVER, History, Op
from tests.oracle.stamps import ZERO, Image

State = tuple[tuple[int, ...], ...]


def is_prefix(history: History, image: Image, since: int = NEVER, by: int = NEVER) -> bool:
    """Whether some prefix of some order leaves exactly this image."""
    wanted: State = tuple(tuple(volume) for volume in image.volumes)
    if history.base is None:
        initial: State = tuple((ZERO,) * count for count in history.sectors)
    else:
        initial = tuple(tuple(volume) for volume in history.base.volumes)
    required = {op.id for op in history.ops if op.required and op.acknowledged < since}
    tried: set[tuple[frozenset[int], State]] = set()

    def search(done: frozenset[int], state: State) -> bool:
        if (done, state) in tried:
            return False
        tried.add((done, state))
        if required <= done and state == wanted:
            return True
        for op in history.ops:
            if op.id in done or op.issued > by:
                continue
            if all(
                other.id in done for other in history.ops if other.acknowledged < op.issued
            ) and search(done | {op.id}, apply(op, state)):
                return True
        return False

    return search(frozenset(), initial)


def apply(op: Op, state: State) -> State:
    """What an operation leaves of a state."""
    values = list(state[op.volume])
    values[op.lba : op.lba + op.count] = [0 if op.kind == "zero" else op.id] * op.count
    return (*state[: op.volume], tuple(values), *state[op.volume + 1 :])
