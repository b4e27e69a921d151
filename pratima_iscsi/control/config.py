"""Configuration: the files that are read, and the checks of their values.

A command line makes the same structures (``control.sections``), so both are checked here, once. One
rule: what is wrong is named, with what to do about it; nothing is guessed.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from pratima_iscsi import limits
from pratima_iscsi.control.options import (
    EventOptions,
    ReplicaDaemonOptions,
    ReplicaGroup,
    ReplicaOptions,
    ServeGroup,
    ServeOptions,
    VolumeOptions,
    check_apart,
)
from pratima_iscsi.control.sections import (
    NOWHERE,
    ChapSection,
    EventsSection,
    ReplicaFile,
    ReplicaSection,
    ServeFile,
    ServeGroupSection,
    TargetsFile,
    VolumeSection,
)
from pratima_iscsi.control.units import format_size, parse_size
from pratima_iscsi.edges.curve import CurveKeys
from pratima_iscsi.edges.keys import AllowList, read_allow_list, read_keys, read_secret
from pratima_iscsi.edges.link_address import LinkAddress, parse_address
from pratima_iscsi.errors import StateError, UsageError
from pratima_iscsi.iscsi.chap import Account
from pratima_iscsi.iscsi.names import normalized, normalized_initiator

TARGET_PREFIX: Final = "iqn.2026-01.io.github.pratima:"
CHAP_SECRET_BYTES_MIN: Final = 12

_GROUP: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_VOLUME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


_FileT = TypeVar("_FileT", ServeFile, ReplicaFile, TargetsFile)


def read_file(path: Path, kind: type[_FileT]) -> _FileT:
    """The file's content, of the right shape. Raises StateError or UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(limits.CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise StateError(
            f"configuration {path} cannot be read: {error.strerror}",
            "see whether the path is right",
        ) from None
    if len(data) > limits.CONFIG_BYTES_MAX:
        raise UsageError(f"configuration {path} is too long", "see whether the path is right")
    try:
        return msgspec.toml.decode(data, type=kind)
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(
            f"configuration {path}: {error}",
            "docs/operations.md names every key and shows a file that works",
        ) from None


def serve_options(file: ServeFile, base: Path) -> ServeOptions:
    """Checked options; relative paths are below ``base``. Raises UsageError or StateError."""
    keys, allowed = _keys(file.key, file.allow, base)
    portal = _address("portal", file.portal.listen)
    if portal.path:
        raise UsageError(f"portal {portal} is no TCP address", "give HOST:PORT")
    low, high = limits.LIO_COMMAND_SECONDS_MIN, limits.LIO_COMMAND_SECONDS_MAX
    if not low <= file.command_timeout <= high:
        raise UsageError(
            f"a command timeout of {file.command_timeout} s", f"choose {low} to {high} seconds"
        )
    options = ServeOptions(
        state=base / file.state,
        portal=portal,
        groups=(),
        account=_account(file.portal, base),
        front_end=file.front_end,
        lio_setup=file.lio_setup,
        command_seconds=file.command_timeout,
        insecure_no_chap=file.portal.insecure_no_chap,
        keys=keys,
        allowed=allowed,
        events=_events(file, None, keys, allowed, base),
    )
    groups = tuple(serve_group(group, base, options) for group in file.group)
    check_serve_groups(groups)
    return replace(options, groups=groups)


def check_serve_groups(groups: Sequence[ServeGroup]) -> None:
    """What no two groups of a daemon may have in common. Raises UsageError."""
    _check_groups([group.name for group in groups], least=0)
    _check_distinct("iSCSI names", [group.target for group in groups])
    _check_distinct("volumes", [str(v.path) for group in groups for v in group.volumes])


def replica_options(file: ReplicaFile, base: Path) -> ReplicaDaemonOptions:
    """Checked options; relative paths are below ``base``. Raises UsageError or StateError."""
    keys, allowed = _keys(file.key, file.allow, base)
    listen = _address("--listen", file.listen)
    data_listen = (
        _address("--data-listen", file.data_listen) if file.data_listen else listen.above()
    )
    for address in (listen, data_listen):
        _check_plain(address, keys)
        if not address.path and address.port == 0:
            raise UsageError("a replica on port 0", "name the port that its primaries dial")
    events = _events(file, listen.for_events(), keys, allowed, base)
    asked = {"--events": events.address} if events.is_asked_for and events.address else {}
    check_apart({"--listen": listen, "--data-listen": data_listen, **asked})
    groups = tuple(
        ReplicaGroup(checked_group(group.name), _volumes(group.volume, base), group.overwrite)
        for group in file.group
    )
    _check_groups([group.name for group in groups])
    _check_distinct("volumes", [str(v.path) for group in groups for v in group.volumes])
    return ReplicaDaemonOptions(
        state=base / file.state,
        listen=listen,
        data_listen=data_listen,
        groups=groups,
        journal_bytes=_bounded(
            "the journal", parse_size(file.journal_limit), limits.JOURNAL_BYTES_MIN
        ),
        keys=keys,
        allowed=allowed.names if allowed else {},
        events=events,
    )


