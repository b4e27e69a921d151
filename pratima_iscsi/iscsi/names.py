"""iSCSI names (RFC 7143 4.2.7): ``iqn.``, ``eui.`` and ``naa.``, in lower case.

One rule: a name is normalised once, where it enters; elsewhere names are compared as they are.
"""

import re
from typing import Final

from pratima_iscsi.limits import ISCSI_NAME_BYTES_MAX

IQN: Final = re.compile(r"iqn\.\d{4}-\d{2}\.[a-z0-9][a-z0-9.-]*(:[^\s\x00-\x1f,/\\]*)?")
EUI: Final = re.compile(r"eui\.[0-9a-f]{16}")
NAA: Final = re.compile(r"naa\.([0-9a-f]{16}|[0-9a-f]{32})")


def normalized(name: str) -> str:
    """The name in the form that is compared; ValueError if it is no iSCSI name."""
    lowered = name.lower()
    well_formed = any(form.fullmatch(lowered) for form in (IQN, EUI, NAA))
    if not well_formed or len(lowered.encode("utf-8")) > ISCSI_NAME_BYTES_MAX:
        raise ValueError(f"{name[:ISCSI_NAME_BYTES_MAX]!r} is no iSCSI name")
    return lowered


def normalized_initiator(name: str) -> str:
    """An initiator's name in the form that is compared; ValueError if it cannot be a name.

    Initiators exist whose default name breaks the grammar, so only its length and its characters
    are checked.
    """
    lowered = name.lower()
    if not lowered or not lowered.isprintable() or " " in lowered or "," in lowered:
        raise ValueError("InitiatorName has characters that no iSCSI name has")
    if len(lowered.encode("utf-8")) > ISCSI_NAME_BYTES_MAX:
        raise ValueError(f"InitiatorName is longer than {ISCSI_NAME_BYTES_MAX} bytes")
    return lowered


def isid_text(isid: int) -> str:
    """An ISID as the twelve digits that stand in an initiator port's name."""
    return f"{isid:012x}"
