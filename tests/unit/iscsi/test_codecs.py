"""PDU layouts, text and numbers: what is encoded decodes to itself, and bad input is rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.iscsi import text
from pratima_iscsi.iscsi.digests import digest
from pratima_iscsi.iscsi.names import normalized, normalized_initiator
from pratima_iscsi.iscsi.pdu import (
    BHS_BYTES,
    PAD,
    Request,
    Response,
    decode_request,
    decode_response,
    extended_cdb,
    serial_before,
)
from pratima_iscsi.limits import TEXT_KEYS_MAX

BYTE = st.integers(0, 0xFF)
HALF = st.integers(0, 0xFFFF)
WORD = st.integers(0, 0xFFFF_FFFF)
LONG = st.integers(0, (1 << 64) - 1)
REQUESTS = st.builds(
    Request,
    BYTE,
    BYTE,
    HALF,
    WORD,
    LONG,
    WORD,
    WORD,
    WORD,
    WORD,
    st.binary(min_size=16, max_size=16),
)
RESPONSES = st.builds(
    Response, BYTE, BYTE, HALF, WORD, LONG, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD
)
KEYS = st.text("abcXYZ019.-_", min_size=1, max_size=63)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=100)


@given(REQUESTS)
def test_a_request_decodes_to_what_was_encoded(request: Request) -> None:
    encoded = request.encode()
    assert len(encoded) == BHS_BYTES
    assert decode_request(encoded) == request


@given(RESPONSES)
def test_a_response_decodes_to_what_was_encoded(response: Response) -> None:
    assert decode_response(response.encode()) == response


@given(WORD)
def test_lengths_are_ahs_words_and_data_bytes(lengths: int) -> None:
    request = Request(1, 0, 0, lengths, 0, 0, 0, 0, 0, bytes(16))
    assert request.data_length == lengths % (1 << 24)
    assert request.ahs_length == (lengths >> 24) * 4


@given(st.integers(0, 1 << 24))
def test_padding_fills_up_to_four_bytes(length: int) -> None:
    assert (length + len(PAD[-length & 3])) % 4 == 0


@given(st.lists(st.tuples(KEYS, VALUES), max_size=20))
def test_text_decodes_to_what_was_encoded(pairs: list[tuple[str, str]]) -> None:
    assert text.decode(text.encode(pairs)) == pairs


@given(st.binary(max_size=300))
def test_any_bytes_are_pairs_or_rejected(data: bytes) -> None:
    try:
        pairs = text.decode(data)
    except RemoteProtocolError:
        return
    assert all(key and "=" not in key for key, _ in pairs)


@pytest.mark.parametrize(
    "data",
    [
        b"no equals sign\0",
        b"=value\0",
        b"key with blank=1\0",
        b"k" * 64 + b"=1\0",
        b"\xff\xfe=1\0",
        b"a=1\0" * (TEXT_KEYS_MAX + 1),
        b"a=" + b"x" * 10000 + b"\0",
        b"a=1\0" * 20000,
    ],
)
def test_malformed_text_is_rejected(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        text.decode(data)


@pytest.mark.parametrize(
    ("value", "number"), [("0", 0), ("8192", 8192), ("0x10", 16), ("0XfF", 255)]
)
def test_numbers_are_decimal_or_hexadecimal(value: str, number: int) -> None:
    assert text.decode_number(value) == number


@pytest.mark.parametrize("value", ["", "0x", "-1", "+1", "1 ", "1_0", "0x-1", "٣", "ten"])
def test_what_is_no_number_is_rejected(value: str) -> None:
    with pytest.raises(ValueError):
        text.decode_number(value)


@given(st.binary(min_size=1, max_size=200))
def test_binary_values_decode_from_both_forms(value: bytes) -> None:
    import base64

    assert text.decode_binary(text.encode_binary(value)) == value
    assert text.decode_binary("0b" + base64.b64encode(value).decode()) == value


@pytest.mark.parametrize("value", ["", "0x", "0b", "0xzz", "0b***", "deadbeef", "0x" + "0" * 5000])
def test_malformed_binary_values_are_rejected(value: str) -> None:
    with pytest.raises(ValueError):
        text.decode_binary(value)


def test_digests_are_those_of_the_standard() -> None:
    # RFC 7143 Appendix A.4 / RFC 3720 B.4
    assert digest(bytes(32)).hex() == "aa36918a"
    assert digest(b"\xff" * 32).hex() == "43aba862"
    assert digest(bytes(range(32))).hex() == "4e79dd46"
    assert digest(bytes(range(10)), memoryview(bytes(range(10, 32)))) == digest(bytes(range(32)))


@pytest.mark.parametrize(
    ("first", "second", "before"),
    [(1, 2, True), (2, 1, False), (5, 5, False), (0xFFFF_FFFF, 0, True), (0, 0xFFFF_FFFF, False)],
)
def test_serial_numbers_wrap(first: int, second: int, before: bool) -> None:
    assert serial_before(first, second) is before


def test_an_extended_cdb_continues_the_header() -> None:
    segment = bytes([0, 9, 1, 0]) + b"12345678"
    assert extended_cdb(b"x" * 16, segment) == b"x" * 16 + b"12345678"


@given(st.binary(max_size=64).filter(lambda data: len(data) % 4 == 0))
def test_any_additional_segments_end_in_a_cdb_or_an_error(segments: bytes) -> None:
    try:
        cdb = extended_cdb(bytes(16), segments)
    except ValueError:
        return
    assert 16 <= len(cdb) <= 16 + len(segments)


@pytest.mark.parametrize(
    "name",
    [
        "iqn.2024-01.com.example:disk",
        "IQN.2024-01.Com.Example",
        "eui.02004567a425678d",
        "naa.52004567ba64678d",
    ],
)
def test_iscsi_names_are_taken_in_lower_case(name: str) -> None:
    assert normalized(name) == name.lower()


@pytest.mark.parametrize("name", ["", "disk", "iqn.24-1.com", "iqn.2024-01.com:a b", "eui.1"])
def test_what_is_no_iscsi_name_is_rejected(name: str) -> None:
    with pytest.raises(ValueError):
        normalized(name)


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 224])
def test_what_cannot_be_an_initiator_is_rejected(name: str) -> None:
    with pytest.raises(ValueError):
        normalized_initiator(name)
