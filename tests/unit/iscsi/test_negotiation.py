"""Operational keys: every offer gets the answer of RFC 7143 13, and what holds agrees with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.iscsi.negotiation import RULES, Offer, Parameters
from pratima_iscsi.limits import BURST_BYTES_MAX, FIRST_BURST_BYTES_MAX


@pytest.mark.parametrize(
    ("key", "offered", "answer"),
    [
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("DataDigest", "X,CRC32C", "CRC32C"),
        ("DataDigest", "MD5", "Reject"),
        ("MaxConnections", "8", "1"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "yes", "Reject"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxBurstLength", "16776192", str(BURST_BYTES_MAX)),
        ("MaxBurstLength", "65536", "65536"),
        ("MaxBurstLength", "511", "Reject"),
        ("FirstBurstLength", "0x10000", "65536"),
        ("FirstBurstLength", "16777216", "Reject"),
        ("DefaultTime2Wait", "0", "2"),
        ("DefaultTime2Wait", "5", "5"),
        ("DefaultTime2Retain", "20", "0"),
        ("MaxOutstandingR2T", "4", "1"),
        ("MaxOutstandingR2T", "0", "Reject"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("IFMarker", "Yes", "No"),
        ("OFMarker", "Yes", "No"),
        ("IFMarkInt", "2048~8192", "Reject"),
        ("OFMarkInt", "2048", "Reject"),
        ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("iSCSIProtocolLevel", "0", "0"),
        ("iSCSIProtocolLevel", "32", "Reject"),
        ("X-com.example.thing", "1", "NotUnderstood"),
        ("RDMAExtensions", "Yes", "NotUnderstood"),
        ("MaxRecvDataSegmentLength", "65536", None),
    ],
)
def test_each_offer_gets_its_answer(key: str, offered: str, answer: str | None) -> None:
    assert Offer().answer(key, offered) == answer


def test_a_rejected_value_leaves_the_default() -> None:
    offer = Offer()
    offer.answer("MaxBurstLength", "1")
    assert offer.concluded().burst_bytes_max == Parameters().burst_bytes_max


def test_what_is_agreed_on_holds() -> None:
    offer = Offer()
    for key, value in {
        "HeaderDigest": "CRC32C",
        "InitialR2T": "No",
        "ImmediateData": "No",
        "MaxBurstLength": "32768",
        "FirstBurstLength": "1048576",
        "MaxRecvDataSegmentLength": "4096",
    }.items():
        offer.answer(key, value)
    agreed = offer.concluded()
    assert agreed.header_digest and not agreed.data_digest
    assert not agreed.initial_r2t and not agreed.immediate_data
    assert agreed.burst_bytes_max == 32768
    assert agreed.first_burst_bytes_max == 32768, "a first burst is never longer than a burst"
    assert agreed.send_segment_bytes_max == 4096


@pytest.mark.parametrize("value", ["511", "16777216", "many", ""])
def test_an_illegal_declaration_ends_the_login(value: str) -> None:
    with pytest.raises(RemoteProtocolError):
        Offer().answer("MaxRecvDataSegmentLength", value)


def test_a_key_is_negotiated_once() -> None:
    offer = Offer()
    offer.answer("InitialR2T", "Yes")
    with pytest.raises(RemoteProtocolError):
        offer.answer("InitialR2T", "No")


def test_discovery_sessions_find_the_other_keys_irrelevant() -> None:
    offer = Offer(discovery=True)
    assert offer.answer("MaxBurstLength", "65536") == "Irrelevant"
    assert offer.answer("iSCSIProtocolLevel", "1") == "Irrelevant"
    assert offer.answer("HeaderDigest", "CRC32C") == "CRC32C"


def test_a_first_burst_is_answered_no_longer_than_the_burst_rfc_7143_13_14() -> None:
    offer = Offer()
    assert offer.answer("MaxBurstLength", "32768") == "32768"
    assert offer.answer("FirstBurstLength", "65536") == "32768"
    assert offer.concluded().first_burst_bytes_max == 32768


@given(st.sampled_from(sorted(RULES)), st.text(max_size=30))
def test_any_value_is_answered_or_ends_the_login(key: str, value: str) -> None:
    offer = Offer()
    try:
        answer = offer.answer(key, value)
    except RemoteProtocolError:
        return
    agreed = offer.concluded()
    assert answer is None or answer
    assert 512 <= agreed.first_burst_bytes_max <= agreed.burst_bytes_max <= BURST_BYTES_MAX
    assert agreed.first_burst_bytes_max <= FIRST_BURST_BYTES_MAX
    assert 512 <= agreed.send_segment_bytes_max < 1 << 24
