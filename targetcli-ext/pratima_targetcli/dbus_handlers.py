"""Whether anybody offers TCMU handlers over D-Bus, as tcmu-runner does.

One rule: to ask starts nobody. The stock look-up makes the bus start tcmu-runner, which then
answers for devices that are not its own.
"""

from typing import Any, Final

SERVICE: Final = "org.kernel.TCMUService1"
_BUS: Final = "org.freedesktop.DBus"
_BUS_PATH: Final = "/org/freedesktop/DBus"
_MILLISECONDS_MAX: Final = 2000


def service_runs(gio: Any, glib: Any) -> bool:
    """Whether a process has the service's name now; ``gio`` and ``glib`` are PyGObject's."""
    try:
        bus = gio.bus_get_sync(gio.BusType.SYSTEM, None)
        answer = bus.call_sync(
            _BUS,
            _BUS_PATH,
            _BUS,
            "NameHasOwner",
            glib.Variant("(s)", (SERVICE,)),
            None,
            gio.DBusCallFlags.NONE,
            _MILLISECONDS_MAX,
            None,
        )
        return bool(answer.unpack()[0])
    except glib.Error:
        return False
