"""Commands of a simulated ring: executed by the unit, answered once, in one store of the tail."""

import errno

import pytest

from pratima_iscsi.limits import TCMU_COMMANDS_MAX
from pratima_iscsi.scsi.task import CHECK_CONDITION, GOOD, TASK_ABORTED
from tests.support.tcmu_kernel import Kernel
from tests.unit.tcmu.lab import BLOCKS, Lab, read_10, write_10

INQUIRY = bytes([0x12, 0, 0, 0, 255, 0])
SYNCHRONIZE = bytes([0x35, *bytes(9)])
LUN_RESET = 5
ABORT_TASK = 1


def sense(answer_sense: bytes) -> tuple[int, int, int]:
    return answer_sense[2] & 0xF, answer_sense[12], answer_sense[13]


def test_what_is_written_reads_back() -> None:
    lab = Lab()
    data = bytes(range(256)) * 48
    assert lab.run(write_10(3, 24), data=data).status == GOOD
    assert lab.run(read_10(3, 24), expect=len(data)).data == data
    assert bytes(lab.storage.data[3 * 512 : 27 * 512]) == data


def test_data_in_several_pieces_arrives_in_their_order() -> None:
    kernel = Kernel()
    kernel.free = [9, 2, 7, 0, 5, 11]
    lab = Lab(kernel)
    data = bytes(range(256)) * 48
    number = kernel.send(write_10(0, 24), data=data)
    assert len(kernel.commands[number].iovecs) == 3
    assert lab.turn()[number].status == GOOD
    assert lab.run(read_10(0, 24), expect=len(data)).data == data


def test_a_long_transfer_in_one_piece_is_read_and_written_where_it_lies() -> None:
    lab = Lab()
    data = bytes(range(256)) * 128
    number = lab.kernel.send(write_10(3, 64), data=data)
    assert len(lab.kernel.commands[number].iovecs) == 1
    assert lab.turn()[number].status == GOOD
    number = lab.kernel.send(read_10(3, 64), expect=len(data))
    lab.serve()
    ((place, size),) = lab.kernel.commands[number].iovecs
    assert bytes(lab.kernel.area[place : place + size]) == data
    assert lab.publish()[number].data == data


def test_a_long_transfer_that_is_not_what_the_cdb_says_is_not_read_in_place() -> None:
    lab = Lab()
    data = bytes(range(256)) * 128
    assert lab.run(write_10(0, 64), data=data).status == GOOD
    shorter = lab.run(read_10(0, 40), expect=len(data))
    assert shorter.data[: 40 * 512] == data[: 40 * 512]
    assert lab.run(read_10(BLOCKS, 64), expect=len(data)).status == CHECK_CONDITION


def test_a_batch_is_one_store_of_the_tail() -> None:
    lab = Lab()
    numbers = [lab.kernel.send(read_10(lba, 1), expect=512) for lba in range(8)]
    lab.serve()
    assert lab.kernel.tail == 0
    assert set(lab.publish()) == set(numbers)
    assert not lab.session.ring.unpublished


def test_commands_are_answered_out_of_their_order() -> None:
    lab = Lab(deferred=True)
    first = lab.kernel.send(write_10(0, 1), data=b"a" * 512)
    second = lab.kernel.send(bytes(6))
    third = lab.kernel.send(read_10(0, 1), expect=512)
    assert set(lab.turn()) == {second}
    lab.storage.complete(1)
    assert set(lab.publish()) == {first}
    lab.storage.complete()
    answer = lab.publish()[third]
    assert answer.data == b"a" * 512
    assert lab.woken == 3


def test_the_ring_is_used_round_and_round_with_entries_of_every_length() -> None:
    lab = Lab()
    for turn in range(400):
        count = turn % 5 + 1
        if turn % 3:
            numbers = [lab.kernel.send(read_10(turn % BLOCKS, 1), expect=512) for _ in range(count)]
        else:
            numbers = [
                lab.kernel.send(bytes([0x88, *bytes(8), 0, 0, 0, 1, 0, 0, 0]), expect=512)
                for _ in range(count)
            ]
        assert set(lab.turn()) == set(numbers)
        assert lab.kernel.tail == lab.kernel.head


def test_what_a_read_does_not_fill_is_zeroed_and_trimmed() -> None:
    lab = Lab()
    answer = lab.run(INQUIRY, expect=255)
    assert answer.status == GOOD
    assert answer.data[8:15] == b"PRATIMA"
    assert answer.residual == 255 - len(answer.data) > 0


def test_a_kernel_that_cannot_trim_gets_zeros_and_no_other_command_s_bytes() -> None:
    lab = Lab(Kernel(features=1))
    answer = lab.run(INQUIRY, expect=255)
    assert len(answer.data) == 255
    assert answer.data[8:15] == b"PRATIMA"
    assert answer.data[200:] == bytes(55)


def test_more_data_than_is_expected_is_cut() -> None:
    lab = Lab()
    lab.run(write_10(0, 2), data=b"b" * 1024)
    answer = lab.run(read_10(0, 2), expect=700)
    assert answer.data == b"b" * 700


