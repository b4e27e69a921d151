"""Who may do what: RESERVE, persistent reservations of every type, and what others are told."""

import pytest

from pratima_iscsi.limits import REGISTRATIONS_MAX
from tests.unit.scsi.lab import (
    TEST_UNIT_READY,
    Lab,
    Session,
    cdb_10,
    inquiry,
    mode_sense_6,
    reserve_in,
    reserve_out,
)

CONFLICT = 0x18
RESERVE_6, RELEASE_6 = b"\x16" + bytes(5), b"\x17" + bytes(5)
READ, WRITE = cdb_10(0x28, 0, 1), cdb_10(0x2A, 0, 1)
BLOCK = bytes(512)
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_AND_IGNORE = range(7)
TYPES = (1, 3, 5, 6, 7, 8)


class Pair(Lab):
    """Two sessions, 'one' and 'two', with keys 1 and 2 when registered."""

    def __init__(self, *, registered: bool = True) -> None:
        super().__init__()
        self.other = self.join("two")
        self.keys = {self.session: 1, self.other: 2}
        if registered:
            for session, key in self.keys.items():
                self.good(*reserve_out(REGISTER, 0, key), session=session)

    def out(self, session: Session, action: int, new_key: int = 0, kind: int = 0) -> int:
        """PERSISTENT RESERVE OUT with the session's own key; the status."""
        cdb, data = reserve_out(action, self.keys[session], new_key, kind)
        return self.run(cdb, data, session).status

    def status(self, session: Session, cdb: bytes, data: bytes = b"") -> int:
        return self.run(cdb, data, session).status

    def read_keys(self) -> list[int]:
        data = self.good(reserve_in(0))
        assert int.from_bytes(data[4:8], "big") == len(data) - 8
        return [int.from_bytes(data[i : i + 8], "big") for i in range(8, len(data), 8)]

    def generation(self) -> int:
        return int.from_bytes(self.good(reserve_in(0))[:4], "big")

    def reservation(self) -> tuple[int, int] | None:
        data = self.good(reserve_in(1))
        if len(data) == 8:
            return None
        assert len(data) == 24
        return int.from_bytes(data[8:16], "big"), data[21]


def test_reserve_keeps_others_out_until_release():
    lab = Pair(registered=False)
    lab.good(RESERVE_6)
    lab.good(RESERVE_6)
    for cdb in (RESERVE_6, TEST_UNIT_READY, READ, mode_sense_6(0x3F), reserve_in(0)):
        assert lab.status(lab.other, cdb) == CONFLICT
    for cdb in (inquiry(), RELEASE_6, b"\x03" + bytes(5)):
        lab.good(cdb, session=lab.other)
    lab.good(READ)
    assert lab.status(lab.other, READ) == CONFLICT
    lab.good(RELEASE_6)
    lab.good(b"\x56" + bytes(9), session=lab.other)
    assert lab.status(lab.session, READ) == CONFLICT


def test_persistent_reservations_conflict_with_a_reserve_even_for_its_holder():
    lab = Pair(registered=False)
    lab.good(RESERVE_6)
    for session in (lab.session, lab.other):
        for action in range(4):
            assert lab.status(session, reserve_in(action)) == CONFLICT
        for action in range(7):
            assert lab.status(session, *reserve_out(action, 0, 1, 1)) == CONFLICT
    lab.good(RELEASE_6)
    assert lab.read_keys() == []


@pytest.mark.parametrize("action", [0x0C, 0x0D])
def test_exclusive_access_keeps_others_from_asking_what_is_supported(action):
    ask = bytes((0xA3, action)) + bytes(4) + (255).to_bytes(4, "big") + bytes(2)
    lab = Pair()
    third = lab.join("three")
    for kind, allowed in ((1, True), (3, False), (6, False)):
        assert lab.out(lab.session, RESERVE, kind=kind) == 0
        lab.good(ask)
        assert (lab.status(third, ask) == 0) == allowed
        assert lab.out(lab.session, RELEASE, kind=kind) == 0
        lab.unit.attentions.pending.clear()


