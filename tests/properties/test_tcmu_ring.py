"""Any mix of commands, notices, completions and turns: the ring's books balance.

The simulated kernel asserts that each answer is to a command that is there, once. Beside that: what
a read brings is what a plain model of the volume holds, and no byte of any other command.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from pratima_iscsi.scsi.inquiry import standard_data
from pratima_iscsi.scsi.task import GOOD, TASK_ABORTED
from tests.support.tcmu_kernel import Kernel
from tests.unit.tcmu.lab import BLOCKS, Lab, read_10, write_10

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, BLOCKS - 1), st.integers(1, 24)),
        st.tuples(st.just("write"), st.integers(0, BLOCKS - 1), st.integers(1, 24)),
        st.tuples(st.just("inquiry"), st.integers(0, 255), st.integers(0, 255)),
        st.tuples(st.just("turn"), st.just(0), st.just(0)),
        st.tuples(st.just("complete"), st.integers(1, 8), st.just(0)),
        st.tuples(st.just("abort"), st.integers(0, 7), st.integers(1, 5)),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(steps=STEPS, features=st.sampled_from([1, 7]), shuffle=st.randoms(use_true_random=False))
def test_every_command_is_answered_once_with_its_own_bytes(steps, features, shuffle) -> None:  # type: ignore[no-untyped-def]
    kernel = Kernel(features=features)
    shuffle.shuffle(kernel.free)
    lab = Lab(kernel, deferred=True)
    model = bytearray(BLOCKS * 512)
    expected: dict[int, bytes] = {}
    inquiries: dict[int, tuple[int, int]] = {}
    """Bytes that the initiator expects, and that the command allows."""
    aborted: set[int] = set()
    taken: set[int] = set()

    def execute() -> None:
        """What is in the ring takes effect on the model when it is taken out, in its order."""
        before = set(kernel.commands)
        lab.serve()
        for number in sorted(before - taken):
            lba, data, count = pending.pop(number, (0, None, 0))
            if data is not None:
                model[lba * 512 : lba * 512 + len(data)] = data
            elif count:
                expected[number] = bytes(model[lba * 512 : (lba + count) * 512])
        taken.update(before)

    pending: dict[int, tuple[int, bytes | None, int]] = {}
    answers = {}
    for kind, one, other in steps:
        count = min(other, BLOCKS - one)
        size = count * 512 if kind in ("read", "write") else one
        entry = kernel.command_bytes(bytes(10), -(-size // 4096) + 1)
        fits = kernel.room(entry) and -(-size // 4096) <= len(kernel.free)
        if kind == "read" and fits:
            pending[kernel.send(read_10(one, count), expect=size)] = (one, None, count)
        elif kind == "write" and fits:
            data = bytes([shuffle.randrange(256)]) * size
            pending[kernel.send(write_10(one, count), data=data)] = (one, data, 0)
        elif kind == "inquiry" and fits:
            inquiries[kernel.send(bytes([0x12, 0, 0, 0, other, 0]), expect=one)] = one, other
        elif kind == "abort" and kernel.room(64) and features & 4:
            listed = sorted(kernel.commands)[one : one + other]
            aborted.update(listed)
            kernel.notify(1, listed)
        elif kind == "complete":
            lab.storage.complete(one)
        elif kind == "turn":
            execute()
            answers |= lab.publish()
    while kernel.commands or kernel.head != kernel.tail:
        execute()
        lab.storage.complete()
        answers |= lab.publish()
    assert bytes(lab.storage.data) == bytes(model)
    assert set(answers) == set(range(1, kernel.next_id))
    for number, answer in answers.items():
        assert answer.status == (GOOD if number not in aborted else answer.status)
        if answer.status != GOOD:
            assert answer.status == TASK_ABORTED
        elif number in inquiries:
            asked, allowed = inquiries[number]
            data = standard_data()[: min(asked, allowed)]
            assert answer.data == (data if features & 2 and data else data.ljust(asked, b"\0"))
        else:
            assert answer.data == expected.get(number, b"")