@pytest.mark.parametrize("length", [0, 512, 1536])
def test_a_write_whose_lengths_differ_is_refused_as_the_kernel_s_own_disks_do(length: int) -> None:
    lab = Lab()
    answer = lab.run(write_10(0, 2), data=b"c" * length)
    assert answer.status == CHECK_CONDITION
    assert sense(answer.sense) == (0x5, 0x0E, 0x03)
    assert not lab.storage.calls


def test_of_other_lengths_the_unit_is_the_judge() -> None:
    lab = Lab()
    compare = bytes([0x89, *bytes(12), 1, 0, 0])
    assert sense(lab.run(compare, data=bytes(512)).sense) == (0x5, 0x24, 0x00)
    assert lab.run(compare, data=bytes(512) + b"g" * 512).status == GOOD
    assert bytes(lab.storage.data[:512]) == b"g" * 512


def test_an_error_carries_its_sense_and_no_data() -> None:
    lab = Lab()
    answer = lab.run(read_10(BLOCKS, 1), expect=512)
    assert answer.status == CHECK_CONDITION
    assert sense(answer.sense) == (0x5, 0x21, 0x00)
    assert answer.data == b""
    lab.storage.failure = OSError(errno.EIO, "gone")
    assert sense(lab.run(read_10(0, 1), expect=512).sense)[0] == 0x3


def test_bidirectional_commands_are_refused() -> None:
    lab = Lab()
    lab.kernel.send(read_10(0, 1), expect=512)
    lab.kernel.area[128 + 12] = 1
    (answer,) = lab.turn().values()
    assert sense(answer.sense) == (0x5, 0x24, 0x00)


def test_initiators_hear_of_a_new_size_and_of_no_power_on() -> None:
    lab = Lab()
    assert lab.run(bytes(6)).status == GOOD
    lab.storage.grow(2 * BLOCKS * 512)
    lab.unit.capacity_changed()
    answer = lab.run(bytes(6))
    assert sense(answer.sense) == (0x6, 0x2A, 0x09)
    assert lab.run(read_10(2 * BLOCKS - 1, 1), expect=512).status == GOOD


def test_the_ring_s_commands_wait_there_when_enough_are_under_way() -> None:
    kernel = Kernel(ring_bytes=65536 - 128, data_bytes=1 << 20)
    lab = Lab(kernel, deferred=True)
    more = 5
    numbers = [kernel.send(SYNCHRONIZE) for _ in range(TCMU_COMMANDS_MAX + more)]
    assert not lab.turn()
    assert lab.storage.waiting == TCMU_COMMANDS_MAX
    lab.storage.complete()
    assert len(lab.publish()) == TCMU_COMMANDS_MAX
    lab.serve()
    lab.storage.complete()
    assert set(lab.publish()) == set(numbers[-more:])


def test_an_aborted_write_is_answered_when_it_has_settled_and_not_again() -> None:
    lab = Lab(deferred=True)
    number = lab.kernel.send(write_10(0, 1), data=b"d" * 512)
    assert not lab.turn()
    lab.kernel.notify(ABORT_TASK, [number])
    assert not lab.turn(), "its write may still reach the volume"
    lab.storage.complete(1)
    assert lab.publish()[number].status == TASK_ABORTED
    lab.storage.complete()
    assert not lab.publish()
    assert lab.kernel.tail == lab.kernel.head


def test_an_aborted_write_that_waits_for_its_replica_alone_is_answered_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = Lab(deferred=True)
    number = lab.kernel.send(write_10(0, 1), data=b"e" * 512)
    lab.turn()
    lab.kernel.notify(ABORT_TASK, [number])
    monkeypatch.setattr(lab.storage, "settle", lambda done: done())
    assert lab.turn()[number].status == TASK_ABORTED
    lab.storage.complete()
    assert not lab.publish()


def test_a_reset_ends_what_it_lists_lifts_write_protection_and_tells_no_power_on() -> None:
    lab = Lab(deferred=True)
    lab.unit.write_protected = True
    numbers = [lab.kernel.send(read_10(lba, 1), expect=512) for lba in range(3)]
    lab.kernel.notify(LUN_RESET, [*numbers, 999])
    lab.turn()
    later = lab.kernel.send(write_10(0, 1), data=b"f" * 512)
    lab.serve()
    lab.storage.complete()
    answers = lab.publish()
    assert {answers.pop(number).status for number in numbers} == {TASK_ABORTED}
    assert answers[later].status == GOOD
    assert not lab.unit.write_protected


def test_a_notice_that_lists_nothing_known_is_passed_over() -> None:
    lab = Lab()
    lab.kernel.notify(ABORT_TASK, [5, 6])
    assert not lab.turn()
    assert lab.kernel.tail == lab.kernel.head
    assert lab.run(bytes(6)).status == GOOD


def test_after_the_end_nothing_is_answered_and_the_mapping_is_free() -> None:
    lab = Lab(deferred=True)
    lab.kernel.send(read_10(0, 1), expect=512)
    lab.turn()
    lab.session.close()
    lab.storage.complete()
    lab.kernel.area.clear()  # would raise BufferError while a view of it is left