@pytest.mark.parametrize("kind", TYPES)
def test_medium_removal_is_allowed_by_anybody_and_prevented_by_who_may_write(kind):
    """SPC-4 5.13.1, table of what is allowed: PREVENT ALLOW MEDIUM REMOVAL, Prevent=0 and <>0."""
    allow, prevent = (bytes((0x1E, 0, 0, 0, flag, 0)) for flag in (0, 1))
    lab = Pair()
    third = lab.join("three")
    lab.status(third, TEST_UNIT_READY)
    assert lab.out(lab.session, RESERVE, kind=kind) == 0
    for session, may in ((lab.session, True), (lab.other, kind >= 5), (third, False)):
        assert lab.status(session, allow) == 0
        assert lab.status(session, prevent) == (0 if may else CONFLICT)


def test_a_reserve_ends_with_its_nexus_and_with_a_reset():
    lab = Pair(registered=False)
    lab.good(RESERVE_6)
    lab.target.detach(lab.session)
    lab.good(RESERVE_6, session=lab.other)
    lab.unit.reset(lab.other, lambda: None)
    third = lab.join("three")
    lab.good(RESERVE_6, session=third)


def test_third_party_and_extent_reservations_are_refused():
    lab = Lab()
    assert lab.refused(b"\x16\x01" + bytes(4)) == (5, 0x24, 0)
    assert lab.refused(b"\x17\x10" + bytes(4)) == (5, 0x24, 0)


def test_reserve_conflicts_once_keys_are_registered():
    lab = Pair()
    assert lab.status(lab.session, RESERVE_6) == CONFLICT
    assert lab.status(lab.other, RELEASE_6) == CONFLICT


def test_registering_wants_the_old_key_unless_it_is_ignored():
    lab = Pair(registered=False)
    assert lab.status(lab.session, *reserve_out(REGISTER, 7, 1)) == CONFLICT
    lab.good(*reserve_out(REGISTER, 0, 1))
    assert lab.status(lab.session, *reserve_out(REGISTER, 0, 5)) == CONFLICT
    lab.good(*reserve_out(REGISTER, 1, 5))
    lab.good(*reserve_out(REGISTER_AND_IGNORE, 9, 6))
    assert lab.read_keys() == [6]
    assert lab.generation() == 3
    lab.good(*reserve_out(REGISTER, 6, 0))
    assert lab.read_keys() == []
    lab.good(*reserve_out(REGISTER_AND_IGNORE, 0, 0))
    assert lab.generation() == 4


def test_a_registration_outlives_its_session():
    lab = Pair()
    lab.good(*reserve_out(RESERVE, 1, 0, 3))
    lab.target.detach(lab.session)
    assert lab.status(lab.other, READ) == CONFLICT
    again = lab.join("one")
    lab.good(READ, session=again)
    lab.keys[again] = 1
    assert lab.out(again, RELEASE, kind=3) == 0


def test_registrations_are_bounded():
    lab = Lab()
    for number in range(REGISTRATIONS_MAX):
        lab.good(*reserve_out(REGISTER, 0, 1), session=lab.join(f"host{number}"))
    assert lab.refused(*reserve_out(REGISTER, 0, 1)) == (5, 0x55, 4)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("registered", [True, False])
def test_access_under_each_type(kind, registered):
    lab = Pair()
    if not registered:
        assert lab.out(lab.other, REGISTER) == 0
    assert lab.out(lab.session, RESERVE, kind=kind) == 0
    lab.good(READ)
    lab.good(WRITE, BLOCK)
    shared = kind >= 5 and registered
    may_read = shared or kind in (1, 5, 7)
    assert (lab.status(lab.other, READ) == 0) == may_read
    assert (lab.status(lab.other, mode_sense_6(0x3F)) == 0) == may_read
    assert (lab.status(lab.other, WRITE, BLOCK) == 0) == shared
    assert (lab.status(lab.other, cdb_10(0x35)) == 0) == shared
    for cdb in (TEST_UNIT_READY, inquiry(), cdb_10(0x25), reserve_in(1)):
        assert lab.status(lab.other, cdb) == 0


