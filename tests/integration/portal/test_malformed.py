"""Whatever arrives on the port: the session ends or a Reject goes back, nothing is written, and the
portal lives on."""

import random
import socket
from collections.abc import Callable, Iterator

import pytest

from pratima_iscsi.edges.initiator import Initiator, write_16
from pratima_iscsi.iscsi.digests import digest
from pratima_iscsi.iscsi.pdu import REQUEST, RESERVED_TAG, TAIL_WORDS
from tests.support.portal_thread import ServedPortal, served
from tests.unit.iscsi.pair import TARGET, Lab, write_10

DIGESTS = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}


@pytest.fixture
def lab() -> Lab:
    """A volume, and what was asked of it."""
    return Lab()


@pytest.fixture
def portal(lab: Lab) -> Iterator[ServedPortal]:
    """A portal that must be alive, with nothing written, when the test has ended."""
    with served(lab.directory) as serving:
        yield serving
        assert not [call for call in lab.storage.calls if call[0] not in ("read", "flush")]
        assert bytes(lab.storage.data) == bytes(lab.storage.size)
        with Initiator.connect(serving.host, serving.port, target=TARGET) as initiator:
            assert initiator.ping(b"alive") == b"alive"


def connect(portal: ServedPortal, offers: dict[str, str] | None = None) -> Initiator:
    """Log in."""
    return Initiator.connect(portal.host, portal.port, target=TARGET, offers=offers, timeout=10.0)


def header(
    initiator: Initiator,
    opcode: int,
    *,
    flags: int = 0x80,
    lengths: int = 0,
    itt: int = 0x100,
    word20: int = 0,
    tail: bytes = bytes(16),
) -> bytes:
    """A header with the session's numbers."""
    session = initiator.session
    return REQUEST.pack(
        opcode, flags, 0, lengths, 0, itt, word20, session.cmd_sn, session.exp_stat_sn, tail
    )


def closed(initiator: Initiator) -> bool:
    """Serve until the portal closes the connection."""
    try:
        while initiator.poll():
            pass
    except ConnectionError:
        return True
    return False


def command(
    initiator: Initiator, *, lengths: int = 512, edtl: int = 512, flags: int = 0xA1
) -> bytes:
    """A WRITE(10) of one block, its data segment not included."""
    tail = write_10(0, 1).ljust(16, b"\0")
    return header(initiator, 0x01, flags=flags, lengths=lengths, word20=edtl, tail=tail)


