"""``pratima target list``: the targets of a daemon."""

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.text import Text

from pratima_iscsi.cli.common import WIDTH_UNREAD, state_option
from pratima_iscsi.control.client import ControlClient
from pratima_iscsi.control.status import ACT, OK
from pratima_iscsi.control.target_list import Origin, TargetStatus
from pratima_iscsi.control.units import format_size


@click.command("list")
@state_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(state: Path, as_json: bool) -> int:
    """Show a daemon's targets: where they are, their LUNs, who may use them, and their sessions.

    Exit code: 0, and 2 where one of them cannot be served.

    \b
    Examples:
      pratima target list --state p
      pratima target list --state p --json | jq -r '.targets[].luns[].serial'
    """
    with ControlClient(state) as client:
        found = client.targets()
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH_UNREAD, highlight=False)
        console.print(f"served by {_FRONT_ENDS.get(found.front_end, found.front_end)}")
        for target in found.targets:
            _print(console, target)
        if not found.targets:
            console.print("no target yet: pratima target create makes one")
    return ACT if any(target.failed for target in found.targets) else OK


_FRONT_ENDS = {"portal": "the embedded portal", "tcmu": "the kernel (LIO and TCMU)"}


def _print(console: Console, target: TargetStatus) -> None:
    head = Text.assemble((target.group, "bold"), f"  {target.iqn}")
    if target.failed:
        head.append(f"  NOT SERVED: {target.failed}", style="red")
        console.print(head)
        return
    head.append(f" at {', '.join(target.portals)}, {target.sessions} sessions")
    if target.origin is Origin.CONFIGURATION:
        head.append("  of the configuration", style="dim")
    console.print(head)
    for lun in target.luns:
        line = f"  LUN {lun.lun}  {format_size(lun.size)}  {lun.path}  serial {lun.serial}"
        console.print(line, markup=False)
    who = "anybody" if target.initiators is None else ", ".join(target.initiators)
    chap = f" with CHAP as {target.chap_user}" if target.chap_user else " without CHAP"
    mutual = f", and we as {target.mutual_user}" if target.mutual_user else ""
    console.print(f"  for {who}{chap}{mutual}", markup=False)
    if target.replicas:
        console.print(f"  mirrored to {', '.join(target.replicas)}", markup=False)
