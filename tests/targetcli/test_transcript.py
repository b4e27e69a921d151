"""The session that docs/targetcli.md shows is what happens."""

from tests.integration.daemons.nodes import directory
from tests.targetcli.transcript import alike, commands, played, written


def test_the_documents_session_is_what_happens() -> None:
    session = written()
    assert len(commands(session)) > 10
    with directory() as place:
        assert alike(played(place, commands(session))) == alike(session)
