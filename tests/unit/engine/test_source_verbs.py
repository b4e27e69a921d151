"""What an operator tells a primary: whom it reaches, and what the answer says."""

import errno
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.engine.source_verbs import SourceVerbs
from pratima_iscsi.errors import OperatorError, StateError, UsageError
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.messages import VolumeOffer
from pratima_iscsi.replication.source_state import LinkState, SourceState, StopKind
from pratima_iscsi.replication.states import Connection

pytestmark = pytest.mark.plain  # the group's parts are the test's own


class _Sockets:
    """A link's sockets: how often the replica was dialled, and whether it is there."""

    def __init__(self) -> None:
        self.is_up = False
        self.dialled = 0

    def connect(self) -> None:
        self.dialled += 1


class Groups(SourceVerbs):
    """Groups whose primary lost power, with replicas of these names each."""

    def __init__(self, *names: str, replicas: tuple[str, ...] = ("replica",)) -> None:
        super().__init__()
        self.full = False
        """The state directory takes nothing."""
        self.stored: list[LinkState] = []
        self.turns = 0
        for name in names:
            self.groups[name] = cast(ServedGroup, self._group(name, replicas))

    def link(self, name: str, index: int = 0) -> Link:
        return self.groups[name].engine.backstore.links[index]

    def _store(self, flags: LinkState) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.stored.append(flags)

    def _turn(self) -> None:
        self.turns += 1

    def _group(self, name: str, replicas: tuple[str, ...]) -> SimpleNamespace:
        saved = tuple(LinkState(each, ever_sync=True, synced_once=True) for each in replicas)
        state = SourceState(b"g" * 16, name, b"n" * 16, links=saved, stop=StopKind.POWER_LOST)
        options = GroupOptions((VolumeOffer("v0", 1 << 20),), tuple(map(LinkOptions, replicas)))
        group = SimpleNamespace(
            options=SimpleNamespace(name=name),
            engine=SimpleNamespace(
                backstore=Backstore(options, state), turn=self._turn, remember_link=self._store
            ),
            events=SimpleNamespace(control=lambda where, verb: None),
            place=lambda link: name,
            links=[_Sockets() for _ in replicas],
        )
        group.seek = partial(ServedGroup.seek, cast(ServedGroup, group))
        group.remember = partial(ServedGroup.remember, cast(ServedGroup, group))
        return group


VERBS: dict[str, Callable[[SourceVerbs, str], Any]] = {
    "resync": lambda verbs, group: verbs.resync(group, "", False),
    "resync --from-primary": lambda verbs, group: verbs.resync(group, "", True),
    "reconnect": lambda verbs, group: verbs.reconnect(group, ""),
    "enable": lambda verbs, group: verbs.enable(group, ""),
    "kill": lambda verbs, group: verbs.kill(group, ""),
    "disable": lambda verbs, group: verbs.disable(group, ""),
    "clean": lambda verbs, group: verbs.clean(group, "", True),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_without_a_group_reaches_none_of_several(verb: str) -> None:
    verbs = Groups("one", "two")
    with pytest.raises(UsageError, match="there are several groups") as refused:
        VERBS[verb](verbs, "")
    assert refused.value.next_step == "name one of them: one, two"
    assert all(verbs.link(name).lost_power for name in ("one", "two"))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_without_a_group_where_there_is_none_is_an_error(verb: str) -> None:
    with pytest.raises(OperatorError):
        VERBS[verb](Groups(), "")


def test_the_only_group_need_not_be_named_and_one_of_several_must() -> None:
    only, several = Groups("one"), Groups("one", "two")
    assert only.resync("", "", True) == several.resync("two", "", True) == "resync of replica"
    assert not only.link("one").lost_power and not several.link("two").lost_power
    assert several.link("one").lost_power


def test_a_group_that_is_not_served_counts_as_one_of_several() -> None:
    class OneDown(Groups):
        def names(self) -> list[str]:
            return [*self.groups, "down"]

    verbs = OneDown("one")
    with pytest.raises(UsageError, match="several groups"):
        verbs.resync("", "", True)
    with pytest.raises(StateError, match="group down is not served here"):
        verbs.resync("down", "", True)
    assert verbs.link("one").lost_power


@pytest.mark.parametrize("verb", ["resync", "resync --from-primary", "reconnect", "kill"])
def test_a_verb_that_does_nothing_to_a_disabled_link_does_not_claim_that_it_did(verb: str) -> None:
    verbs = Groups("one")
    verbs.disable("one", "")
    with pytest.raises(StateError, match="disabled, with neither queue nor session: replica") as no:
        VERBS[verb](verbs, "one")
    assert "pratima enable" in no.value.next_step
    link = verbs.link("one")
    assert link.connection is Connection.DISABLED and link.lost_power


def test_a_disabled_link_beside_one_at_work_is_named_apart() -> None:
    verbs = Groups("one", replicas=("a", "b", "c"))
    verbs.disable("one", "b")
    assert verbs.reconnect("one", "") == (
        "connecting to a, c; disabled, and left so until pratima enable: b"
    )


def test_a_kill_says_that_a_link_is_disabled_again() -> None:
    verbs = Groups("one", replicas=("a", "b"))
    verbs.disable("one", "a")
    verbs.clean("one", "a", True)
    assert verbs.kill("one", "") == (
        "killed the sessions of a, b; disabled again, as before clean: a"
    )
    assert verbs.link("one").connection is Connection.DISABLED


def test_a_word_is_not_told_as_what_has_happened() -> None:
    verbs = Groups("one")
    verbs.disable("one", "")
    for proof in (False, True):
        told = verbs.clean("one", "", proof)
        assert "declared equal without" not in told and "a restart before that forgets it" in told


def test_enable_and_disable_change_nothing_that_cannot_be_stored() -> None:
    verbs = Groups("one")
    link = verbs.link("one")
    for verb, before in ((verbs.disable, Connection.WAITING), (verbs.enable, Connection.DISABLED)):
        verbs.full = True
        with pytest.raises(StateError, match="nothing was changed: No space left"):
            verb("one", "")
        assert link.connection is before
        verbs.full = False
        verb("one", "")
        assert verbs.stored[-1].enabled is (link.connection is not Connection.DISABLED)
    assert link.connection is Connection.WAITING


def test_what_was_done_before_an_error_is_carried_out() -> None:
    verbs = Groups("one", replicas=("a", "b"))
    verbs.disable("one", "")

    def all_but_b(flags: LinkState) -> None:
        verbs.full = flags.name == "b"
        verbs._store(flags)

    verbs.groups["one"].engine.remember_link = all_but_b  # type: ignore[method-assign]
    turns = verbs.turns
    with pytest.raises(StateError):
        verbs.enable("one", "")
    assert verbs.turns == turns + 1
    assert verbs.link("one", 0).connection is Connection.WAITING
    assert verbs.link("one", 1).connection is Connection.DISABLED


@pytest.mark.parametrize("verb", ["resync", "resync --from-primary", "reconnect", "enable"])
def test_a_verb_that_wants_a_session_dials_at_once_where_nothing_is_connected(verb: str) -> None:
    verbs = Groups("one", replicas=("gone", "there"))
    gone, there = cast(list[_Sockets], verbs.groups["one"].links)
    there.is_up = True
    VERBS[verb](verbs, "one")
    assert (gone.dialled, there.dialled) == (1, 0)
