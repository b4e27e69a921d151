"""What a source remembers of a link over its own stop.

One rule: a link whose table is not to be believed is saved without one, and is then compared.
"""

from dataclasses import replace

from pratima_iscsi.replication.link import Link
from pratima_iscsi.replication.source_state import LinkState
from pratima_iscsi.replication.states import Connection


def flags_of(link: Link) -> LinkState:
    """What must be known of the link after any stop."""
    return LinkState(
        name=link.options.name,
        ever_sync=link.ever_sync,
        lost_power=link.lost_power,
        synced_once=link.synced_once,
        degraded=link.degraded,
        enabled=link.connection is not Connection.DISABLED
        and not (link.clean is not None and link.clean.was_disabled),
    )


def spill_of(link: Link) -> LinkState:
    """What a clean stop saves of the link."""
    known = not link.must_compare
    return replace(
        flags_of(link),
        base=link.base,
        base_history=link.watermarks.base_history,
        acknowledged=link.watermarks.acknowledged,
        sender=link.sender,
        direct_transaction=link.direct_id,
        table=link.cover().serialize() if known else (),
        unverified=link.unverified.serialize() if known else (),
    )
