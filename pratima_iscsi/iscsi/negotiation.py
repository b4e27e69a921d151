"""Negotiation of the operational keys (RFC 7143 6.2 and 13), the target's side.

Each key is one row of ``RULES``: how an offer becomes our answer, and the value that then holds.
One rule: a key is negotiated once in a login; a second time is an initiator's error.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from pratima_iscsi.errors import RemoteProtocolError
from pratima_iscsi.iscsi.text import IRRELEVANT, NONE, NOT_UNDERSTOOD, REJECT, decode_number
from pratima_iscsi.limits import (
    BURST_BYTES_MAX,
    FIRST_BURST_BYTES_MAX,
    LOGIN_PDU_BYTES_MAX,
    RECEIVE_SEGMENT_BYTES_MAX,
)

CRC32C: Final = "CRC32C"
YES: Final = "Yes"
NO: Final = "No"

FIRST_BURST: Final = "FirstBurstLength"

SEGMENT_BYTES_LOWEST: Final = 512
SEGMENT_BYTES_HIGHEST: Final = (1 << 24) - 1
SECONDS_HIGHEST: Final = 3600
COUNT_HIGHEST: Final = 65535
PROTOCOL_LEVEL: Final = 1
"""That of RFC 7143 itself; RFC 7144 would be 2."""
PROTOCOL_LEVEL_HIGHEST: Final = 31


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a session agreed on. The defaults hold where nothing was said (RFC 7143 13)."""

    header_digest: bool = False
    data_digest: bool = False
    initial_r2t: bool = True
    immediate_data: bool = True
    send_segment_bytes_max: int = LOGIN_PDU_BYTES_MAX
    """The initiator's MaxRecvDataSegmentLength: what a PDU to it may hold."""
    receive_segment_bytes_max: int = LOGIN_PDU_BYTES_MAX
    """Ours: what a PDU from it may hold."""
    burst_bytes_max: int = 262144
    first_burst_bytes_max: int = 65536


class Offer:
    """The keys of one login so far: what was answered and what then holds."""

    __slots__ = ("_seen", "declared", "discovery", "parameters")

    def __init__(self, *, discovery: bool = False) -> None:
        self.discovery = discovery
        self.parameters = Parameters()
        self.declared = False
        """Whether we have declared our own MaxRecvDataSegmentLength."""
        self._seen: set[str] = set()

    def answer(self, key: str, value: str) -> str | None:
        """Our value for an offered key, or None where a declaration needs no answer. A first burst
        is answered no longer than the burst is by then (RFC 7143 13.14).

        ``RemoteProtocolError`` when it was negotiated before or when a declaration is illegal.
        """
        if key in self._seen:
            raise RemoteProtocolError(f"{key} was negotiated before")
        self._seen.add(key)
        rule = RULES.get(key)
        if rule is None:
            return NOT_UNDERSTOOD
        if self.discovery and key in NOT_FOR_DISCOVERY:
            return IRRELEVANT
        outcome = rule(value)
        if outcome is None:
            return REJECT
        self.parameters = outcome.apply(self.parameters)
        if key == FIRST_BURST:
            self.parameters = self.concluded()
            return str(self.parameters.first_burst_bytes_max)
        return outcome.answer

    def declare(self) -> list[tuple[str, str]]:
        """Our own declarations, once."""
        if self.declared:
            return []
        self.declared = True
        self.parameters = replace(
            self.parameters, receive_segment_bytes_max=RECEIVE_SEGMENT_BYTES_MAX
        )
        return [("MaxRecvDataSegmentLength", str(RECEIVE_SEGMENT_BYTES_MAX))]

    def concluded(self) -> Parameters:
        """What holds from now on: a first burst is never longer than a burst."""
        first = min(self.parameters.first_burst_bytes_max, self.parameters.burst_bytes_max)
        return replace(self.parameters, first_burst_bytes_max=first)


Apply = Callable[[Parameters], Parameters]


def _unchanged(parameters: Parameters) -> Parameters:
    return parameters


@dataclass(frozen=True, slots=True)
class Outcome:
    """Our answer to an offer (None: a declaration) and what it does to the parameters."""

    answer: str | None
    apply: Apply = _unchanged


Rule = Callable[[str], Outcome | None]
"""An offered value to its outcome; None rejects the value and leaves the default."""

SetFlag = Callable[[Parameters, bool], Parameters]
SetNumber = Callable[[Parameters, int], Parameters]


def _list(supported: tuple[str, ...], store: SetFlag | None = None) -> Rule:
    """The first of the initiator's choices that we have (RFC 7143 6.2.1)."""

    def rule(value: str) -> Outcome | None:
        choice = next((item for item in value.split(",") if item in supported), None)
        if choice is None:
            return None
        if store is None:
            return Outcome(choice)
        return Outcome(choice, lambda parameters: store(parameters, choice == CRC32C))

    return rule


