"""Random small histories with images that are right, nearly right, or arbitrary.

Times are small numbers, so that ties and touching intervals are common: equal times are
concurrent. Some operations are never acknowledged, some are required, some are issued after the
image; base images hold foreign content and operations of an older epoch.
"""

from dataclasses import dataclass, replace
from random import Random

from tests.oracle.brute_force import State, apply
from tests.oracle.recorder import NEVER, History, Op, OpKind
from tests.oracle.stamps import ZERO, Image

OPERATIONS_MAX = 6
TRIES = 5
"""How often a spoiling is drawn that changes something."""
OLDER_EPOCH = 100
"""Ids of operations before the base image start here."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a checker is asked."""

    history: History
    image: Image
    since: int
    by: int


def draw(random: Random) -> Case:
    """One case; about half of them are right."""
    sectors = random.choice([(1,), (2,), (3,), (4,), (4,), (5,), (2, 2), (3, 1)])
    count = random.choice([1, 2, 3, 4, 4, 5, 5, 6, 6, OPERATIONS_MAX])
    ops = [_op(random, number, sectors) for number in range(1, count + 1)]
    base = _base(random, sectors) if random.random() < 0.4 else None
    history = History(sectors, tuple(ops), base)
    since = random.choice([NEVER, NEVER, random.randint(4, 18)])
    by = NEVER if since == NEVER else since + random.randint(0, 2)
    state = _prefix(random, history) if random.random() < 0.7 else _mixture(random, history)
    for _ in range(random.choice([0, 0, 1, 1, 2, 3])):
        spoilt = state
        for _ in range(TRIES):
            if spoilt == state:
                spoilt = _spoil(random, history, state)
        state = spoilt
    return Case(history, Image(state), since, by)


def _op(random: Random, number: int, sectors: tuple[int, ...]) -> Op:
    volume = random.randrange(len(sectors))
    lba = random.randrange(sectors[volume])
    count = random.randint(1, sectors[volume] - lba)
    kind = random.choices(list(OpKind), weights=(5, 4, 1))[0]
    issued = random.randint(0, 12)
    acknowledged = NEVER if random.random() < 0.2 else issued + random.choice([0, 1, 2, 3, 4, 8])
    required = acknowledged != NEVER and random.random() < 0.15
    return Op(number, kind, volume, lba, count, issued, acknowledged, required)


def _base(random: Random, sectors: tuple[int, ...]) -> Image:
    return Image(
        [
            tuple(random.choice([ZERO, ZERO, -7, OLDER_EPOCH + lba]) for lba in range(count))
            for count in sectors
        ]
    )


def _prefix(random: Random, history: History) -> State:
    """What a random prefix of a random order leaves."""
    state: State = (
        tuple((ZERO,) * count for count in history.sectors)
        if history.base is None
        else tuple(tuple(volume) for volume in history.base.volumes)
    )
    waiting = list(history.ops)
    for _ in range(random.choice([len(waiting), random.randint(0, len(waiting))])):
        free = [op for op in waiting if not any(other.before(op) for other in waiting)]
        op = random.choice(free)
        waiting.remove(op)
        state = apply(op, state)
    return state


def _mixture(random: Random, history: History) -> State:
    """Each sector as some operation that touches it leaves it, whatever the others show."""
    state = _prefix(random, history)
    for volume, count in enumerate(history.sectors):
        for lba in range(count):
            touching = [op for op in history.ops if op.volume == volume and op.lba <= lba < op.end]
            if touching:
                state = apply(replace(random.choice(touching), lba=lba, count=1), state)
    return state


def _spoil(random: Random, history: History, state: State) -> State:
    """Apply part of an operation once more, or put one sector back, or plant foreign content."""
    if random.random() < 0.9:
        op = random.choice(history.ops)
        lba = random.randrange(op.lba, op.end)
        count = random.choice([1, op.end - lba])
        return apply(replace(op, lba=lba, count=count), state)
    volume = random.randrange(len(state))
    lba = random.randrange(len(state[volume]))
    initial = ZERO if history.base is None else history.base.volumes[volume][lba]
    anyone = random.choice(history.ops).id
    value = random.choice([initial, initial, ZERO, -7, -9, OLDER_EPOCH + lba, anyone])
    values = list(state[volume])
    values[lba] = value
    return (*state[:volume], tuple(values), *state[volume + 1 :])
