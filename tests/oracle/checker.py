"""The checker: does an image equal some prefix of some order that respects "before"?

What must be in the prefix (the *least* set): the writes that a sector shows, what is required, and
all that was acknowledged before any of these was issued. What may be in it besides, and in which
order, is found by peeling the order from its end, and that is exact:

*Peeling.* Among the operations that remain, one can stand last if none that remains must come
after it, and every sector of it that no later operation covers shows what it leaves there. To put
it there never takes a possibility away: it covers sectors with what they show.

*Being stuck.* When none of the remaining can stand last, the one issued LAST is in no valid
prefix. Say it were in a valid S, and x the last of the remaining in S's order. What S puts after x
is peeled already, so x's open sectors match; x cannot stand last only because of some y outside S
with a(x) < s(y). The one issued last has an s at least as large, so it must come after x as well;
but x was the last. So it is dropped, with all that was issued after it was acknowledged, and the
peeling starts again if that was peeled before. If it belongs to the least set, the image is wrong.

So what remains in the end is the GREATEST valid prefix; a larger one only covers more sectors with
what they show, so the image is right exactly when this one holds the least set and covers each
sector that does not show its initial content. One rule: a verdict against an image names
operations and sectors that a person can follow.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tests.oracle.recorder import NEVER, History, Op
from tests.oracle.stamps import ZERO, Image

_LISTED_MAX = 8
"""Sectors or operations that one message lists."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an image is a prefix, and if not, why."""

    ok: bool
    reason: str = ""
    least: int = 0
    """Operations that must be in the prefix."""
    most: int = 0
    """Operations that may be in it at the most."""

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.ok:
            return f"a prefix of {self.least} to {self.most} operations"
        return f"NOT A PREFIX\n{self.reason}"


def check(history: History, image: Image, since: int = NEVER, by: int = NEVER) -> Verdict:
    """Judge an image that was taken between the times ``since`` and ``by``.

    Raises ValueError when history and image do not fit each other at all.
    """
    if since > by:
        raise ValueError(f"the image was taken from {since} to {by}")
    for name, shape in (("image", image), ("base", history.base)):
        if shape is not None and tuple(map(len, shape.volumes)) != history.sectors:
            raise ValueError(f"the {name} has other volumes than the history")
    case = _Case(history, image, since, by)
    try:
        case.judge_values()
        case.close_least()
        case.drop_hopeless()
        case.peel()
        case.judge_cover()
    except _WrongImageError as wrong:
        return Verdict(False, str(wrong))
    return Verdict(True, "", len(case.least), sum(case.allowed))


class _WrongImageError(Exception):
    """The image is no prefix, for the reason given."""


