"""``pratima keygen``: a node's key pair."""

import socket
from pathlib import Path

import click

from pratima_iscsi.cli.common import FILE
from pratima_iscsi.edges.keys import allow_line, write_keys


@click.command("keygen")
@click.argument("file", type=FILE)
@click.option(
    "--name",
    default="",
    help="What others' allow-lists call this node.  [default: the host's name]",
)
def command(file: Path, name: str) -> None:
    """Make this node's key pair: FILE for --key, and FILE.pub, a line for the others' --allow.

    \b
    Example, on each of two nodes:
      pratima keygen node.key
      cat node.key.pub          # append this line to the OTHER node's file for --allow

    An allow-list has one public key a line and after it a name; # begins a comment. With several
    replicas a line's name is the replica's address, as in --replica.
    """
    name = name or socket.gethostname()
    allow_line("", name)
    keys = write_keys(file, name)
    click.echo(f"{file} holds the key pair: keep it on this node.")
    click.echo(f"{file}.pub is the line for the other nodes' allow-lists:")
    click.echo(allow_line(keys.public, name), nl=False)
