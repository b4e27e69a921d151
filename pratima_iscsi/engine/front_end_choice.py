"""Which front end a daemon gets, and why.

One rule: what was asked for by name is what there is, or an error; only ``auto`` looks around.
"""

import logging
from typing import Final

from pratima_iscsi.control.options import FrontEndKind, ServeOptions
from pratima_iscsi.edges.descriptors import Descriptors
from pratima_iscsi.edges.directory import DiskDirectory
from pratima_iscsi.edges.kernel_target import make_ready, why_not
from pratima_iscsi.engine.front_end import FrontEnd
from pratima_iscsi.engine.kernel_setup import KernelSetup, device_prefix
from pratima_iscsi.engine.lio_front_end import LioFrontEnd
from pratima_iscsi.engine.portal_front_end import PortalFrontEnd
from pratima_iscsi.engine.process import Events
from pratima_iscsi.engine.tcmu_front_end import TcmuFrontEnd
from pratima_iscsi.errors import StateError

LOG: Final = logging.getLogger(__name__)


def choose_front_end(
    options: ServeOptions,
    events: Events,
    directory: DiskDirectory,
    node: bytes,
    descriptors: Descriptors,
) -> tuple[FrontEnd, str]:
    """The front end that was asked for, and the reason that it is this one, in a few words.

    Raises StateError where the kernel was asked for and cannot, and UsageError where the portal
    wants the port of the events.
    """
    kind, reason = options.front_end, "as asked for"
    if kind is FrontEndKind.AUTO:
        missing = why_not()
        kind = FrontEndKind.PORTAL if missing else FrontEndKind.TCMU
        reason = missing or "the kernel has TCMU"
    elif kind is FrontEndKind.TCMU:
        missing = make_ready()
        if missing:
            raise StateError(
                f"the kernel cannot serve: {missing}",
                "see docs/kernel.md, or give --front-end portal",
            )
    LOG.info("front end: %s (%s)", kind.value, reason)
    if kind is FrontEndKind.TCMU:
        return _kernel(options, events, directory, node), reason
    return PortalFrontEnd(options, descriptors), reason


def _kernel(
    options: ServeOptions, events: Events, directory: DiskDirectory, node: bytes
) -> FrontEnd:
    devices = TcmuFrontEnd(events)
    if not options.lio_setup:
        return devices
    from pratima_iscsi.edges.lio import Lio  # rtslib, which a portal can do without

    setup = KernelSetup(Lio(device_prefix(node)), directory, node, options)
    return LioFrontEnd(devices, setup, events)