@pytest.mark.parametrize("kind", TYPES)
def test_reserve_is_repeated_by_its_holder_only(kind):
    lab = Pair()
    assert lab.reservation() is None
    before = lab.generation()
    assert lab.out(lab.session, RESERVE, kind=kind) == 0
    assert lab.out(lab.session, RESERVE, kind=kind) == 0
    all_registrants = kind >= 7
    assert lab.reservation() == (0 if all_registrants else 1, kind)
    assert lab.out(lab.session, RESERVE, kind=1 if kind != 1 else 3) == CONFLICT
    assert (lab.out(lab.other, RESERVE, kind=kind) == 0) == all_registrants
    assert lab.generation() == before


@pytest.mark.parametrize("kind", TYPES)
def test_release_wants_the_type_and_tells_registrants_of_a_shared_one(kind):
    lab = Pair()
    lab.out(lab.session, RESERVE, kind=kind)
    wrong = reserve_out(RELEASE, 1, 0, 1 if kind != 1 else 3)
    assert lab.refused(*wrong) == (5, 0x26, 4)
    if kind < 7:
        assert lab.out(lab.other, RELEASE, kind=kind) == 0
        assert lab.reservation() is not None
    assert lab.out(lab.session, RELEASE, kind=kind) == 0
    assert lab.reservation() is None
    told = lab.run(TEST_UNIT_READY, session=lab.other).sense_triple
    assert told == ((6, 0x2A, 4) if kind >= 5 else None)
    assert lab.out(lab.session, RELEASE, kind=kind) == 0


@pytest.mark.parametrize("kind", TYPES)
def test_a_holder_that_unregisters_lets_go_unless_all_hold(kind):
    lab = Pair()
    lab.out(lab.session, RESERVE, kind=kind)
    assert lab.out(lab.session, REGISTER) == 0
    if kind >= 7:
        assert lab.reservation() == (0, kind)
        assert lab.out(lab.other, REGISTER) == 0
    assert lab.reservation() is None
    told = lab.run(TEST_UNIT_READY, session=lab.other).sense_triple
    assert told == ((6, 0x2A, 4) if kind in (5, 6) else None)


def test_only_a_registrant_with_its_key_may_act():
    lab = Pair()
    third = lab.join("three")
    for action in (RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT):
        assert lab.status(third, *reserve_out(action, 0, 1, 1)) == CONFLICT
        assert lab.status(lab.session, *reserve_out(action, 9, 1, 1)) == CONFLICT
    assert lab.read_keys() == [1, 2]


def test_clear_takes_everything_and_tells_the_others():
    lab = Pair()
    lab.out(lab.session, RESERVE, kind=3)
    before = lab.generation()
    assert lab.out(lab.other, CLEAR) == 0
    assert lab.run(TEST_UNIT_READY).sense_triple == (6, 0x2A, 3)
    assert (lab.read_keys(), lab.reservation(), lab.generation()) == ([], None, before + 1)


@pytest.mark.parametrize("kind", TYPES)
def test_preempt_takes_the_holders_place(kind):
    lab = Pair()
    lab.out(lab.session, RESERVE, kind=kind)
    before = lab.generation()
    victim = 0 if kind >= 7 else 1
    assert lab.out(lab.other, PREEMPT, victim, 3) == 0
    assert lab.run(TEST_UNIT_READY).sense_triple == (6, 0x2A, 5)
    assert lab.read_keys() == [2]
    assert lab.reservation() == (2, 3)
    assert lab.generation() == before + 1
    assert lab.status(lab.session, READ) == CONFLICT
    lab.good(READ, session=lab.other)


def test_preempt_without_a_reservation_only_unregisters():
    lab = Pair()
    assert lab.out(lab.other, PREEMPT, 1, 3) == 0
    assert lab.run(TEST_UNIT_READY).sense_triple == (6, 0x2A, 5)
    assert (lab.read_keys(), lab.reservation()) == ([2], None)


