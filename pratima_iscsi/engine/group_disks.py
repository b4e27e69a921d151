"""What one group has on disks: its state directory, its store, its volumes, and who it is.

Opening all that may block for as long as a disk likes, so any thread may do it. One rule: it opens
as a whole or not at all, and what was made for a group that is then not served is removed again.
"""

import contextlib
import os
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

from pratima_iscsi.control.options import ServeGroup, ServeOptions, group_directory
from pratima_iscsi.edges.boot import read_boot_id
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.source_store import SourceStore
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.errors import StateError
from pratima_iscsi.replication.source_state import (
    LinkState,
    SourceState,
    StopKind,
    VolumeState,
)
from pratima_iscsi.replication.states import Mode


@dataclass(frozen=True, slots=True)
class GroupDisks:
    """A group's open state and volumes."""

    directory: DiskDirectory
    store: SourceStore
    volumes: tuple[Volume, ...]
    state: SourceState
    boot_id: str
    made: "_Made"
    """What ``open`` made."""

    @classmethod
    def open(cls, options: ServeGroup, serve: ServeOptions, node: bytes) -> "GroupDisks":
        """Open them, making what is not there yet. Raises StateError, with nothing left open, and
        nothing left of what was made."""
        with contextlib.ExitStack() as opened:
            path = group_directory(serve.state, options.name)
            before = frozenset(os.listdir(path)) if path.is_dir() else None
            directory = DiskDirectory.open_at(path, create=True)
            opened.callback(directory.close)
            store = SourceStore(directory.path)
            opened.callback(store.close)
            made = _Made(path, store, before, store.is_new)
            opened.callback(made.remove)
            volumes = []
            known = store.known_sizes([wanted.name for wanted in options.volumes])
            for wanted in options.volumes:
                volume = Volume.open(wanted.path, size=wanted.size, known=known[wanted.name])
                opened.callback(volume.close)
                volumes.append(volume)
                if volume.is_new:
                    made.volumes[wanted.name] = volume
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
            _remember(store, state, options, states)
            if state.stop is StopKind.POWER_LOST:
                with contextlib.suppress(OSError):  # the next start finds the same
                    store.remember_loss(boot_id)
            opened.pop_all()
        return cls(directory, store, tuple(volumes), state, boot_id, made)

    def close(self) -> None:
        """Close state and volumes; a second call does nothing."""
        for volume in self.volumes:
            volume.close()
        self.store.close()
        self.directory.close()

    def unmake(self) -> None:
        """Remove what ``open`` made, and close the rest: the group is not served after all."""
        self.made.remove()
        self.close()


@dataclass(frozen=True, slots=True)
class _Made:
    """What an opening made, until it is of use."""

    directory: Path
    store: SourceStore
    before: frozenset[str] | None
    """What was in the directory; None: there was none."""
    is_new: bool
    """Whether there was no group in the directory: a replica may have been, which stays."""
    volumes: dict[str, Volume] = field(default_factory=dict)

    def remove(self) -> None:
        """Make it undone. A volume that the store cannot forget stays: one that it knows and that
        is not there could never be made."""
        if self.is_new:
            self._empty_directory()
        elif self.volumes:
            try:
                self.store.forget_volumes(self.volumes)
            except OSError:
                return
        for volume in self.volumes.values():
            volume.unmake()

    def _empty_directory(self) -> None:
        with contextlib.suppress(OSError):
            for name in set(os.listdir(self.directory)) - (self.before or set()):
                (self.directory / name).unlink()
            if self.before is None:
                self.directory.rmdir()


def _remember(
    store: SourceStore, state: SourceState, options: ServeGroup, volumes: list[VolumeState]
) -> None:
    """A link that is synchronous once counts as such after any power cut, and a volume that the
    group has once is never made anew."""
    if not all(store.known_sizes([volume.name for volume in volumes]).values()):
        store.remember_volumes(volumes)
    stored = {link.name: link for link in state.links}
    for replica in options.replicas:
        store.mark(replica.name)
        link = stored.get(replica.name, LinkState(replica.name))
        if replica.mode is not Mode.ASYNC and not link.ever_sync:
            store.remember_link(replace(link, ever_sync=True))
