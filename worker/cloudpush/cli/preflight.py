"""``cloudpush preflight``: whether a credential reaches a destination, before any data moves."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cloudpush.cli.context import console, print_json
from cloudpush.cli.desk import desk
from cloudpush.cli.exits import Exit
from cloudpush.errors import Code
from cloudpush.push.preflight import ABORT, DELETE
from cloudpush.push.preflights import Asked

#: Seconds that the answer is waited for.
PATIENCE = 60.0


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(preflight)


def preflight(
    destination: Annotated[str, typer.Argument(metavar="DEST", help="s3://BUCKET/PREFIX (r2://, b2://, …).")],
    credential: Annotated[
        str, typer.Option("--credential", "-c", help="Id or name of a credential, or OWNER/NAME of a shared one.")
    ],
    profile: Annotated[str, typer.Option(help="Destination profile; by default the credential's.")] = "",
    delete: Annotated[bool, typer.Option("--delete", help="Deleting must be possible, too.")] = False,
    abort: Annotated[bool, typer.Option("--abort", help="Ending unfinished uploads must be possible, too.")] = False,
    owner: Annotated[str, typer.Option(help="On whose behalf; default: you.")] = "",
    timeout: Annotated[float, typer.Option(help="Give up waiting after so many seconds.")] = PATIENCE,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Try out with a tiny object whether a credential may write to DEST and look there.

    Exit code 0 if it may, 8 if not, 7 if no worker has answered in time.
    """
    wants = [*([DELETE] if delete else []), *([ABORT] if abort else [])]
    with desk() as at:
        asked = at.preflight(destination, credential, profile=profile, wants=wants, owner=owner, timeout=timeout)
    if as_json:
        print_json(asdict(asked))
    elif asked.over:
        _show(asked)
    if not asked.over:
        sys.stderr.write(f"preflight {asked.id} is {asked.state} after {timeout} s: does a worker run?\n")
        raise typer.Exit(Exit.TIMED_OUT)
    if asked.error_code:
        raise typer.Exit(Exit.UNSOUND)


def _show(asked: Asked) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for check in asked.checks:
        word = ("warn" if check.get("code") else "ok") if check["ok"] else "FAIL"
        said = " ".join(str(check[name]) for name in ("code", "message") if check.get(name))
        table.add_row(*(Text(text) for text in (word, str(check["name"]), f"{check['ms']} ms", said)))
    out = console()
    out.print(f"{asked.uri}: {asked.state}", markup=False)
    out.print(table)
    if asked.error_code:
        code = Code(asked.error_code)
        if not any(not check["ok"] for check in asked.checks):
            out.print(f"  {code} {asked.error_message}", markup=False)
        out.print(f"  {code.actor} must act: {code.fix}" if code.actor != "nobody" else f"  {code.fix}", markup=False)
