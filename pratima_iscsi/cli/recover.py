"""``pratima recover``: a replica's own recovery, offline."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from pratima_iscsi.cli.common import ANY_PATH, state_option
from pratima_iscsi.control.config import checked_group
from pratima_iscsi.control.options import group_directory, groups_directory, unknown_group
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.replica_state import STATE_NAME, ReplicaState
from pratima_iscsi.edges.replica_store import ReplicaStore
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.edges.volume_paths import recall_volume_paths
from pratima_iscsi.errors import StateError, UsageError

NOT_CONSISTENT = 2


@click.command("recover")
@state_option
@click.option(
    "--volume",
    "volumes",
    type=ANY_PATH,
    multiple=True,
    help="Where the volume is, if not where the daemon had it; repeat it in the group's order.",
)
@click.option("--group", default="", metavar="NAME", help="The group, where there are several.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(state: Path, volumes: tuple[Path, ...], group: str, as_json: bool) -> int:
    """Bring a stopped replica's volumes to its last consistent point, and say which that is.

    Exits with 0 if the volumes then are a consistent prefix of the primary's writes, at the
    position that is printed; else with 2, and says why. It can be cut off and begun again, and
    works on copies of the state directory and the volumes.

    \b
    Examples:
      pratima recover --state r
      pratima recover --state copy-of-r --volume copy-of-replica.img
    """
    directories = _directories(state, group)
    if volumes and len(directories) > 1:
        raise UsageError("--volume for several groups", "name one: --group NAME")
    states = [_recover(directory, volumes) for directory in directories]
    if as_json:
        found = [_as_json(recovered) for recovered in states]
        click.echo(json.dumps(found[0] if len(found) == 1 else {"groups": found}, indent=2))
    else:
        for directory, recovered in zip(directories, states, strict=True):
            click.echo(f"{recovered.group_name or directory.name}: {_in_words(recovered)}")
    return 0 if all(map(_is_good, states)) else NOT_CONSISTENT


def _directories(state: Path, group: str) -> list[Path]:
    if (state / STATE_NAME).is_file():  # a copy of one group's directory alone
        if group:
            raise UsageError(
                f"--group, and {state} is one group's own directory", "leave --group out"
            )
        return [state]
    groups = groups_directory(state)
    found = sorted(path for path in groups.iterdir() if path.is_dir()) if groups.is_dir() else []
    if not found:
        raise StateError(
            f"{state} holds no replica's state", "name the directory that pratima replica had"
        )
    if not group:
        return found
    chosen = group_directory(state, checked_group(group))
    if chosen not in found:
        raise unknown_group(group, (path.name for path in found))
    return [chosen]


def _recover(directory: Path, volumes: Sequence[Path]) -> ReplicaState:
    locked = DiskDirectory.open_at(directory)
    opened: list[Volume] = []
    try:
        for path in volumes or recall_volume_paths(directory):
            opened.append(Volume.open(path, empty=True))
        store = ReplicaStore.open(locked, opened)
        store.close()
        return store.state
    finally:
        for volume in opened:
            volume.close()
        locked.close()


def _is_good(state: ReplicaState) -> bool:
    return state.bound and state.consistent and not state.failed


def _in_words(state: ReplicaState) -> str:
    if not state.bound:
        return "NOT BOUND: no primary has connected to this replica yet"
    if state.failed:
        return f"FAILED: {state.failed}"
    if not state.consistent:
        return f"INCONSISTENT: {state.reason}"
    return f"consistent at {state.history.position}"


def _as_json(state: ReplicaState) -> dict[str, object]:
    position = state.history.position
    return {
        "group": state.group_name,
        "consistent": _is_good(state),
        "position": {
            "generation": f"{position.generation:016x}",
            "sequence": position.sequence,
        },
        "digest": state.digest.hex(),
        "reason": "" if _is_good(state) else _in_words(state),
    }