def checked_group(name: str) -> str:
    """A group's name, which is also that of its directory. Raises UsageError."""
    if not _GROUP.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a group",
            "use up to 63 lower-case letters, digits, '.', '_' and '-', a letter or digit first",
        )
    return name


def serve_group(group: ServeGroupSection, base: Path, daemon: ServeOptions) -> ServeGroup:
    """One group of a daemon, checked but for what it has in common with others.

    Raises UsageError or StateError.
    """
    name = checked_group(group.name)
    if len(group.replica) > limits.LINKS_MAX:
        raise UsageError(
            f"group {name} has {len(group.replica)} replicas", f"{limits.LINKS_MAX} are the most"
        )
    replicas = tuple(_replica(section, daemon.keys, daemon.allowed) for section in group.replica)
    _check_distinct("replicas", [replica.name for replica in replicas])
    account = _account(group, base) or daemon.account
    portals = tuple(_portal(text) for text in group.portals)
    _check_distinct(f"portals of group {name}", [str(portal) for portal in portals])
    for portal in portals or (daemon.portal,):
        if account is None and not portal.is_local and not daemon.insecure_no_chap:
            raise UsageError(
                f"portal {portal} is not loopback and has no CHAP: "
                "whoever reaches it owns the volumes",
                "give --chap-user and --chap-password-file, or, knowing that, --insecure-no-chap",
            )
    return ServeGroup(
        name=name,
        target=_target(group.iqn or TARGET_PREFIX + name),
        volumes=_volumes(group.volume, base),
        replicas=replicas,
        log_bytes=_bounded("the ordered log", parse_size(group.log_limit), limits.LOG_BYTES_MIN),
        block_bytes=group.block_size,
        initiators=None if group.initiators is None else _initiators(name, group.initiators),
        account=account,
        portals=portals,
    )


def _portal(text: str) -> LinkAddress:
    portal = _address("portal", text)
    if portal.path or not portal.port:
        raise UsageError(f"portal {portal} is no TCP address with a port", "give HOST:PORT")
    return portal


def _target(name: str) -> str:
    try:
        return normalized(name)
    except ValueError as error:
        raise UsageError(str(error), f"use one like {TARGET_PREFIX}disk") from None


def _initiators(group: str, names: tuple[str, ...]) -> frozenset[str]:
    """The names as they are compared; a list that nobody is on is a mistake."""
    if not 0 < len(names) <= limits.INITIATORS_MAX:
        raise UsageError(
            f"group {group} admits {len(names)} initiators",
            f"name 1 to {limits.INITIATORS_MAX} of them, or leave the list out to admit any",
        )
    try:
        admitted = [normalized_initiator(name) for name in names]
    except ValueError as error:
        raise UsageError(
            f"group {group}: {error}",
            "write it as the initiator does, see /etc/iscsi/initiatorname.iscsi there",
        ) from None
    _check_distinct(f"initiators of group {group}", admitted)
    return frozenset(admitted)


def _volumes(sections: tuple[VolumeSection, ...], base: Path) -> tuple[VolumeOptions, ...]:
    if not 0 < len(sections) <= limits.VOLUMES_MAX:
        raise UsageError(
            f"a group of {len(sections)} volumes",
            f"give it 1 to {limits.VOLUMES_MAX}, with --volume or [[group.volume]]",
        )
    volumes = []
    for number, section in enumerate(sections):
        name = section.name or f"lun{number}"
        if not _VOLUME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name a volume",
                "use up to 63 letters, digits, '.', '_' and '-', a letter or digit first",
            )
        size = None if section.size is None else parse_size(section.size)
        volumes.append(VolumeOptions(name, base / section.path, size))
    _check_distinct("volume names of one group", [volume.name for volume in volumes])
    return tuple(volumes)