class _Case:
    """One image under judgement. Operations and sectors are numbered from 0 on.

    ``allowed``     operations that some valid prefix may hold, as far as known
    ``least``       operation to the reason why it must be in the prefix
    ``unmatched``   per operation, how many of its sectors are open and show something else
    ``waiting``     sector to the operations that it keeps from matching while it is open
    """

    def __init__(self, history: History, image: Image, since: int, by: int) -> None:
        self.since, self.by = since, by
        self.image = image
        self.starts = [sum(history.sectors[:index]) for index in range(len(history.sectors))]
        self.shown: list[int] = [value for volume in image.volumes for value in volume]
        base = history.base
        self.initial: list[int] = (
            [ZERO] * len(self.shown)
            if base is None
            else [value for volume in base.volumes for value in volume]
        )
        self.ops: list[Op] = [op for op in history.ops if op.issued <= by]
        self.late: dict[int, Op] = {op.id: op for op in history.ops if op.issued > by}
        self.number: dict[int, int] = {op.id: index for index, op in enumerate(self.ops)}
        self.spans = [
            range(self.starts[op.volume] + op.lba, self.starts[op.volume] + op.end)
            for op in self.ops
        ]
        self.leaves = [ZERO if op.zeroes else op.id for op in self.ops]
        self.allowed = [True] * len(self.ops)
        self.least: dict[int, str] = {}
        self.must_be_zeroed: list[int] = []
        self.settled = bytearray(len(self.shown))
        self.remaining: list[bool] = []
        self.unmatched: list[int] = []
        self.waiting: dict[int, list[int]] = {}

    # --- what the values say by themselves ------------------------------------------------------

    def judge_values(self) -> None:
        """Refuse what no operation left there; note the visible writers and what is required."""
        wrong: list[str] = []
        for sector, (value, initial) in enumerate(zip(self.shown, self.initial, strict=True)):
            if value == initial:
                continue
            if value == ZERO:
                self.must_be_zeroed.append(sector)
            elif value in self.number:
                writer = self.number[value]
                if sector not in self.spans[writer] or self.ops[writer].zeroes:
                    wrong.append(f"sector {self.name(sector)} shows {self.ops[writer]}")
                self.least.setdefault(writer, f"sector {self.name(sector)} shows it")
            else:
                wrong.append(f"sector {self.name(sector)} {self.alien(sector)}")
        if wrong:
            more = len(wrong) - _LISTED_MAX
            lines = wrong[:_LISTED_MAX] + ([f"and {more} sectors more"] if more > 0 else [])
            raise _WrongImageError("content that no operation left there:\n" + indented(lines))
        for index, op in enumerate(self.ops):
            if op.required and op.acknowledged < self.since:
                self.least.setdefault(
                    index, f"required: acknowledged at {op.acknowledged}, image from {self.since}"
                )

    def alien(self, sector: int) -> str:
        """What stands in a sector that neither an operation nor the base can have left there."""
        value = self.shown[sector]
        if value in self.late:
            late = self.late[value]
            return f"shows {late}, issued at {late.issued}, after the image (by {self.by})"
        if value > 0:
            return f"shows op {value}, which is not of this history (refused, or older)"
        volume, lba = self.place(sector)
        return "holds " + self.image.notes.get((volume, lba), "foreign content")

    def close_least(self) -> None:
        """Add what was acknowledged before any member of the least set was issued.

        One pass does: what it adds was itself issued before that.
        """
        if not self.least:
            return
        last = max(self.least, key=lambda index: self.ops[index].issued)
        why = self.least[last]
        for index, op in enumerate(self.ops):
            if op.before(self.ops[last]):
                self.least.setdefault(
                    index,
                    f"acknowledged at {op.acknowledged}, before {self.ops[last]} was issued at "
                    f"{self.ops[last].issued}, and that is in it: {why}",
                )

    # --- what may be in a prefix ----------------------------------------------------------------

    def drop_hopeless(self) -> None:
        """Drop operations that a single sector rules out, and all that they take along.

        The peeling would find the same; this finds most of it at once.
        """
        zeroed_last = self._last_zeroing()
        limit = NEVER
        waiting: defaultdict[int, list[int]] = defaultdict(list)
        for index, op in enumerate(self.ops):
            leaves, count = self.leaves[index], 0
            for sector in self.spans[index]:
                value = self.shown[sector]
                if value == leaves:
                    continue
                count += 1
                waiting[sector].append(index)
                if value == ZERO:
                    last = zeroed_last.get(sector, -1)
                elif value in self.number:
                    last = self.ops[self.number[value]].acknowledged
                else:
                    last = -1
                if last < op.issued:
                    self.allowed[index] = False
            self.unmatched.append(count)
            if not self.allowed[index]:
                limit = min(limit, op.acknowledged)
                if index in self.least:
                    self.remaining = [True] * len(self.ops)
                    raise _WrongImageError(self.explain(index))
        self._drop_issued_after(limit)
        self.waiting = dict(waiting)

    def _last_zeroing(self) -> dict[int, int]:
        """Per sector that shows zeros, the last acknowledgement of an operation that zeroes it."""
        last: dict[int, int] = {}
        for index, op in enumerate(self.ops):
            if op.zeroes:
                for sector in self.spans[index]:
                    if self.shown[sector] == ZERO:
                        last[sector] = max(last.get(sector, -1), op.acknowledged)
        return last

    def _drop_issued_after(self, limit: int) -> None:
        for index, op in enumerate(self.ops):
            if op.issued > limit:
                self.allowed[index] = False

    def peel(self) -> None:
        """Leave in ``allowed`` exactly the greatest valid prefix."""
        by_issue = sorted(range(len(self.ops)), key=lambda index: -self.ops[index].issued)
        by_acknowledgement = sorted(
            range(len(self.ops)), key=lambda index: -self.ops[index].acknowledged
        )
        initially_unmatched = self.unmatched
        while True:
            self.unmatched = initially_unmatched.copy()
            self.remaining = self.allowed.copy()
            self.settled = bytearray(len(self.shown))
            limit = self._peel_once(by_issue, by_acknowledgement)
            if limit is None:
                return
            self._drop_issued_after(limit)

    def _peel_once(self, by_issue: list[int], by_acknowledgement: list[int]) -> int | None:
        """Peel until nothing remains: None, or the time after which all issued must go first."""
        ops, remaining, unmatched = self.ops, self.remaining, self.unmatched
        free = [False] * len(ops)
        ready: list[int] = []
        seen = 0
        last_peeled = -1
        for latest in by_issue:
            while remaining[latest]:
                while (
                    seen < len(ops)
                    and ops[by_acknowledgement[seen]].acknowledged >= ops[latest].issued
                ):
                    index = by_acknowledgement[seen]
                    seen += 1
                    free[index] = True
                    if remaining[index] and not unmatched[index]:
                        ready.append(index)
                if ready:
                    index = ready.pop()
                    remaining[index] = False
                    last_peeled = max(last_peeled, ops[index].issued)
                    for freed in self._cover(index):
                        if free[freed] and remaining[freed]:
                            ready.append(freed)
                    continue
                if latest in self.least:
                    raise _WrongImageError(self.explain(latest))
                remaining[latest] = self.allowed[latest] = False
                if last_peeled > ops[latest].acknowledged:
                    return ops[latest].acknowledged
        return None

    def _cover(self, index: int) -> Iterator[int]:
        """Settle the open sectors of an operation; the operations that now match everywhere."""
        for sector in self.spans[index]:
            if not self.settled[sector]:
                self.settled[sector] = True
                for other in self.waiting.get(sector, ()):
                    self.unmatched[other] -= 1
                    if not self.unmatched[other]:
                        yield other

    def judge_cover(self) -> None:
        """Refuse zeros that the greatest prefix does not leave."""
        bare = [sector for sector in self.must_be_zeroed if not self.settled[sector]]
        if bare:
            raise _WrongImageError(
                f"{len(bare)} sectors show zeros where the base image has none, and no zeroing "
                f"operation that touches them can be in a prefix:\n"
                + indented(
                    f"sector {self.name(sector)}; {self._ruled_out(sector)}"
                    for sector in bare[:_LISTED_MAX]
                )
            )

    # --- counterexamples ------------------------------------------------------------------------

    def explain(self, member: int) -> str:
        """Why ``member``, which must be in the prefix and cannot stand last, can stand nowhere.

        Follows "must come before" from it until that leads back or to a sector that nothing can
        explain. Every operation on the way is in the prefix, or a zeroing one that would have to.
        """
        lines = [f"{self.ops[member]} is in the prefix: {self.least[member]}"]
        path = [member]
        while True:
            here = path[-1]
            sector, following = self._next_step(here, member, path)
            shows = self._shows(sector)
            if following is None:
                lines.append(
                    f"sector {self.name(sector)} shows {shows}, though {self.ops[here]} wrote it; "
                    f"{self._ruled_out(sector)}"
                )
                break
            there = self.ops[following]
            lines.append(
                f"sector {self.name(sector)} shows {shows}, so {self.ops[here]} comes before "
                f"{there}" + (" (or another that zeroes it)" if there.zeroes else "")
            )
            if following in path:
                break
            if there.before(self.ops[member]):
                lines.append(
                    f"{there} was acknowledged at {there.acknowledged}, "
                    f"before {self.ops[member]} was issued at {self.ops[member].issued}"
                )
                break
            path.append(following)
        return "no order of the operations leaves this image:\n" + indented(lines)

    def _next_step(self, here: int, member: int, path: list[int]) -> tuple[int, int | None]:
        """An open sector that does not show ``here``, and whom that puts after it, if anybody.

        Prefers what ends the argument at once.
        """
        found: tuple[int, int | None] | None = None
        for sector in self.spans[here]:
            if self.settled[sector] or self.shown[sector] == self.leaves[here]:
                continue
            followers = self._followers(sector)
            if not followers:
                return sector, None
            for follower in followers:
                closes = follower in path or self.ops[follower].before(self.ops[member])
                if closes and len(followers) == 1:
                    return sector, follower
                if found is None or closes:
                    found = sector, follower
        assert found is not None, "an operation that matches everywhere can stand last"
        return found

    def _followers(self, sector: int) -> list[int]:
        """The operations that remain and leave in a sector what it shows."""
        value = self.shown[sector]
        if value == ZERO:
            return [
                index
                for index, op in enumerate(self.ops)
                if op.zeroes and self.remaining[index] and sector in self.spans[index]
            ]
        return [self.number[value]] if value in self.number else []

    def _ruled_out(self, sector: int) -> str:
        """What zeroing operations there are for a sector that shows zeros."""
        if self.shown[sector] != ZERO:
            return "nothing wrote that content"
        zeroing = [
            op for index, op in enumerate(self.ops) if op.zeroes and sector in self.spans[index]
        ]
        if not zeroing:
            return "nothing zeroed it"
        listed = ", ".join(str(op) for op in zeroing[:_LISTED_MAX])
        return f"what zeroed it comes too early or cannot be in the prefix: {listed}"

    def _shows(self, sector: int) -> str:
        value = self.shown[sector]
        if value in self.number:
            return str(self.ops[self.number[value]])
        if value == self.initial[sector]:
            return "its initial content" + (" (zeros)" if value == ZERO else "")
        return "zeros"

    def place(self, sector: int) -> tuple[int, int]:
        """Volume and LBA of a sector."""
        volume = max(index for index, start in enumerate(self.starts) if start <= sector)
        return volume, sector - self.starts[volume]

    def name(self, sector: int) -> str:
        """VOLUME:LBA of a sector."""
        volume, lba = self.place(sector)
        return f"{volume}:{lba}"


def indented(lines: Iterator[str] | list[str]) -> str:
    """Lines of a message's body."""
    return "\n".join(f"  {line}" for line in lines)
