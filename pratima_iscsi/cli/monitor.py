"""``pratima monitor``: watch daemons live."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console

from pratima_iscsi.cli.common import DIRECTORY, FILE
from pratima_iscsi.edges.event_sockets import EventSubscriber, Watched, find_event_socket
from pratima_iscsi.edges.keys import read_allow_list, read_keys
from pratima_iscsi.edges.link_address import parse_address
from pratima_iscsi.errors import UsageError
from pratima_iscsi.limits import MONITOR_SOURCES_MAX
from pratima_iscsi.monitor.watch import draw, print_changes, print_events


@click.command("monitor")
@click.option(
    "--state",
    "states",
    type=DIRECTORY,
    multiple=True,
    help="A daemon of this machine, by its state directory; repeat it for more.",
)
@click.argument("addresses", nargs=-1, metavar="[ADDRESS]...")
@click.option("--json", "as_json", is_flag=True, help="Print one event a line, for programs.")
@click.option("--key", type=FILE, help="This monitor's key pair (pratima keygen).")
@click.option("--allow", type=FILE, help="The daemons' public keys; their names: the addresses.")
def command(
    states: tuple[Path, ...],
    addresses: tuple[str, ...],
    as_json: bool,
    key: Path | None,
    allow: Path | None,
) -> None:
    """Watch daemons live: groups, links, alarms, lag, progress. Ctrl-C ends it.

    An ADDRESS is a daemon's events port: a replica's is two above its control port, a target's
    is what its --events says. Off loopback it wants keys: the daemon's key in --allow, by the name
    of the address, and this monitor's own in the daemon's --events-allow.

    Where standard output is no terminal each change is one line of text, or, with --json, each
    event one line of JSON.

    \b
    Examples:
      pratima monitor --state p --state r
      pratima monitor --state p 127.0.0.1:7012
      pratima monitor --state p --json | jq 'select(.type == "change")'
      pratima monitor 10.0.0.2:7012 --key watch.key --allow allow
    """
    daemons = _daemons(states, addresses, key, allow)
    if not as_json:
        daemons = _with_short_names(daemons)
    names = [daemon.name for daemon in daemons]
    subscriber = EventSubscriber(daemons, None if key is None else read_keys(key))
    try:
        if as_json:
            print_events(subscriber)
        elif sys.stdout.isatty():
            _put_right_when_interrupted()
            draw(subscriber, names, Console(highlight=False))
        else:
            print_changes(subscriber, names)
    finally:
        subscriber.close()


def _put_right_when_interrupted() -> None:
    """From here on Ctrl-C is an exception, for the terminal is not as it was."""
    if callable(signal.getsignal(signal.SIGINT)):  # else it is ignored, and stays so
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _with_short_names(daemons: list[Watched]) -> list[Watched]:
    """A directory's last part says enough where no other one ends so: a line has 80 columns."""
    short = [Path(daemon.name).name if daemon.address.path else daemon.name for daemon in daemons]
    if len(set(short)) < len(short) or "" in short:
        return daemons
    return [replace(daemon, name=name) for daemon, name in zip(daemons, short, strict=True)]


def _daemons(
    states: tuple[Path, ...], addresses: tuple[str, ...], key: Path | None, allow: Path | None
) -> list[Watched]:
    if not states and not addresses:
        raise UsageError("nobody to watch", "name a daemon: --state DIR, or its events port")
    if (key is None) != (allow is None):
        raise UsageError("--key and --allow belong together", "give both, or neither")
    allowed = None if allow is None else read_allow_list(allow)
    daemons = [Watched(str(state), find_event_socket(state)) for state in states]
    for text in addresses:
        address = parse_address(text)
        if not address.path and not address.port:
            raise UsageError(f"{address} has no port", "give HOST:PORT")
        plain = allowed is None or address.path
        peer = None if plain or allowed is None else allowed.peer(str(address))
        daemons.append(Watched(str(address), address, peer))
    names = [daemon.name for daemon in daemons]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} is named twice", "name each daemon once")
    if len(daemons) > MONITOR_SOURCES_MAX:
        raise UsageError(f"{len(daemons)} daemons", f"{MONITOR_SOURCES_MAX} are the most")
    return daemons