def _replica(
    section: ReplicaSection, keys: CurveKeys | None, allowed: AllowList | None
) -> ReplicaOptions:
    address = _address("replica", section.address)
    data = _address("data address", section.data_address) if section.data_address else None
    data = data or address.above()
    for where in (address, data):
        _check_plain(where, keys)
        if not where.path and where.port == 0:
            raise UsageError(f"replica {where} has no port", "give HOST:PORT")
    low, high = limits.SYNC_TIMEOUT_SECONDS_MIN, limits.SYNC_TIMEOUT_SECONDS_MAX
    if not low <= section.sync_timeout <= high:
        raise UsageError(
            f"a sync timeout of {section.sync_timeout:g} s", f"choose {low:g} to {high:g} seconds"
        )
    return ReplicaOptions(
        address=address,
        data_address=data,
        mode=section.mode,
        sync_timeout=section.sync_timeout,
        block=section.on_timeout == "block",
        direct_resync=section.resync == "direct",
        overwrite=section.overwrite,
        peer_key=allowed.peer(section.key_name or str(address)) if allowed else None,
    )


def _keys(key: str, allow: str, base: Path) -> tuple[CurveKeys | None, AllowList | None]:
    if bool(key) != bool(allow):
        missing, there = ("--allow", "--key") if key else ("--key", "--allow")
        raise UsageError(
            f"{there} without {missing}",
            "keys work in pairs: our own with --key, the other nodes' with --allow "
            "(pratima keygen makes them)",
        )
    if not key:
        return None, None
    return read_keys(base / key), read_allow_list(base / allow)


def _events(
    file: EventsSection,
    usual: LinkAddress | None,
    keys: CurveKeys | None,
    allowed: AllowList | None,
    base: Path,
) -> EventOptions:
    """Where events go; ``usual`` unless the file says something else."""
    if file.events_allow and keys is None:
        raise UsageError("--events-allow without --key", "give this node's key pair, too")
    address = usual
    if file.events == NOWHERE:
        address = None
    elif file.events:
        address = _address("--events", file.events)
        if not address.path and address.port == 0:
            raise UsageError("events on port 0", "name the port that monitors dial")
    if address is not None:
        _check_plain(address, keys)
    watchers = read_allow_list(base / file.events_allow) if file.events_allow else allowed
    return EventOptions(
        address=address,
        is_asked_for=bool(file.events) and address is not None,
        allowed=watchers.names if watchers else {},
    )


def _check_plain(address: LinkAddress, keys: CurveKeys | None) -> None:
    if keys is None and not address.is_local:
        raise UsageError(
            f"{address} is not loopback: plain connections are refused there",
            "make keys with pratima keygen and give --key and --allow on both sides",
        )


def _account(portal: ChapSection, base: Path) -> Account | None:
    for user, file, option in (
        (portal.chap_user, portal.chap_password_file, "chap"),
        (portal.mutual_user, portal.mutual_password_file, "mutual"),
    ):
        if bool(user) != bool(file):
            raise UsageError(
                f"--{option}-user and --{option}-password-file belong together", "give both"
            )
    if not portal.chap_user:
        if portal.mutual_user:
            raise UsageError("mutual CHAP without CHAP", "give --chap-user too")
        return None
    secret = _secret(base / portal.chap_password_file)
    mutual = _secret(base / portal.mutual_password_file) if portal.mutual_user else ""
    try:
        return Account(portal.chap_user, secret, portal.mutual_user, mutual)
    except ValueError as error:
        raise UsageError(str(error), "choose another secret") from None


def _secret(path: Path) -> str:
    secret = read_secret(path, "CHAP password file")
    if len(secret.encode()) < CHAP_SECRET_BYTES_MIN:
        raise UsageError(
            f"the CHAP secret in {path} is shorter than {CHAP_SECRET_BYTES_MIN} bytes",
            "choose a longer one (RFC 7143 9.2.1)",
        )
    return secret


def _address(what: str, text: str) -> LinkAddress:
    try:
        return parse_address(text)
    except UsageError as error:
        raise UsageError(f"{what}: {error.problem}", error.next_step) from None


def _bounded(what: str, size: int, least: int) -> int:
    if size < least:
        raise UsageError(f"{what} of {format_size(size)}", f"give it {format_size(least)} or more")
    return size


def _check_groups(names: list[str], least: int = 1) -> None:
    if not least <= len(names) <= limits.GROUPS_MAX:
        raise UsageError(f"{len(names)} groups", f"configure 1 to {limits.GROUPS_MAX}")
    _check_distinct("groups", names)


def _check_distinct(what: str, names: list[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two {what} are the same: {twice}", "give each its own")
