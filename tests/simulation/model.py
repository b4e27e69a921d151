"""What the simulator knows and the product does not: the true order, each position's image.

A replica that claims to be consistent at a position must present exactly the image that the group's
order gives for it: whole writes, in order, over all volumes. One rule: the model is built from what
was admitted and never from what links or replicas say.
"""

from dataclasses import dataclass, field

from pratima_iscsi.operations import RecordKind
from pratima_iscsi.positions import ORIGIN, Position
from pratima_iscsi.records import Record


@dataclass(slots=True)
class Generation:
    """One generation: the image it began with, and its writes in order."""

    base: list[bytes]
    records: list[Record] = field(default_factory=list)
    rebased: dict[int, list[bytes]] = field(default_factory=dict)
    """Images that an END brought after a failed local write, by sequence."""
    replaced: dict[int, list[bytes]] = field(default_factory=dict)
    """The order's own images at those sequences: a replica shows them until it has that END."""
    tails: dict[int, bytes] = field(default_factory=dict)
    """What the primary's volume held behind its end when it grew, by sequence."""
    cursor: tuple[int, list[bytearray]] | None = None
    """A sequence and the images there: the next question is mostly about a later one."""


def apply(images: list[bytearray], record: Record, tails: dict[int, bytes]) -> None:
    """Apply one write, zero or resize to the images."""
    image, offset, length = images[record.volume], record.offset, record.length
    if record.kind == RecordKind.RESIZE:
        image += tails[record.sequence]
        assert len(image) == length, "a RESIZE that is not behind the last one"
        return
    image[offset : offset + length] = (
        record.payload if record.kind == RecordKind.WRITE else bytes(length)
    )


class Model:
    """The order of a group's writes, over all its incarnations, as one link's replica sees it."""

    def __init__(self, images: list[bytes]) -> None:
        self.generations: dict[int, Generation] = {0: Generation(images)}

    def begin(self, generation: int, base: list[bytes]) -> None:
        """A generation begins on these images."""
        self.generations.setdefault(generation, Generation(base))

    def admit(self, generation: int, record: Record, tail: bytes) -> None:
        """The next write of a generation; ``tail``: what a RESIZE brings to light."""
        assert generation in self.generations, "a write of a generation that is not on disk"
        known = self.generations[generation]
        assert record.sequence == len(known.records) + 1, "a sequence given twice, or not at all"
        known.records.append(record)
        if record.kind == RecordKind.RESIZE:
            known.tails[record.sequence] = tail

    def end(self, position: Position, images: list[bytes], *, exact: bool) -> None:
        """END was appended at ``position`` over these images of the primary."""
        if exact:
            assert self.images(position) == images, f"END at {position} is not the order's image"
        elif position != ORIGIN:
            generation = self.generations[position.generation]
            generation.replaced[position.sequence] = self.images(position)
            generation.rebased[position.sequence] = images
            generation.cursor = None
        else:
            self.generations[0].replaced[0] = self.images(ORIGIN)
            self.generations[0].base = images
            self.generations[0].cursor = None

    def may_show(self, position: Position) -> list[list[bytes]]:
        """The images that a replica at ``position`` may present: after a failed local write an END
        brings another image to the position that the replica may already have had."""
        replaced = self.generations[position.generation].replaced.get(position.sequence)
        return [self.images(position)] + ([] if replaced is None else [replaced])

    def images(self, position: Position) -> list[bytes]:
        """The images of the group at ``position``."""
        generation = self.generations[position.generation]
        assert position.sequence <= len(generation.records), f"{position} was never written"
        start = max((s for s in generation.rebased if s <= position.sequence), default=0)
        cursor = generation.cursor
        if cursor is not None and start <= cursor[0] <= position.sequence:
            start, images = cursor
        else:
            base = generation.rebased.get(start, generation.base)
            images = [bytearray(image) for image in base]
        for record in generation.records[start : position.sequence]:
            apply(images, record, generation.tails)
        generation.cursor = (position.sequence, images)
        return [bytes(image) for image in images]
