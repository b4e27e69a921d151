"""What an operator tells a primary: whom it reaches, and what the answer says."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.engine.served_group import ServedGroup
from pratima_iscsi.engine.source_verbs import SourceVerbs
from pratima_iscsi.errors import OperatorError, UsageError
from pratima_iscsi.replication.group import LinkOptions
from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.messages import VolumeOffer
from pratima_iscsi.replication.source_state import LinkState, SourceState, StopKind

pytestmark = pytest.mark.plain  # the group's parts are the test's own


class Groups(SourceVerbs):
    """Groups of one replica each, whose primary lost power."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            self.groups[name] = cast(ServedGroup, group(name))

    def link(self, name: str) -> Link:
        return self.groups[name].engine.backstore.links[0]


def group(name: str) -> SimpleNamespace:
    saved = LinkState("replica", ever_sync=True, synced_once=True)
    state = SourceState(b"g" * 16, name, b"n" * 16, links=(saved,), stop=StopKind.POWER_LOST)
    options = GroupOptions((VolumeOffer("v0", 1 << 20),), (LinkOptions("replica"),))
    return SimpleNamespace(
        options=SimpleNamespace(name=name),
        engine=SimpleNamespace(backstore=Backstore(options, state), turn=lambda: None),
        events=SimpleNamespace(control=lambda where, verb: None),
        place=lambda link: name,
    )


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
    assert verbs.link("one").lost_power
