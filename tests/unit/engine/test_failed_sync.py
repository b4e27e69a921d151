"""A sync that fails inside a FUA operation: the volume takes no more writes, as after a flush."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pratima_iscsi.backstore import Backstore, GroupOptions
from pratima_iscsi.edges.volume import Volume
from pratima_iscsi.engine.local_volume import LocalVolume
from pratima_iscsi.errors import SyncError
from pratima_iscsi.operations import Operation, RecordKind
from pratima_iscsi.replication.messages import VolumeOffer
from pratima_iscsi.replication.source_state import SourceState

SIZE = 1 << 20


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalVolume]:
    loop = asyncio.new_event_loop()
    opened = LocalVolume(Volume.open(tmp_path / "volume", size=SIZE), loop, "test")
    yield opened
    opened.close()
    loop.close()


def fua_zero() -> Operation:
    return Operation(RecordKind.ZERO, 0, 0, 4096, fua=True)


def fua_write() -> Operation:
    return Operation(RecordKind.WRITE, 0, 0, 4096, bytes(4096), fua=True)


def fails(*arguments: object) -> int:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("make", [fua_zero, fua_write])
def test_a_sync_that_fails_in_an_operation_is_told_apart_from_a_failed_write(
    local: LocalVolume, monkeypatch: pytest.MonkeyPatch, make: type[Operation]
) -> None:
    monkeypatch.setattr(os, "fdatasync", fails)
    monkeypatch.setattr(os, "pwritev", fails)
    operation = make()
    local._write_all([operation])
    assert isinstance(operation.error, SyncError) and operation.error.errno == errno.EIO


def full(*arguments: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_writeback_that_failed_for_want_of_space_is_a_failed_sync(
    local: LocalVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells the FUA write, once, of pages that others wrote."""
    monkeypatch.setattr(os, "pwritev", full)
    operation = fua_write()
    local._write_all([operation])
    assert isinstance(operation.error, SyncError) and operation.error.errno == errno.ENOSPC


def test_a_write_that_finds_no_space_itself_is_a_failed_write(
    local: LocalVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", full)
    monkeypatch.setattr(os, "pwrite", full)
    operation = fua_write()
    local._write_all([operation])
    assert operation.error is not None and not isinstance(operation.error, SyncError)


def test_a_resize_of_what_has_shrunk_since_it_made_room_is_answered(local: LocalVolume) -> None:
    operation = Operation(RecordKind.RESIZE, 0, 0, 2 * SIZE)
    local._write_all([operation])
    assert operation.error is not None and "never shrinks" in str(operation.error)


def test_a_zeroing_that_fails_before_its_sync_is_a_failed_write(local: LocalVolume) -> None:
    operation = Operation(RecordKind.ZERO, 0, SIZE, 4096, fua=True)
    local._write_all([operation])
    assert operation.error is not None and not isinstance(operation.error, SyncError)


@pytest.mark.parametrize("error", [SyncError(errno.EIO, "lost"), OSError(errno.ENOSPC, "full")])
def test_only_a_failed_sync_fails_the_volume(error: OSError) -> None:
    offer = VolumeOffer("v", SIZE)
    backstore = Backstore(GroupOptions((offer,)), SourceState(b"g" * 16, "g", b"n" * 16))
    backstore.submit([operation := fua_zero()], 0.0)
    backstore.generation_persisted(0.0)
    operation.error = error
    backstore.local_done([operation], 0.0)
    failed = isinstance(error, SyncError)
    assert backstore.failed_volumes == (frozenset({0}) if failed else frozenset())
    backstore.submit([later := fua_write()], 0.0)
    assert (later.error is not None) == failed
