"""What a primary's own volume must show: every sector, looked at alone, as a register.

For the volume of a primary that was killed: a write that was never acknowledged may be there in
part (PROTOCOL.md 13), so it need not be a prefix; but nothing acknowledged may be lost. One rule: a
sector shows some operation that no other one, acknowledged before the image, must have overwritten.
"""

from collections import defaultdict

from tests.oracle.recorder import NEVER, History, Op
from tests.oracle.stamps import ZERO, Image


def lost(history: History, image: Image, since: int = NEVER, by: int = NEVER) -> list[str]:
    """One line per sector that does not show what a client may read there."""
    touching: defaultdict[tuple[int, int], list[Op]] = defaultdict(list)
    for op in history.ops:
        for lba in range(op.lba, op.end):
            touching[op.volume, lba].append(op)
    found = []
    for volume, values in enumerate(image.volumes):
        initial = history.base.volumes[volume] if history.base is not None else None
        for lba, value in enumerate(values):
            ops = touching.get((volume, lba), [])
            first = initial[lba] if initial is not None else ZERO
            problem = _problem(ops, value, first, since, by)
            if problem and not (value < 0 and any(op.acknowledged == NEVER for op in ops)):
                note = image.notes.get((volume, lba), "")
                found.append(f"sector {volume}:{lba} {note}{problem}")
    return found


def _problem(ops: list[Op], value: int, initial: int, since: int, by: int) -> str:
    settled = [op for op in ops if op.acknowledged < since]
    if value == initial and not settled:
        return ""
    writers = [
        op
        for op in ops
        if op.issued <= by and (op.zeroes if value == ZERO else not op.zeroes and op.id == value)
    ]
    for writer in writers:
        if not any(writer.before(op) for op in settled):
            return ""
    if not writers:
        return f"shows {value or 'zeros'}, which nothing left there; {settled[-1:] or 'nothing'}"
    over = next(op for op in settled if writers[-1].before(op))
    return f"shows {writers[-1]}, but {over} was issued after that and acknowledged"