def _boolean(
    ours: bool, combine: Callable[[bool, bool], bool], store: SetFlag | None = None
) -> Rule:
    """Yes or No, combined with ours by AND or by OR (RFC 7143 6.2.2)."""

    def rule(value: str) -> Outcome | None:
        if value not in (YES, NO):
            return None
        result = combine(value == YES, ours)
        answer = YES if result else NO
        if store is None:
            return Outcome(answer)
        return Outcome(answer, lambda parameters: store(parameters, result))

    return rule


def _number(
    ours: int,
    choose: Callable[[int, int], int],
    lowest: int,
    highest: int,
    store: SetNumber | None = None,
) -> Rule:
    """A number, combined with ours by minimum or maximum (RFC 7143 6.2.2)."""

    def rule(value: str) -> Outcome | None:
        try:
            offered = decode_number(value)
        except ValueError:
            return None
        if not lowest <= offered <= highest:
            return None
        result = choose(offered, ours)
        if store is None:
            return Outcome(str(result))
        return Outcome(str(result), lambda parameters: store(parameters, result))

    return rule


def _segment_declaration(value: str) -> Outcome:
    """MaxRecvDataSegmentLength: declared, not negotiated (RFC 7143 13.12)."""
    try:
        declared = decode_number(value)
    except ValueError as error:
        raise RemoteProtocolError("MaxRecvDataSegmentLength is no number") from error
    if not SEGMENT_BYTES_LOWEST <= declared <= SEGMENT_BYTES_HIGHEST:
        raise RemoteProtocolError(f"MaxRecvDataSegmentLength is {declared}")
    return Outcome(None, lambda parameters: replace(parameters, send_segment_bytes_max=declared))


def _either(first: bool, second: bool) -> bool:
    return first or second


def _both(first: bool, second: bool) -> bool:
    return first and second


def _burst_rule(ours: int, store: SetNumber) -> Rule:
    return _number(ours, min, SEGMENT_BYTES_LOWEST, SEGMENT_BYTES_HIGHEST, store)


def _obsolete(value: str) -> None:
    """A key of RFC 3720 that is negotiated no more: Reject, never NotUnderstood (RFC 7143 13)."""


RULES: Final[Mapping[str, Rule]] = {
    "HeaderDigest": _list((CRC32C, NONE), lambda p, value: replace(p, header_digest=value)),
    "DataDigest": _list((CRC32C, NONE), lambda p, value: replace(p, data_digest=value)),
    "MaxConnections": _number(1, min, 1, COUNT_HIGHEST),
    "InitialR2T": _boolean(False, _either, lambda p, value: replace(p, initial_r2t=value)),
    "ImmediateData": _boolean(True, _both, lambda p, value: replace(p, immediate_data=value)),
    "MaxRecvDataSegmentLength": _segment_declaration,
    "MaxBurstLength": _burst_rule(
        BURST_BYTES_MAX, lambda p, value: replace(p, burst_bytes_max=value)
    ),
    FIRST_BURST: _burst_rule(
        FIRST_BURST_BYTES_MAX, lambda p, value: replace(p, first_burst_bytes_max=value)
    ),
    "DefaultTime2Wait": _number(2, max, 0, SECONDS_HIGHEST),
    "DefaultTime2Retain": _number(0, min, 0, SECONDS_HIGHEST),
    "MaxOutstandingR2T": _number(1, min, 1, COUNT_HIGHEST),
    "DataPDUInOrder": _boolean(True, _either),
    "DataSequenceInOrder": _boolean(True, _either),
    "ErrorRecoveryLevel": _number(0, min, 0, 2),
    "IFMarker": _boolean(False, _both),
    "OFMarker": _boolean(False, _both),
    "IFMarkInt": _obsolete,
    "OFMarkInt": _obsolete,
    "TaskReporting": _list(("RFC3720",)),
    "iSCSIProtocolLevel": _number(PROTOCOL_LEVEL, min, 0, PROTOCOL_LEVEL_HIGHEST),
}
"""Every operational key that we understand and how its offer is answered."""

NOT_FOR_DISCOVERY: Final = frozenset(
    {
        "MaxConnections",
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        FIRST_BURST,
        "MaxOutstandingR2T",
        "DataPDUInOrder",
        "DataSequenceInOrder",
        "TaskReporting",
        "iSCSIProtocolLevel",
    }
)
"""Keys without a meaning in a discovery session (RFC 7143 13, "Irrelevant when")."""

MAY_CHANGE: Final = "MaxRecvDataSegmentLength"
"""The one of them that a session in its full feature phase may declare anew (RFC 7143 13.12)."""
