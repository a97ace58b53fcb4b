"""``cloudpush vault``: care for the key that wraps all data keys."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cloudpush.cli.context import os_user, print_json, services
from cloudpush.cli.credential import Json
from cloudpush.cli.exits import Exit
from cloudpush.push.credential import Caller

app = typer.Typer(name="vault", help="Rotate the key under which credentials are sealed.", no_args_is_help=True)


def add_to(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="vault")


@app.callback()
def group() -> None:
    """Keep ``rotate`` a subcommand: Typer makes an only command the group itself."""


@app.command()
def rotate(
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish an interrupted rotation; adds no further key version.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Rotate the Transit key, rewrap every data key and retire the older key versions.

    Touches no plaintext; pushes go on meanwhile. The exit code is 8 where a credential could not be rewrapped.
    """
    with services() as s:
        done = s.custody.rotate(Caller(os_user(), operator=True), resume=resume)
    if as_json:
        print_json(asdict(done))
    else:
        typer.echo(f"Key version {done.version}: {done.rewrapped} data keys rewrapped, {len(done.failed)} failed.")
        for credential_id in done.failed:
            typer.echo(f"Failed: {credential_id} (see `cloudpush credential show {credential_id} --operator`)")
        if done.retired:
            typer.echo("Older key versions are retired.")
        else:
            typer.echo("Older key versions are kept: deal with what failed or is being added, then use --resume.")
    if done.failed:
        raise typer.Exit(Exit.UNSOUND)