def test_preempt_of_a_key_that_does_not_hold_leaves_the_reservation():
    lab = Pair()
    lab.out(lab.session, RESERVE, kind=3)
    assert lab.out(lab.session, PREEMPT, 2, 3) == 0
    assert (lab.read_keys(), lab.reservation()) == ([1], (1, 3))
    assert lab.out(lab.session, PREEMPT, 77, 3) == CONFLICT
    assert lab.refused(*reserve_out(PREEMPT, 1, 0, 3)) == (5, 0x26, 0)


def test_preempting_all_registrants_by_key_keeps_their_reservation():
    lab = Pair()
    lab.out(lab.session, RESERVE, kind=7)
    assert lab.out(lab.session, PREEMPT, 2, 3) == 0
    assert (lab.read_keys(), lab.reservation()) == ([1], (0, 7))
    assert lab.out(lab.session, PREEMPT, 1, 3) == 0
    assert (lab.read_keys(), lab.reservation()) == ([], None)


def test_a_holder_may_preempt_itself_to_change_the_type():
    lab = Pair()
    third = lab.join("three")
    lab.good(*reserve_out(REGISTER, 0, 3), session=third)
    lab.out(lab.session, RESERVE, kind=5)
    assert lab.out(lab.session, PREEMPT, 1, 3) == 0
    assert (lab.read_keys(), lab.reservation()) == ([1, 2, 3], (1, 3))
    assert lab.run(TEST_UNIT_READY, session=third).sense_triple == (6, 0x2A, 4)


def test_preempt_and_abort_ends_the_victims_commands_and_waits_for_them():
    lab = Pair()
    lab.out(lab.session, RESERVE, kind=3)
    lab.storage.deferred = True
    write = lab.begin(WRITE, BLOCK)
    preempt = lab.begin(*reserve_out(PREEMPT_AND_ABORT, 2, 1, 3), session=lab.other)
    assert write.aborted == 2
    assert preempt.ended == 0
    lab.storage.complete()
    assert (write.ended, preempt.ended, preempt.status) == (1, 1, 0)


def test_what_is_not_offered_of_persistent_reservations_is_refused():
    lab = Pair()
    assert lab.refused(*reserve_out(REGISTER, 1, 9, 0, 0x01)) == (5, 0x26, 0)
    assert lab.refused(*reserve_out(REGISTER, 1, 9, 0, 0x08)) == (5, 0x26, 0)
    lab.good(*reserve_out(REGISTER, 1, 1, 0, 0x04))
    assert lab.refused(*reserve_out(7, 1, 9)) == (5, 0x24, 0)
    assert lab.refused(*reserve_out(RESERVE, 1, 0, 2)) == (5, 0x24, 0)
    assert lab.refused(*reserve_out(RESERVE, 1, 0, 0x13)) == (5, 0x24, 0)
    cdb, data = reserve_out(REGISTER, 1, 9)
    assert lab.refused(cdb, data[:-1]) == (5, 0x0E, 3)
    assert lab.refused(cdb[:8] + b"\x17\0", data[:-1]) == (5, 0x1A, 0)
    assert lab.refused(reserve_in(4)) == (5, 0x24, 0)


def test_capabilities_and_truncated_answers():
    lab = Pair()
    assert lab.good(reserve_in(2)) == bytes.fromhex("0008 04 80 EA01 0000")
    assert lab.good(reserve_in(0, 8))[4:] == (16).to_bytes(4, "big")


def test_full_status_names_each_registrant():
    lab = Pair()
    lab.out(lab.session, RESERVE, kind=6)
    data = lab.good(reserve_in(3))[8:]
    for session, key, holder in ((lab.session, 1, 1), (lab.other, 2, 0)):
        assert int.from_bytes(data[:8], "big") == key
        assert data[12:14] == bytes((holder, 6 if holder else 0))
        assert data[18:20] == b"\0\1"
        length = int.from_bytes(data[20:24], "big")
        transport = data[24 : 24 + length]
        assert transport[0] == 0x45 and length % 4 == 0
        assert int.from_bytes(transport[2:4], "big") == length - 4
        assert transport[4:].rstrip(b"\0").decode() == session.port
        data = data[24 + length :]
    assert data == b""
