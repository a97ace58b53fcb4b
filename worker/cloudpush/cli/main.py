"""The command line's root: sub-commands, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from cloudpush.cli.context import harmless
from cloudpush.cli.desk import LOCAL
from cloudpush.cli.exits import Exit, exit_code_of
from cloudpush.cli.lazy import group_of
from cloudpush.errors import CloudPushError
from cloudpush.resources import keep_secrets_off_disk

#: Command → the module below ``cloudpush.cli`` whose ``add_to`` adds it; in the order of the help.
COMMANDS = {
    "push": "push",
    "cancel": "push",
    "retry": "push",
    "preflight": "preflight",
    "wait": "push",
    "resign": "signed",
    "needs": "signed",
    "history": "audit",
    "show": "audit",
    "audit": "audit",
    "export": "export",
    "receipt": "receipt",
    "worker": "processes",
    "sweeper": "processes",
    "web": "web",
    "web-link": "web",
    "up": "stack",
    "down": "stack",
    "doctor": "doctor",
    "demo": "demo",
    "login": "login",
    "logout": "login",
    "whoami": "login",
    "token": "access",
    "role": "access",
    "credential": "credential",
    "grant": "grant",
    "provider": "provider",
    "vault": "vault",
    "db": "database",
}

app = typer.Typer(
    name="cloudpush",
    cls=group_of(COMMANDS),
    help="Push datasets into users' own cloud buckets, verified and audited.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # a traceback with local variables could show a secret
)


def _version(*, asked: bool) -> None:
    if asked:
        typer.echo(f"cloudpush {version('cloudpush')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda asked: _version(asked=asked), is_eager=True, help="Print the version."
        ),
    ] = False,
    local: Annotated[
        bool,
        typer.Option("--local", envvar=LOCAL, help="Work with this machine's own stack, not through the API."),
    ] = False,
) -> None:
    """Push datasets into users' own cloud buckets, verified and audited."""
    if local:
        os.environ[LOCAL] = "1"


def main() -> None:
    """Run the command line; CloudPush's own errors become one readable message and an exit code."""
    keep_secrets_off_disk()
    try:
        app()
    except BrokenPipeError:
        # Whoever read our output has seen enough. Not by SIGPIPE's own way: that would end a worker, too, whenever
        # the other side of a socket goes away.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.ERROR)
    except CloudPushError as e:
        show_error(e)
        sys.exit(exit_code_of(e))


def show_error(error: CloudPushError) -> None:
    """What happened, who must act, and what to do; never a traceback."""
    console = harmless(Console(stderr=True, highlight=False, soft_wrap=True))
    console.print(f"[bold red]{error.code}[/]", end=" ")
    console.print(error.message, markup=False)
    console.print(
        f"  {error.code.actor} must act: {error.code.fix}" if error.code.actor != "nobody" else f"  {error.code.fix}",
        markup=False,
    )
    if error.detail and error.detail not in error.message:
        console.print(f"  in the other side's words: {error.detail}", markup=False, style="dim")
