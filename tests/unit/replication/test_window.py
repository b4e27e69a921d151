"""When a link's window has room: for the next batch, and for a whole one."""

from pratima_iscsi.limits import BATCH_BYTES_MAX, RECORD_OVERHEAD_BYTES
from pratima_iscsi.operations import RecordKind
from pratima_iscsi.ordered_log import LinkQueue, OrderedLog
from pratima_iscsi.records import make_record
from pratima_iscsi.replication.window import Window

CREDIT = 4 * BATCH_BYTES_MAX
BLOCK = bytes(4096)


def opened(log_share: int = 2 * CREDIT) -> tuple[Window, LinkQueue]:
    """A window of four batches, and an empty queue."""
    window = Window(log_share)
    window.give(CREDIT)
    return window, LinkQueue(OrderedLog(4 * CREDIT))


def send(window: Window, queue: LinkQueue, size: int) -> None:
    """One frame of ``size`` bytes of which nothing was acknowledged."""
    queue.append(make_record(RecordKind.WRITE, 0, 0, len(BLOCK), BLOCK, sequence=1))
    first_n, _, batch = queue.take_batch()
    window.sent(first_n + batch.count - 1, size, 1, 0.0)


def test_with_nothing_under_way_there_is_room_for_anything() -> None:
    window, queue = opened(log_share=1)
    assert window.has_room(queue) and not window.is_full(queue)


def test_less_credit_than_a_batch_is_no_room_for_one() -> None:
    window, queue = opened()
    send(window, queue, CREDIT - BATCH_BYTES_MAX)
    assert window.has_room(queue)
    send(window, queue, 1)
    assert not window.has_room(queue)
    assert not window.is_full(queue), "a smaller frame may go"


def test_what_was_received_makes_room_again() -> None:
    window, queue = opened()
    send(window, queue, CREDIT)
    assert not window.has_room(queue)
    window.received(1, 1.0)
    assert window.has_room(queue)


def test_a_link_that_fills_its_share_of_the_log_has_no_room() -> None:
    window, queue = opened(log_share=BATCH_BYTES_MAX + RECORD_OVERHEAD_BYTES + len(BLOCK))
    send(window, queue, 1)
    assert window.has_room(queue)
    send(window, queue, 1)
    assert not window.has_room(queue)
