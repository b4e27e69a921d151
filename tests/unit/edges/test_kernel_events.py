"""What the kernel says of TCMU's netlink family, understood or refused."""

import errno
import struct

import pytest

from pratima_iscsi.edges import kernel_events as events


def attribute(kind: int, content: bytes) -> bytes:
    whole = events.ATTRIBUTE.pack(events.ATTRIBUTE.size + len(content), kind) + content
    return whole.ljust(-(-len(whole) // 4) * 4, b"\0")


def answer(*attributes: bytes, kind: int = events.CONTROLLER) -> bytes:
    body = events.GENERIC_HEADER.pack(1, 2, 0) + b"".join(attributes)
    return events.MESSAGE.pack(events.MESSAGE.size + len(body), kind, 0, 1, 0) + body


def group(name: bytes, number: int) -> bytes:
    return attribute(events.GROUP_ID, struct.pack("=I", number)) + attribute(
        events.GROUP_NAME, name
    )


def test_the_group_is_found_among_others() -> None:
    groups = attribute(1, group(b"other\0", 4)) + attribute(2, group(events.TCMU_GROUP, 9))
    family = attribute(1, b"\x1c\0")
    assert events.parse_group(answer(family, attribute(events.MULTICAST_GROUPS, groups))) == 9


@pytest.mark.parametrize(
    "said",
    [
        b"",
        answer(),
        answer(attribute(events.MULTICAST_GROUPS, b"")),
        answer(attribute(events.MULTICAST_GROUPS, attribute(1, group(b"other\0", 4)))),
        answer(b"\x02\0\x07\0"),
        answer(b"\xff\xff\x07\0"),
        answer(
            attribute(
                events.MULTICAST_GROUPS, attribute(1, attribute(events.GROUP_NAME, b"config\0"))
            )
        ),
    ],
)
def test_any_other_answer_is_an_error(said: bytes) -> None:
    with pytest.raises(OSError, match=r"TCM-USER"):
        events.parse_group(said)


def test_a_kernel_without_tcmu_says_so() -> None:
    said = events.MESSAGE.pack(36, events.ERROR, 0, 1, 0) + struct.pack("=i", -errno.ENOENT)
    with pytest.raises(OSError, match="knows no TCM-USER") as failed:
        events.parse_group(said + bytes(16))
    assert failed.value.errno == errno.ENOENT
