"""The full feature phase: commands, data in both directions, windows, residuals, NOP, text."""

import pytest

from pratima_iscsi.iscsi.connection import Connection
from pratima_iscsi.iscsi.directory import ServedTarget
from pratima_iscsi.iscsi.pdu import RESERVED_TAG, TAIL_WORDS, Opcode, RejectReason
from pratima_iscsi.iscsi.ticket import Ticket
from pratima_iscsi.limits import (
    DATA_IN_BYTES_MAX,
    DATA_OUT_BYTES_MAX,
    IMMEDIATE_COMMANDS_MAX,
    LOGIN_SECONDS_MAX,
    PING_SECONDS,
    PING_TIMEOUT_SECONDS,
    QUEUE_DEPTH_MAX,
)
from pratima_iscsi.scsi.target import Target
from tests.support.memory_storage import MemoryStorage
from tests.unit.iscsi.pair import VOLUME_BYTES, Lab, Pair, read_10, write_10

SOLICITED = {"InitialR2T": "Yes", "ImmediateData": "No"}
IMMEDIATE_ONLY = {"InitialR2T": "Yes", "ImmediateData": "Yes"}
UNSOLICITED_ONLY = {"InitialR2T": "No", "ImmediateData": "No"}
DIGESTS = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}
SMALL = {"MaxRecvDataSegmentLength": "512", "MaxBurstLength": "2048", "FirstBurstLength": "1024"}
SHAPES = [
    {},
    SOLICITED,
    IMMEDIATE_ONLY,
    UNSOLICITED_ONLY,
    DIGESTS,
    {"HeaderDigest": "CRC32C"},
    {"DataDigest": "CRC32C"},
    SMALL,
    {**SMALL, **SOLICITED, **DIGESTS},
    {**SMALL, **UNSOLICITED_ONLY},
]


