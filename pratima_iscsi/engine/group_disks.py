"""What one group has on disks: its state directory, its store, its volumes, and who it is.

Opening all that may block for as long as a disk likes, so any thread may do it. One rule: it opens
as a whole or not at all.
"""

import contextlib
import secrets
from dataclasses import dataclass, replace

from pratima_iscsi.control.options import ServeGroup, ServeOptions, group_directory
from pratima_iscsi.edges.boot import read_boot_id
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.source_store import SourceStore
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.errors import StateError
from pratima_iscsi.replication.source_state import LinkState, SourceState
from pratima_iscsi.replication.states import Mode


@dataclass(frozen=True, slots=True)
class GroupDisks:
    """A group's open state and volumes."""

    directory: DiskDirectory
    store: SourceStore
    volumes: tuple[Volume, ...]
    state: SourceState
    boot_id: str

    @classmethod
    def open(cls, options: ServeGroup, serve: ServeOptions, node: bytes) -> "GroupDisks":
        """Open them, making what is not there yet. Raises StateError, with nothing left open."""
        with contextlib.ExitStack() as opened:
            directory = DiskDirectory.open_at(
                group_directory(serve.state, options.name), create=True
            )
            opened.callback(directory.close)
            store = SourceStore(directory.path)
            opened.callback(store.close)
            known = store.volume_sizes()
            volumes = []
            for wanted in options.volumes:
                volume = Volume.open(wanted.path, size=wanted.size, grown=wanted.name in known)
                opened.callback(volume.close)
                # Whatever its file has by now: a volume grows only when it is asked to.
                volume.keep_to(known.get(wanted.name, volume.size))
                volumes.append(volume)
            boot_id = read_boot_id()
            states = [
                volume.state(wanted.name)
                for volume, wanted in zip(volumes, options.volumes, strict=True)
            ]
            state = store.load(states, boot_id)
            if state is None:
                group = secrets.token_bytes(16)
                state = SourceState(group, options.name, node, volumes=tuple(states))
                store.create(state)
            if state.name != options.name:
                raise StateError(
                    f"{directory.path} holds group {state.name!r}",
                    f"start with --group {state.name}, or name another --state",
                )
            _remember(store, state, options)
            opened.pop_all()
        return cls(directory, store, tuple(volumes), state, boot_id)

    def close(self) -> None:
        """Close state and volumes; a second call does nothing."""
        for volume in self.volumes:
            volume.close()
        self.store.close()
        self.directory.close()


def _remember(store: SourceStore, state: SourceState, options: ServeGroup) -> None:
    """A link that is synchronous once counts as such after any power cut."""
    stored = {link.name: link for link in state.links}
    for replica in options.replicas:
        store.mark(replica.name)
        link = stored.get(replica.name, LinkState(replica.name))
        if replica.mode is not Mode.ASYNC and not link.ever_sync:
            store.remember_link(replace(link, ever_sync=True))
