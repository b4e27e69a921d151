"""A replica's port that nobody answers at: one reason, which is that of who dials."""

from pratima_iscsi.replication.states import LinkState
from tests.scenarios.scene import Scene

FINDING = "control port 10.0.0.2:7010 accepts connections but says nothing: it is not Pratima"


def test_while_no_connection_stands_only_who_dials_says_why() -> None:
    scene = Scene()
    scene.network.partition()
    scene.begin()
    scene.link.sought()
    told = len(scene.reasons())
    for _ in range(5):
        scene.rest(9.0)  # longer than an answer may take: the handshake of ZeroMQ, then the probe
        scene.link.unreachable(FINDING, scene.world.now)
        assert scene.link.reason == FINDING and scene.state is LinkState.CONNECTING
    scene.rest(9.0)
    assert scene.link.reason == FINDING
    assert set(scene.reasons()[told:]) == {f"waiting: {FINDING}"}


def test_a_connection_that_stands_and_brings_no_answer_is_told() -> None:
    scene = Scene()
    scene.network.partition()
    scene.begin()
    scene.link.sought()
    scene.link.unreachable(FINDING, scene.world.now)
    scene.link.reachable(scene.world.now)
    scene.rest(9.0)
    assert scene.link.reason == "the replica does not answer"
    scene.network.heal()
    scene.until(scene.converged)