TILE = bytes((index * 7 + (index >> 8)) & 0xFF for index in range(65521))


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes in which every position can be told from its neighbours."""
    return (TILE[seed:] + TILE[:seed]) * (length // len(TILE)) + (TILE[seed:] + TILE)[
        : length % len(TILE)
    ]


@pytest.mark.parametrize("offers", SHAPES)
@pytest.mark.parametrize("blocks", [1, 3, 8, 700, 4096])
def test_what_is_written_is_read_in_every_shape(offers: dict[str, str], blocks: int) -> None:
    lab = Lab()
    pair = lab.pair(offers=offers)
    data = pattern(blocks * 512)
    assert pair.run(write_10(5, blocks), data).good
    assert lab.storage.data[5 * 512 : 5 * 512 + len(data)] == data
    ticket = pair.run(read_10(5, blocks), data_in_bytes=len(data))
    assert ticket.good and ticket.data == data
    assert len([call for call in lab.storage.calls if call[0] == "write"]) == 1, "one whole write"


def test_data_that_arrives_byte_by_byte_is_served() -> None:
    lab = Lab()
    pair = lab.pair()
    pair.submit(write_10(0, 2), pattern(1024))
    whole = b"".join(bytes(part) for part in pair.initiator.out)
    pair.initiator.out.clear()
    for index in range(len(whole)):
        pair.send(whole[index : index + 1])
        assert bool(lab.storage.calls) == (index == len(whole) - 1)


def test_many_commands_in_one_buffer_are_all_answered() -> None:
    lab = Lab()
    pair = lab.pair()
    tickets = [pair.submit(write_10(8 * n, 8), pattern(4096, n)) for n in range(QUEUE_DEPTH_MAX)]
    assert pair.initiator.window == 0
    pair.send()
    assert pair.wakes == 0, "answers of a receive wake nobody"
    pair.answer()
    assert all(ticket.good for ticket in tickets)
    assert pair.initiator.window == QUEUE_DEPTH_MAX
    assert all(lab.storage.data[4096 * n] == pattern(4096, n)[0] for n in range(QUEUE_DEPTH_MAX))


def test_answers_that_come_later_wake_the_edge_once() -> None:
    lab = Lab(MemoryStorage(VOLUME_BYTES))
    pair = lab.pair()
    lab.storage.deferred = True
    tickets = [pair.submit(read_10(n, 1), data_in_bytes=512) for n in range(5)]
    pair.settle()
    assert not any(ticket.settled for ticket in tickets)
    lab.storage.complete()
    assert pair.wakes == 1
    pair.settle()
    assert all(ticket.good for ticket in tickets)


# --- data-in -------------------------------------------------------------------------------------


def test_data_in_is_cut_by_segment_and_burst() -> None:
    lab = Lab()
    pair = lab.pair(offers={"MaxRecvDataSegmentLength": "1024", "MaxBurstLength": "2560"})
    pair.pdus.clear()
    assert pair.run(read_10(0, 12), data_in_bytes=6144).good
    pdus = pair.of(Opcode.DATA_IN)
    assert [pdu.word36 for pdu in pdus] == list(range(len(pdus))), "DataSN counts from 0"
    assert [pdu.word40 for pdu in pdus] == [0, 1024, 2048, 2560, 3584, 4608, 5120]
    assert [pdu.data_length for pdu in pdus] == [1024, 1024, 512, 1024, 1024, 512, 1024]
    assert [bool(pdu.flags & 0x80) for pdu in pdus] == [
        False,
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    assert [bool(pdu.flags & 1) for pdu in pdus] == [False] * 6 + [True], "status in the last"
    assert not pair.of(Opcode.SCSI_RESPONSE)


def test_a_failed_command_has_its_sense_in_a_response() -> None:
    pair = Lab().pair()
    ticket = pair.run(read_10(0xFFFF_FFF0, 1), data_in_bytes=512)
    assert (ticket.status, ticket.sense_triple) == (2, (5, 0x21, 0))
    assert len(ticket.sense) == 18
    assert ticket.residual == 512, "nothing of it was transferred"


@pytest.mark.parametrize(
    ("expected", "blocks", "received", "residual"),
    [(10000, 1, 512, 10000 - 512), (200, 1, 200, 200 - 512), (0, 1, 0, -512), (512, 2, 512, -512)],
)
def test_residuals_of_reads(expected: int, blocks: int, received: int, residual: int) -> None:
    pair = Lab().pair()
    ticket = pair.submit(read_10(0, blocks), data_in_bytes=max(expected, 1))
    if expected == 0:
        pair.initiator.out[0] = _with_word(bytes(pair.initiator.out[0]), 20, 0)
    pair.settle()
    assert (ticket.status, len(ticket.data), ticket.residual) == (0, received, residual)


def _with_word(header: bytes, offset: int, value: int) -> bytes:
    return header[:offset] + value.to_bytes(4, "big") + header[offset + 4 :]


def test_reads_under_way_are_bounded_in_bytes_and_all_answered() -> None:
    lab = Lab()
    pair = lab.pair()
    lab.storage.deferred = True
    blocks = (2 << 20) // 512
    tickets = [pair.submit(read_10(0, blocks), data_in_bytes=2 << 20) for _ in range(20)]
    pair.send()
    assert lab.storage.waiting == DATA_IN_BYTES_MAX // (2 << 20)
    nop = pair.initiator.ping(b"alive?")
    pair.settle()
    assert pair.initiator.echoes[nop] == b"alive?", "answered apart from disk I/O"
    while lab.storage.waiting:
        assert lab.storage.waiting <= DATA_IN_BYTES_MAX // (2 << 20)
        lab.storage.complete(1)
        pair.settle()
    assert all(ticket.good for ticket in tickets)


# --- data-out ------------------------------------------------------------------------------------


def test_r2ts_ask_for_bursts_one_at_a_time() -> None:
    pair = Lab().pair(offers={**SOLICITED, "MaxBurstLength": "4096"})
    pair.initiator.answer_r2ts = False
    ticket = pair.submit(write_10(0, 20), pattern(10240))
    pair.settle()
    asked: list[tuple[int, int, int]] = []
    while not ticket.settled:
        r2ts = pair.of(Opcode.R2T)
        assert len(r2ts) == len(asked) + 1, "MaxOutstandingR2T is 1"
        r2t = r2ts[-1]
        asked.append((r2t.word36, r2t.word40, r2t.word44))
        pair.initiator._send_data(ticket, r2t.word20, r2t.word40, r2t.word40 + r2t.word44, r2t.lun)
        pair.settle()
    assert asked == [(0, 0, 4096), (1, 4096, 4096), (2, 8192, 2048)]
    assert ticket.good


def test_solicited_data_is_bounded_and_every_write_ends() -> None:
    lab = Lab()
    pair = lab.pair(offers=SOLICITED)
    pair.initiator.answer_r2ts = False
    blocks = (2 << 20) // 512
    tickets = [pair.submit(write_10(0, blocks), pattern(2 << 20)) for _ in range(12)]
    pair.settle()
    assert len(pair.of(Opcode.R2T)) == DATA_OUT_BYTES_MAX // (2 << 20)
    pair.initiator.answer_r2ts = True
    for r2t in pair.of(Opcode.R2T):
        ticket = pair.initiator.tickets[r2t.itt]
        pair.initiator._send_data(ticket, r2t.word20, r2t.word40, r2t.word40 + r2t.word44, r2t.lun)
    pair.settle()
    assert all(ticket.good for ticket in tickets)


@pytest.mark.parametrize("offers", [{}, SOLICITED])
@pytest.mark.parametrize(
    ("sent", "blocks", "written", "residual"),
    [
        (1024, 1, 512, 512),
        (512, 2, 512, -512),
        (0, 1, 0, -512),
        (200, 1, 0, 200 - 512),
        (10000, 1, 512, 10000 - 512),
    ],
)
def test_residuals_of_writes(
    offers: dict[str, str], sent: int, blocks: int, written: int, residual: int
) -> None:
    lab = Lab()
    pair = lab.pair(offers=offers)
    ticket = pair.submit(write_10(0, blocks), b"b" * sent)
    if sent == 0:
        header = bytes(pair.initiator.out[0])
        pair.initiator.out[0] = header[:1] + bytes([header[1] | 0x20]) + header[2:]
    pair.settle()
    assert (ticket.status, ticket.residual) == (0, residual)
    assert lab.storage.data[:10000] == b"b" * written + bytes(10000 - written), "whole blocks only"


def plain_write(opcode: int, lba: int, blocks: int) -> bytes:
    """WRITE or WRITE AND VERIFY of any size."""
    lba_bytes, count_bytes = {0x2: (4, 3), 0x8: (8, 4), 0xA: (4, 4)}[opcode >> 4]
    cdb = bytes([opcode, 0]) + lba.to_bytes(lba_bytes, "big") + blocks.to_bytes(count_bytes, "big")
    return cdb.ljust(16, b"\0")


@pytest.mark.parametrize("offers", [{}, SOLICITED, UNSOLICITED_ONLY])
@pytest.mark.parametrize("opcode", [0x2A, 0x2E, 0xAA, 0xAE, 0x8A, 0x8E])
def test_a_write_that_is_to_be_refused_writes_nothing_of_what_it_is_shortened_to(
    offers: dict[str, str], opcode: int
) -> None:
    lab = Lab()
    pair = lab.pair(offers=offers)
    blocks = lab.unit.blocks
    beyond = pair.run(plain_write(opcode, blocks - 8, 9), b"x" * 4096)
    assert beyond.sense_triple == (5, 0x21, 0)
    too_long = pair.run(plain_write(opcode, 0, (8 << 20) // 512 + 1), b"x" * 512)
    assert too_long.sense_triple == (5, 0x24, 0)
    assert not any(call[0] == "write" for call in lab.storage.calls)
    assert pair.run(plain_write(opcode, blocks - 8, 8), b"y" * 512).good, "and the session goes on"


@pytest.mark.parametrize("opcode", [0x8A, 0x8E, 0x93, 0x8B])
@pytest.mark.parametrize("lun", [0, 7])
def test_a_length_that_no_residual_count_can_tell(opcode: int, lun: int) -> None:
    pair = Lab().pair()
    ticket = Ticket(bytes([opcode, *bytes(9), *b"\xff" * 4, 0, 0]), bytes(512))
    pair.initiator.submit(ticket, lun)
    pair.settle()
    assert ticket.settled and not pair.closing
    assert pair.run(bytes(6)).good, "the session goes on"


def test_commands_other_than_writes_judge_their_length_themselves() -> None:
    lab = Lab()
    pair = lab.pair()
    ticket = pair.run(bytes([0x89, *bytes(12), 1, 0, 0]), bytes(2048))
    assert ticket.status == 2 and ticket.sense_triple[0] == 5
    assert not any(call[0] in ("update", "write") for call in lab.storage.calls)


@pytest.mark.parametrize(
    ("data_sns", "offsets"),
    [((0, 0), (0, 512)), ((1, 0), (0, 512)), ((27, 28), (0, 512)), ((0, 1), (512, 0))],
)
def test_data_out_of_order_fails_its_command_and_writes_nothing(
    data_sns: tuple[int, int], offsets: tuple[int, int]
) -> None:
    lab = Lab()
    pair = lab.pair(offers=SOLICITED)
    pair.initiator.answer_r2ts = False
    ticket = pair.submit(write_10(0, 2), bytes(1024))
    pair.settle()
    r2t = pair.of(Opcode.R2T)[-1]
    for data_sn, offset, flags in zip(data_sns, offsets, (0, 0x80), strict=True):
        header = pair.header(
            Opcode.DATA_OUT,
            flags=flags,
            lengths=512,
            itt=ticket.itt,
            word20=r2t.word20,
            tail=TAIL_WORDS.pack(0, data_sn, offset, 0),
        )
        pair.send(header + bytes(512))
    pair.settle()
    assert (ticket.status, ticket.sense_triple) == (2, (0x0B, 0x47, 0x05))
    assert not any(call[0] == "write" for call in lab.storage.calls)
    assert pair.run(write_10(0, 2), bytes(1024)).settled is False, "R2Ts are still unanswered here"
    assert not pair.closing


@pytest.mark.parametrize(
    ("tag_offset", "offset", "length"),
    [(0, 512, 1024), (0, 0, 1536), (0, 0xFFFF_FF00, 512), (1, 0, 512)],
)
def test_data_out_that_nobody_asked_for_ends_the_connection(
    tag_offset: int, offset: int, length: int
) -> None:
    lab = Lab()
    pair = lab.pair(offers=SOLICITED)
    pair.initiator.answer_r2ts = False
    ticket = pair.submit(write_10(0, 2), bytes(1024))
    pair.settle()
    r2t = pair.of(Opcode.R2T)[-1]
    header = pair.header(
        Opcode.DATA_OUT,
        lengths=length,
        itt=ticket.itt,
        word20=r2t.word20 + tag_offset,
        tail=TAIL_WORDS.pack(0, 0, offset, 0),
    )
    pair.send(header + bytes(length))
    assert pair.closing
    assert not any(call[0] == "write" for call in lab.storage.calls)


def test_data_out_for_a_command_that_ended_is_passed_over() -> None:
    pair = Lab().pair()
    pair.send(pair.header(Opcode.DATA_OUT, lengths=512, itt=99) + bytes(512))
    assert not pair.closing
    assert pair.run(bytes(6)).good


def _write_header(pair: Pair, **fields: int) -> bytes:
    cdb = write_10(0, 2).ljust(16, b"\0")
    values: dict[str, int] = {"flags": 0xA1, "lengths": 1024, "word20": 1024, **fields}
    return pair.header(Opcode.SCSI_COMMAND, tail=cdb, **values)


@pytest.mark.parametrize(
    ("offers", "fields"),
    [
        (SOLICITED, {}),
        ({}, {"word20": 512}),
        (IMMEDIATE_ONLY, {"flags": 0x21}),
        ({"FirstBurstLength": "512"}, {}),
        ({}, {"flags": 0xC1}),
    ],
)
def test_data_that_was_not_agreed_on_ends_the_connection(
    offers: dict[str, str], fields: dict[str, int]
) -> None:
    lab = Lab()
    pair = lab.pair(offers=offers)
    pair.send(_write_header(pair, **fields) + bytes(1024))
    assert pair.closing
    assert not any(call[0] == "write" for call in lab.storage.calls)


# --- windows -------------------------------------------------------------------------------------


def test_the_window_is_the_queue_depth_and_opens_with_each_answer() -> None:
    lab = Lab()
    pair = lab.pair()
    lab.storage.deferred = True
    assert pair.initiator.window == QUEUE_DEPTH_MAX
    tickets = [pair.submit(read_10(n, 1), data_in_bytes=512) for n in range(QUEUE_DEPTH_MAX)]
    pair.settle()
    assert pair.initiator.window == 0
    pair.initiator.ping()
    pair.settle()
    assert pair.initiator.window == 0, "a ping opens nothing"
    lab.storage.complete(3)
    pair.settle()
    assert pair.initiator.window == 3
    lab.storage.complete()
    pair.settle()
    assert pair.initiator.window == QUEUE_DEPTH_MAX and all(ticket.good for ticket in tickets)


@pytest.mark.parametrize("distance", [-1, -100, QUEUE_DEPTH_MAX, 1 << 31])
def test_commands_outside_of_the_window_are_passed_over(distance: int) -> None:
    lab = Lab()
    pair = lab.pair()
    cmd_sn = (pair.initiator.cmd_sn + distance) & 0xFFFF_FFFF
    pair.send(_write_header(pair, cmd_sn=cmd_sn) + bytes(1024))
    assert not pair.closing and not pair.connection.take()
    assert not any(call[0] == "write" for call in lab.storage.calls)
    assert pair.run(bytes(6)).good


def test_a_gap_in_cmdsn_ends_the_connection() -> None:
    pair = Lab().pair()
    pair.send(_write_header(pair, cmd_sn=pair.initiator.cmd_sn + 1) + bytes(1024))
    assert "CmdSN" in pair.closing


def test_cmdsn_wraps() -> None:
    lab = Lab()
    pair = lab.pair(login=False)
    pair.initiator.cmd_sn = pair.initiator.max_cmd_sn = 0xFFFF_FFF0
    pair.initiator.start_login()
    pair.settle()
    for _ in range(3):
        tickets = [pair.submit(read_10(0, 1), data_in_bytes=512) for _ in range(100)]
        pair.settle()
        assert all(ticket.settled for ticket in tickets)
    assert pair.initiator.cmd_sn < 0xFFFF


def test_immediate_commands_take_no_cmdsn_and_are_bounded() -> None:
    lab = Lab()
    pair = lab.pair()
    lab.storage.deferred = True
    before = pair.initiator.exp_cmd_sn
    tail = read_10(0, 1).ljust(16, b"\0")
    pair.pdus.clear()
    for _ in range(IMMEDIATE_COMMANDS_MAX + 1):
        pair.send(pair.header(0x41, flags=0xC1, word20=512, tail=tail))
    pair.initiator.ping()
    pair.settle()
    assert pair.initiator.exp_cmd_sn == before
    assert [pdu.response for pdu in pair.of(Opcode.REJECT)] == [RejectReason.TOO_MANY_IMMEDIATE]
    assert lab.storage.waiting == IMMEDIATE_COMMANDS_MAX


def test_an_itt_in_use_is_rejected_and_its_command_goes_on() -> None:
    lab = Lab()
    pair = lab.pair()
    lab.storage.deferred = True
    ticket = pair.submit(read_10(0, 1), data_in_bytes=512)
    pair.settle()
    pair.initiator.tickets.clear()
    tail = read_10(0, 1).ljust(16, b"\0")
    pair.send(pair.header(0x01, flags=0xC1, itt=ticket.itt, word20=512, tail=tail))
    pair.answer()
    assert [reason for reason, _ in pair.initiator.rejects] == [0x07]
    pair.initiator.tickets[ticket.itt] = ticket
    lab.storage.complete()
    pair.settle()
    assert ticket.good or ticket.failure == "rejected with reason 0x07"


# --- beside commands -----------------------------------------------------------------------------


def test_a_nop_is_echoed_as_far_as_the_initiator_takes_it() -> None:
    pair = Lab().pair(offers={"MaxRecvDataSegmentLength": "512"})
    itt = pair.initiator.ping(pattern(2000))
    pair.settle()
    assert pair.initiator.echoes[itt] == pattern(2000)[:512]


def test_a_silent_initiator_is_pinged_and_then_dropped() -> None:
    pair = Lab().pair()
    pair.connection.tick(0.0)
    pair.connection.tick(PING_SECONDS + 1)
    pair.settle()
    assert len(pair.of(Opcode.NOP_IN)) == 1
    pair.connection.tick(PING_SECONDS + 2)
    pair.connection.tick(2 * PING_SECONDS + 1)
    assert not pair.closing, "its answer was heard"
    pair.initiator.answer_pings = False
    pair.settle()
    pair.connection.tick(2 * PING_SECONDS + 3)
    pair.settle()
    pair.connection.tick(PING_SECONDS + 3 + PING_TIMEOUT_SECONDS)
    assert not pair.closing
    pair.connection.tick(PING_SECONDS + 4 + PING_TIMEOUT_SECONDS)
    assert "nothing heard" in pair.closing


def test_no_initiator_is_dropped_before_it_was_pinged() -> None:
    pair = Lab().pair()
    pair.connection.tick(0.0)
    pair.connection.tick(10 * PING_TIMEOUT_SECONDS)
    pair.settle()
    assert len(pair.of(Opcode.NOP_IN)) == 1 and not pair.closing
    pair.connection.tick(11 * PING_TIMEOUT_SECONDS)
    assert not pair.closing, "its answer was heard"


def test_time_in_which_our_loop_stood_still_is_no_silence_of_the_initiators() -> None:
    pair = Lab().pair()
    pair.initiator.answer_pings = False
    pair.connection.tick(0.0)
    pinged = PING_SECONDS + 1
    pair.connection.tick(pinged)
    pair.connection.excuse(100.0, pinged + 101)
    pair.connection.tick(pinged + 101)
    assert not pair.closing, "its answer may lie there unread"
    pair.connection.tick(pinged + 101 + PING_TIMEOUT_SECONDS - PING_SECONDS)
    assert "nothing heard" in pair.closing


def test_a_login_has_its_time_though_our_loop_stood_still() -> None:
    connection = Connection(Lab().directory, "127.0.0.1:3260", lambda: None, 0.0)
    late = 10 * LOGIN_SECONDS_MAX
    connection.excuse(late, late + 1)
    connection.tick(late + 1)
    assert not connection.closing
    connection.tick(late + LOGIN_SECONDS_MAX + 1)
    assert "no login within" in connection.closing


def test_pings_advance_no_statsn() -> None:
    pair = Lab().pair()
    expected = pair.initiator.exp_stat_sn
    pair.connection.tick(0.0)
    pair.connection.tick(PING_SECONDS + 1)
    pair.settle()
    assert pair.of(Opcode.NOP_IN)[-1].stat_sn == expected
    assert pair.run(bytes(6)).good
    assert pair.of(Opcode.SCSI_RESPONSE)[-1].stat_sn == expected


def test_send_targets_in_a_normal_session_tells_of_its_own_target_only() -> None:
    lab = Lab()
    pair = lab.pair()
    for value, told in (("", True), (lab.target.name, True), ("All", False), ("iqn.x", False)):
        itt = pair.initiator.send_text([("SendTargets", value)])
        pair.settle()
        answer = pair.initiator.finished_texts[itt]
        expected = [
            ("TargetName", lab.target.name),
            ("TargetAddress", "127.0.0.1:3260,1"),
        ]
        rejected = [("SendTargets", "Reject")] if value == "All" else []
        assert answer == (expected if told else rejected)


def test_a_long_text_answer_comes_in_parts() -> None:
    lab = Lab()
    for number in range(40):
        lab.directory.add(ServedTarget(f"iqn.2024-01.test.many:{number:03}", Target()))
    pair = lab.pair(target="", offers={"MaxRecvDataSegmentLength": "512"})
    pair.pdus.clear()
    itt = pair.initiator.send_text([("SendTargets", "All")])
    pair.settle()
    names = [value for key, value in pair.initiator.finished_texts[itt] if key == "TargetName"]
    assert len(names) == 41
    assert len(pair.of(Opcode.TEXT_RESPONSE)) > 4


def test_a_text_request_in_parts_is_answered_when_it_is_whole() -> None:
    pair = Lab().pair()
    pair.initiator.texts[50] = bytearray()
    pair.send(pair.header(0x04, flags=0x40, lengths=8, itt=50, word20=RESERVED_TAG) + b"SendTarg")
    pair.initiator.cmd_sn += 1
    first = pair.connection.take()
    response = b"".join(bytes(part) for part in first)
    assert response[0] == 0x24 and not response[1] & 0x80
    pair.initiator.exp_stat_sn += 1
    tag = int.from_bytes(response[20:24], "big")
    pair.send(pair.header(0x04, lengths=5, itt=50, word20=tag) + b"ets=\0\0\0\0")
    pair.initiator.cmd_sn += 1
    pair.settle()
    assert pair.initiator.finished_texts[50][0][0] == "TargetName"


@pytest.mark.parametrize("tag", [1, 2, 0x12345678])
def test_a_text_request_with_a_tag_that_was_not_given_is_rejected_rfc_7143_11_10_4(
    tag: int,
) -> None:
    pair = Lab().pair()
    pair.initiator.send_text([("SendTargets", "")])
    pair.settle()
    for _ in range(2):  # neither before nor after it can such a tag go on with anything
        pair.send(pair.header(0x04, lengths=13, itt=50, word20=tag) + b"SendTargets=\0\0\0\0")
        pair.initiator.cmd_sn += 1
        pair.settle()
    assert [reason for reason, _ in pair.initiator.rejects] == [RejectReason.INVALID_FIELD] * 2
    itt = pair.initiator.send_text([("SendTargets", "")])
    pair.settle()
    assert pair.initiator.finished_texts[itt]


def test_keys_of_the_login_are_rejected_in_the_full_feature_phase_rfc_7143_13() -> None:
    """They are keys of the document, which are never answered NotUnderstood (6.2)."""
    pair = Lab().pair()
    login_keys = ["HeaderDigest", "MaxBurstLength", "AuthMethod", "TargetName", "SessionType"]
    offers = [*((key, "None") for key in login_keys), ("X-com.example", "1")]
    itt = pair.initiator.send_text([*offers, ("InitiatorAlias", "me")])
    pair.settle()
    assert pair.initiator.finished_texts[itt] == [
        *((key, "Reject") for key in login_keys),
        ("X-com.example", "NotUnderstood"),
    ]
    assert pair.run(bytes(6)).good, "nothing of it has changed anything"


def test_unknown_requests_are_rejected_with_their_header() -> None:
    pair = Lab().pair()
    for opcode in (0x07, 0x1C, 0x3E, 0x10, 0x03):
        header = pair.header(opcode | 0x40)
        pair.send(header)
        pair.settle()
        assert pair.initiator.rejects[-1][1] == header
    assert not pair.closing


def test_a_rejected_request_takes_its_cmdsn() -> None:
    pair = Lab().pair()
    pair.send(pair.header(0x1C))
    pair.initiator.cmd_sn += 1
    assert pair.run(bytes(6)).good
    assert [reason for reason, _ in pair.initiator.rejects] == [RejectReason.COMMAND_NOT_SUPPORTED]


@pytest.mark.parametrize("ahead", [-9, 0, 3])
def test_a_snack_has_no_cmdsn_and_is_rejected(ahead: int) -> None:
    pair = Lab().pair()
    pair.send(pair.header(Opcode.SNACK, cmd_sn=pair.initiator.cmd_sn + ahead & 0xFFFFFFFF))
    assert pair.run(bytes(6)).good
    assert [reason for reason, _ in pair.initiator.rejects] == [RejectReason.SNACK]


def test_a_command_sent_a_second_time_is_passed_over_in_silence() -> None:
    pair = Lab().pair(offers=SOLICITED)
    pair.initiator.answer_r2ts = False
    cmd_sn = pair.initiator.cmd_sn
    ticket = pair.submit(write_10(0, 8), bytes(4096))
    pair.settle()
    tail = ticket.cdb.ljust(16, b"\0")
    fields = {"flags": 0xA1, "itt": ticket.itt, "word20": 4096, "cmd_sn": cmd_sn}
    pair.send(pair.header(Opcode.SCSI_COMMAND, tail=tail, **fields))
    pair.settle()
    assert not pair.initiator.rejects and not pair.closing
    assert pair.run(bytes(6)).good


def test_a_discovery_session_takes_no_commands() -> None:
    pair = Lab().pair(target="")
    pair.send(pair.header(0x01, flags=0x81))
    assert pair.closing
    pair = Lab().pair(target="")
    pair.send(pair.header(0x42, flags=0x85))
    pair.settle()
    assert pair.initiator.rejects


def test_a_discovery_session_takes_no_ping_and_answers_ours_rfc_7143_4_3() -> None:
    pair = Lab().pair(target="")
    header = pair.header(Opcode.NOP_OUT | 0x40, itt=9, word20=RESERVED_TAG)
    pair.send(header)
    pair.settle()
    assert pair.initiator.rejects == [(RejectReason.PROTOCOL_ERROR, header)]
    pair.connection.tick(0.0)
    pair.connection.tick(PING_SECONDS + 1)
    pair.settle()
    pair.connection.tick(PING_SECONDS + 2)
    pair.connection.tick(PING_SECONDS + 1 + PING_TIMEOUT_SECONDS)
    assert not pair.closing, "its answer was heard"
    assert len(pair.initiator.rejects) == 1


def test_the_portal_asks_for_a_logout() -> None:
    pair = Lab().pair()
    pair.connection.request_logout(3, "the portal is shutting down")
    pair.settle()
    event = pair.initiator.events[0]
    assert (event.word36 >> 24, event.word40 & 0xFFFF) == (1, 3)
    assert pair.run(bytes(6)).good, "until then it is served"
    pair.initiator.start_logout()
    pair.settle()
    assert pair.initiator.logged_out and pair.closing == "logged out"
    assert not pair.lab.directory.sessions
