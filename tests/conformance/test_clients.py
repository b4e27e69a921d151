"""Strangers on the portal: libiscsi's tools and qemu's, as a user would call them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pratima_iscsi.iscsi.chap import Account
from tests.conformance.tools import run, tool
from tests.support.memory_storage import MemoryStorage
from tests.support.portal_thread import ServedPortal, served
from tests.unit.iscsi.pair import TARGET, Lab

pytestmark = pytest.mark.tools
VOLUME_BYTES = 64 << 20


@pytest.fixture
def lab() -> Lab:
    """A volume of 64 MiB."""
    return Lab(MemoryStorage(VOLUME_BYTES))


@pytest.fixture
def portal(lab: Lab) -> Iterator[ServedPortal]:
    """It, served."""
    with served(lab.directory) as serving:
        yield serving


def url(portal: ServedPortal, lun: int = 0, account: str = "") -> str:
    """The LUN as libiscsi and qemu write it."""
    return f"iscsi://{account}{portal.host}:{portal.port}/{TARGET}/{lun}"


def test_iscsi_ls_finds_target_and_size(portal: ServedPortal) -> None:
    ended = run(tool("iscsi-ls", "libiscsi-bin"), "-s", f"iscsi://{portal.host}:{portal.port}")
    assert TARGET in ended.stdout
    assert re.search(r"Lun:0 +Type:DIRECT_ACCESS \(Size:6[34]M\)", ended.stdout), ended.stdout


def test_iscsi_inq_reads_identity_and_every_page(portal: ServedPortal) -> None:
    program = tool("iscsi-inq", "libiscsi-bin")
    assert "PRATIMA" in run(program, url(portal)).stdout
    for page in ("0x00", "0x80", "0x83", "0xb0", "0xb1", "0xb2"):
        assert run(program, "--evpd=1", f"--pagecode={page}", url(portal)).stdout


def test_iscsi_readcapacity16_tells_the_size(portal: ServedPortal) -> None:
    ended = run(tool("iscsi-readcapacity16", "libiscsi-bin"), url(portal))
    assert f"Total size:{VOLUME_BYTES}" in ended.stdout


def test_libiscsi_logs_in_with_chap_and_not_without() -> None:
    program = tool("iscsi-inq", "libiscsi-bin")
    lab = Lab(MemoryStorage(VOLUME_BYTES), accounts=(Account("lab", "correct-horse"),))
    with served(lab.directory) as portal:
        assert "PRATIMA" in run(program, url(portal, account="lab%correct-horse@")).stdout
        for account in ("", "lab%wrong-horse@", "bal%correct-horse@"):
            refused = run(program, url(portal, account=account), exit_codes=(1, 10, 255))
            assert "PRATIMA" not in refused.stdout


def qemu_io(portal: ServedPortal, *commands: str) -> str:
    """Run qemu-io's commands on LUN 0."""
    words = [word for command in commands for word in ("-c", command)]
    program = tool("qemu-io", "qemu-utils qemu-block-extra")
    said = run(program, "-f", "raw", *words, url(portal))
    text = said.stdout + said.stderr
    assert "failed" not in text.lower() and "error" not in text.lower(), text
    return text


def test_qemu_io_reads_back_what_it_wrote(portal: ServedPortal, lab: Lab) -> None:
    qemu_io(
        portal,
        "write -P 0x11 0 512",
        "write -P 0x22 4k 12M",
        "write -P 0x33 1M 64k",
        "flush",
        "read -P 0x11 0 512",
        "read -P 0x22 4k 1020k",
        "read -P 0x33 1M 64k",
        "read -P 0x22 1088k 8M",
        "write -z 2M 1M",
        "read -P 0 2M 1M",
        "discard 4M 1M",
        "read -P 0 4M 1M",
    )
    assert lab.storage.data[:512] == b"\x11" * 512
    assert lab.storage.data[1 << 20 : (1 << 20) + 65536] == b"\x33" * 65536


def test_qemu_io_keeps_many_requests_in_flight(portal: ServedPortal, lab: Lab) -> None:
    writes = [f"aio_write -P {number + 1} {number * 64}k 64k" for number in range(100)]
    reads = [f"aio_read -P {number + 1} {number * 64}k 64k" for number in range(100)]
    qemu_io(portal, *writes, "aio_flush", *reads, "aio_flush")
    assert [lab.storage.data[number << 16] for number in range(100)] == list(range(1, 101))


def test_qemu_img_converts_and_compares(portal: ServedPortal, tmp_path: Path) -> None:
    program = tool("qemu-img", "qemu-utils qemu-block-extra")
    image = tmp_path / "image"
    image.write_bytes(b"".join(number.to_bytes(4, "big") * 1024 for number in range(1 << 12)))
    with image.open("r+b") as file:
        file.truncate(VOLUME_BYTES)
    assert '"virtual-size": 67108864' in run(program, "info", "--output=json", url(portal)).stdout
    run(program, "convert", "-n", "-f", "raw", "-O", "raw", str(image), url(portal))
    run(program, "compare", "-f", "raw", "-F", "raw", str(image), url(portal))
    back = tmp_path / "back"
    run(program, "convert", "-f", "raw", "-O", "raw", url(portal), str(back))
    assert back.read_bytes() == image.read_bytes()


def test_qemu_takes_digests(portal: ServedPortal) -> None:
    program = tool("qemu-io", "qemu-utils qemu-block-extra")
    options = (
        f"driver=iscsi,transport=tcp,portal={portal.host}:{portal.port},target={TARGET},lun=0,"
        "header-digest=crc32c"
    )
    ended = run(program, "--image-opts", "-c", "write -P 7 0 1M", "-c", "read -P 7 0 1M", options)
    assert "failed" not in (ended.stdout + ended.stderr)


def test_iscsi_perf_reads_at_depth(portal: ServedPortal) -> None:
    program = tool("iscsi-perf", "libiscsi-bin")
    ended = run(program, "-m", "32", "-b", "8", "-t", "1", "-r", url(portal))
    averages = re.findall(r"iops average (\d+)", ended.stdout)
    assert averages and int(averages[-1]) > 0, ended.stdout