BREAKS: dict[str, Callable[[Initiator], bytes]] = {
    "a data segment over the limit": lambda i: command(i, lengths=262145, edtl=262145),
    "the longest data segment": lambda i: command(i, lengths=0xFFFFFF, edtl=0xFFFFFF),
    "more immediate data than expected": lambda i: command(i, edtl=100) + bytes(512),
    "an additional header without a length": lambda i: command(i, lengths=1 << 24) + bytes(4),
    "an additional header that does not fit": (
        lambda i: command(i, lengths=1 << 24) + b"\xff\xff\x01\x00"
    ),
    "the longest additional headers": lambda i: command(i, lengths=0xFF << 24) + b"\xff" * 1020,
    "data with a command that has none": lambda i: command(i, flags=0x81) + bytes(512),
    "a gap in CmdSN": lambda i: (
        REQUEST.pack(0x01, 0xA1, 0, 512, 0, 5, 512, i.session.cmd_sn + 9, 0, bytes(16)) + bytes(512)
    ),
    "a NOP without ITT that is not immediate": lambda i: header(i, 0x00, itt=RESERVED_TAG),
    "text that is no text": lambda i: header(i, 0x04, lengths=8, word20=RESERVED_TAG) + b"\xff" * 8,
    "text with F and C": lambda i: header(i, 0x04, flags=0xC0, word20=RESERVED_TAG),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_the_protocol_ends_the_session(portal: ServedPortal, name: str) -> None:
    initiator = connect(portal)
    initiator.send_raw(BREAKS[name](initiator))
    assert closed(initiator)


@pytest.mark.parametrize("opcode", [0x07, 0x0F, 0x11, 0x1C, 0x1F, 0x20, 0x25, 0x31, 0x3F, 0x03])
def test_opcodes_that_are_none_are_rejected_and_the_session_goes_on(
    portal: ServedPortal, opcode: int
) -> None:
    with connect(portal) as initiator:
        bad = header(initiator, opcode | 0x40)
        initiator.send_raw(bad)
        assert initiator.ping(b"still here") == b"still here"
        assert [rejected for _, rejected in initiator.session.rejects] == [bad]


@pytest.mark.parametrize("where", ["header", "data"])
def test_a_wrong_digest_ends_the_session(portal: ServedPortal, where: str) -> None:
    initiator = connect(portal, DIGESTS)
    head, data = command(initiator), b"w" * 512
    sums = [digest(head), digest(data)]
    sums[where == "data"] = b"\xde\xad\xbe\xef"
    initiator.send_raw(head + sums[0] + data + sums[1])
    assert closed(initiator)
    assert bool(initiator.session.rejects) == (where == "data")


def test_a_bit_flipped_on_the_way_is_found(portal: ServedPortal) -> None:
    generator = random.Random(7)
    for _ in range(20):
        initiator = connect(portal, DIGESTS)
        head, data = command(initiator), b"w" * 512
        whole = bytearray(head + digest(head) + data + digest(data))
        # Bits of the lengths would only make the portal wait for more.
        position = generator.choice([n for n in range(len(whole)) if not 4 <= n < 8])
        whole[position] ^= 1 << generator.randrange(8)
        initiator.send_raw(whole)
        assert closed(initiator)


def test_data_out_beyond_the_buffer_is_not_stored(portal: ServedPortal) -> None:
    solicited = {"InitialR2T": "Yes", "ImmediateData": "No"}
    for offset, length in ((512, 512), (0, 1024), (0xFFFF_FE00, 512), (0x8000_0000, 512)):
        initiator = connect(portal, solicited)
        initiator.session.answer_r2ts = False
        ticket = initiator.submit(write_16(0, 1), data_out=b"w" * 512)
        initiator.ping()
        tail = TAIL_WORDS.pack(0, 0, offset, 0)
        for tag in (0, 1):
            initiator.send_raw(
                header(initiator, 0x05, lengths=length, itt=ticket.itt, word20=tag, tail=tail)
                + b"w" * length
            )
        assert closed(initiator)


def test_truncated_pdus_do_nothing(portal: ServedPortal) -> None:
    for cut in (1, 20, 47, 48, 300, 559):
        initiator = connect(portal)
        initiator.send_raw((command(initiator) + b"w" * 512)[:cut])
        initiator.close()


def test_a_connection_that_is_cut_while_data_is_due_writes_nothing(portal: ServedPortal) -> None:
    initiator = connect(portal, {"InitialR2T": "Yes", "ImmediateData": "No"})
    initiator.session.answer_r2ts = False
    initiator.submit(write_16(0, 64), data_out=b"w" * 32768)
    initiator.ping()
    initiator.close()


def _swallow(connection: socket.socket) -> None:
    """Read until the portal closes."""
    connection.settimeout(10.0)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass


def test_garbage_before_the_login_closes_the_connection(portal: ServedPortal) -> None:
    generator = random.Random(1)
    for first in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4, *[bytes([n]) for n in (0, 1, 0x16)]):
        with socket.create_connection((portal.host, portal.port)) as connection:
            connection.sendall(first + generator.randbytes(4096))
            _swallow(connection)


def test_login_requests_of_garbage_close_the_connection(portal: ServedPortal) -> None:
    generator = random.Random(2)
    for _ in range(100):
        length = generator.randrange(0, 9000)
        head = bytearray(generator.randbytes(48))
        head[0] = 0x43
        head[2:4] = b"\0\0"
        head[4:8] = length.to_bytes(4, "big")
        with socket.create_connection((portal.host, portal.port)) as connection:
            try:
                connection.sendall(head + generator.randbytes(length + (-length & 3)) + bytes(48))
            except ConnectionError:
                continue
            _swallow(connection)


def test_garbage_in_a_session_ends_in_rejects_or_a_closed_connection(
    portal: ServedPortal, lab: Lab
) -> None:
    generator = random.Random(3)
    for _ in range(60):
        initiator = connect(portal)
        for _ in range(8):
            head = bytearray(generator.randbytes(48))
            # Nothing that is a command in its order: what it did would be its own affair.
            head[0] = generator.choice([0x00, 0x02, 0x04, 0x05, 0x06, 0x10, 0x40, 0x42, 0x44, 0x1D])
            length = generator.randrange(0, 600)
            head[4:8] = length.to_bytes(4, "big")
            try:
                initiator.send_raw(bytes(head) + generator.randbytes(length + (-length & 3)))
            except ConnectionError:
                break
        initiator.close()
