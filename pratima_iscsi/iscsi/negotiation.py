"""Negotiation of the operational keys (RFC 7143 6.2 and 13), the target's side.

Each key is one row of ``RULES``: how an offer becomes our answer, and the value that then holds.
One rule: a key is negotiated once in a login; a second time is an initiator's error.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
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

SEGMENT_BYTES_LOWEST: Final = 512
SEGMENT_BYTES_HIGHEST: Final = (1 << 24) - 1
SECONDS_HIGHEST: Final = 3600
COUNT_HIGHEST: Final = 65535


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
        """Our value for an offered key, or None where a declaration needs no answer.

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
        if outcome.changes:
            self.parameters = replace(self.parameters, **outcome.changes)
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """Our answer to an offer (None: a declaration) and what it changes in the parameters."""

    answer: str | None
    changes: Mapping[str, int] = field(default_factory=dict)


Rule = Callable[[str], Outcome | None]
"""An offered value to its outcome; None rejects the value and leaves the default."""


def _list(key: str, supported: tuple[str, ...], parameter: str = "") -> Rule:
    """The first of the initiator's choices that we have (RFC 7143 6.2.1)."""

    def rule(value: str) -> Outcome | None:
        for choice in value.split(","):
            if choice in supported:
                return Outcome(choice, {parameter: choice == CRC32C} if parameter else {})
        return None

    rule.__name__ = key
    return rule


def _boolean(ours: bool, combine: Callable[[bool, bool], bool], parameter: str = "") -> Rule:
    """Yes or No, combined with ours by AND or by OR (RFC 7143 6.2.2)."""

    def rule(value: str) -> Outcome | None:
        if value not in (YES, NO):
            return None
        result = combine(value == YES, ours)
        return Outcome(YES if result else NO, {parameter: result} if parameter else {})

    return rule


def _number(
    ours: int,
    choose: Callable[[int, int], int],
    lowest: int,
    highest: int,
    parameter: str = "",
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
        return Outcome(str(result), {parameter: result} if parameter else {})

    return rule


def _segment_declaration(value: str) -> Outcome:
    """MaxRecvDataSegmentLength: declared, not negotiated (RFC 7143 13.12)."""
    try:
        declared = decode_number(value)
    except ValueError as error:
        raise RemoteProtocolError("MaxRecvDataSegmentLength is no number") from error
    if not SEGMENT_BYTES_LOWEST <= declared <= SEGMENT_BYTES_HIGHEST:
        raise RemoteProtocolError(f"MaxRecvDataSegmentLength is {declared}")
    return Outcome(None, {"send_segment_bytes_max": declared})


def _either(first: bool, second: bool) -> bool:
    return first or second


def _both(first: bool, second: bool) -> bool:
    return first and second


RULES: Final[Mapping[str, Rule]] = {
    "HeaderDigest": _list("HeaderDigest", (CRC32C, NONE), "header_digest"),
    "DataDigest": _list("DataDigest", (CRC32C, NONE), "data_digest"),
    "MaxConnections": _number(1, min, 1, COUNT_HIGHEST),
    "InitialR2T": _boolean(False, _either, "initial_r2t"),
    "ImmediateData": _boolean(True, _both, "immediate_data"),
    "MaxRecvDataSegmentLength": _segment_declaration,
    "MaxBurstLength": _number(
        BURST_BYTES_MAX, min, SEGMENT_BYTES_LOWEST, SEGMENT_BYTES_HIGHEST, "burst_bytes_max"
    ),
    "FirstBurstLength": _number(
        FIRST_BURST_BYTES_MAX,
        min,
        SEGMENT_BYTES_LOWEST,
        SEGMENT_BYTES_HIGHEST,
        "first_burst_bytes_max",
    ),
    "DefaultTime2Wait": _number(2, max, 0, SECONDS_HIGHEST),
    "DefaultTime2Retain": _number(0, min, 0, SECONDS_HIGHEST),
    "MaxOutstandingR2T": _number(1, min, 1, COUNT_HIGHEST),
    "DataPDUInOrder": _boolean(True, _either),
    "DataSequenceInOrder": _boolean(True, _either),
    "ErrorRecoveryLevel": _number(0, min, 0, 2),
    "IFMarker": _boolean(False, _both),
    "OFMarker": _boolean(False, _both),
    "TaskReporting": _list("TaskReporting", ("RFC3720",)),
}
"""Every operational key that we understand and how its offer is answered."""

NOT_FOR_DISCOVERY: Final = frozenset(
    {
        "MaxConnections",
        "InitialR2T",
        "ImmediateData",
        "MaxBurstLength",
        "FirstBurstLength",
        "MaxOutstandingR2T",
        "DataPDUInOrder",
        "DataSequenceInOrder",
        "TaskReporting",
    }
)
"""Keys without a meaning in a discovery session (RFC 7143 13, "Irrelevant when")."""
