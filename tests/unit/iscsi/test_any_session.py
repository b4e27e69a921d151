"""Any sequence of nearly valid PDUs, and completions in between: the books of a session balance.

Commands in the window and free places add up, bytes under way are never negative, and when all has
settled nothing is left; a session ends by a reason and never by an exception.
"""

import errno

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pratima_iscsi.iscsi.pdu import RESERVED_TAG, TAIL_WORDS, Opcode
from pratima_iscsi.iscsi.session import Session
from pratima_iscsi.limits import DATA_IN_BYTES_MAX, DATA_OUT_BYTES_MAX, QUEUE_DEPTH_MAX
from tests.support.memory_storage import MemoryStorage
from tests.unit.iscsi.pair import Lab, Pair, read_10, write_10

CDBS = [
    write_10(0, 1),
    write_10(0, 16),
    write_10(100, 0x4000),
    read_10(0, 1),
    read_10(0, 0x2000),
    read_10(0xFFFF_FF00, 9),
    bytes(6),
    bytes([0x35, *bytes(9)]),
    bytes([0x42, *bytes(6), 24, 0]),
    bytes([0x89, *bytes(12), 1, 0, 0]),
    bytes([0x93, 8, *bytes(11), 8, 0, 0]),
    bytes([0xA0, *bytes(8), 16, 0, 0]),
    bytes([0x16, *bytes(5)]),
    b"\xff" * 16,
]
OPCODES = [0x01] * 8 + [
    0x41,
    0x05,
    0x05,
    0x05,
    0x00,
    0x40,
    0x42,
    0x02,
    0x44,
    0x04,
    0x46,
    0x50,
    0x1F,
]
PDUS = st.fixed_dictionaries(
    {
        "opcode": st.sampled_from(OPCODES),
        "flags": st.sampled_from(
            [0x80, 0xA1, 0xA1, 0x21, 0xC1, 0xC1, 0x81, 0x82, 0x84, 0x85, 0x86]
        ),
        "length": st.sampled_from([0, 0, 0, 512, 512, 1024, 8192, 3]),
        "edtl": st.sampled_from([0, 512, 512, 8192, 100, 0x80_0000, 0xFFFF_FFFF]),
        "itt": st.integers(1, 6),
        "skew": st.sampled_from([0] * 12 + [1, -1, 200]),
        "lun": st.sampled_from([0, 0, 0, 1 << 48]),
        "cdb": st.sampled_from(CDBS),
        "offset": st.sampled_from([0, 0, 512, 1024]),
    }
)
STEPS = st.one_of(PDUS, PDUS, PDUS, st.integers(1, 4), st.just("tick"))


def check(session: Session, lab: Lab) -> None:
    """What always holds."""
    windowed = sum(command.windowed for command in session.commands.values())
    assert session.free + windowed == QUEUE_DEPTH_MAX
    assert session._immediate == len(session.commands) - windowed
    assert 0 <= session._reading <= DATA_IN_BYTES_MAX
    assert 0 <= session._data_out_bytes <= DATA_OUT_BYTES_MAX
    assert session._data_out_bytes == sum(
        command.transfer.granted
        for command in session.commands.values()
        if command.transfer is not None
    )


def send(pair: Pair, pdu: dict[str, int | bytes], tags: list[int]) -> None:
    """One PDU, its numbers near those that are due."""
    session = pair.connection.session
    assert session is not None
    opcode, length = int(pdu["opcode"]), int(pdu["length"])
    tail, word20 = bytes(pdu["cdb"]).ljust(16, b"\0")[:16], int(pdu["edtl"])
    if opcode == Opcode.DATA_OUT:
        tail = TAIL_WORDS.pack(0, int(pdu["offset"]) // 512, int(pdu["offset"]), 0)
        word20 = tags[-1] if tags and word20 else RESERVED_TAG
    elif opcode & 0x3F == Opcode.TASK_MANAGEMENT:
        word20 = int(pdu["itt"]) % 3 + 1
    elif opcode & 0x3F == Opcode.TEXT:
        word20 = RESERVED_TAG
    raw = pair.header(
        opcode,
        flags=int(pdu["flags"]),
        lengths=length,
        lun=int(pdu["lun"]),
        itt=int(pdu["itt"]),
        word20=word20,
        cmd_sn=(session.exp_cmd_sn + int(pdu["skew"])) & 0xFFFF_FFFF,
        tail=tail,
    )
    pair.send(raw + bytes(length + (-length & 3)))
    pair._record(b"".join(bytes(part) for part in pair.connection.take()))
    pair.connection.flushed()
    tags += [r2t.word20 for r2t in pair.of(Opcode.R2T)[-1:]]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(STEPS, max_size=60),
    st.sampled_from([{}, {"InitialR2T": "Yes", "ImmediateData": "No"}]),
    st.booleans(),
)
def test_the_books_of_a_session_balance(
    steps: list[dict[str, int | bytes] | int | str], offers: dict[str, str], failing: bool
) -> None:
    lab = Lab(MemoryStorage(1 << 22))
    other = lab.pair()
    pair = lab.pair(offers=offers)
    session = pair.connection.session
    assert session is not None
    lab.storage.deferred = True
    if failing:
        lab.storage.failure = OSError(errno.EIO, "failed on purpose")
    tags: list[int] = []
    for number, step in enumerate(steps):
        if pair.closing:
            break
        if isinstance(step, dict):
            send(pair, step, tags)
        elif isinstance(step, int):
            lab.storage.complete(step)
        else:
            pair.connection.tick(float(number))
        check(session, lab)
    lab.storage.complete()
    pair.connection.take()
    pair.connection.flushed()
    lab.storage.complete()
    check(session, lab)
    assert session._reading == 0
    assert all(not command.executing for command in session.commands.values())
    pair.connection.lost("the end")
    check(session, lab)
    assert not session.commands and session._data_out_bytes == 0
    lab.storage.failure, lab.storage.deferred = None, False
    if not other.closing:
        assert other.run(bytes(6)).settled, "another session is served"
