"""`cloudpush up` and `cloudpush down`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from cloudpush.settings import PREFIX, default_data_dir

_DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar=PREFIX + "DATA_DIR",
        file_okay=False,
        help="Where everything is kept. Default: the platform's user data directory.",
    ),
]


def add_to(root: typer.Typer) -> None:
    """Add both commands."""
    root.command()(up)
    root.command()(down)


def up(
    data_dir: _DataDir = None,
    source_root: Annotated[
        list[Path] | None,
        typer.Option(help="A directory that may be pushed from; repeatable. Default: the present directory."),
    ] = None,
    allow_endpoint: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST[:PORT]", help="A private S3 endpoint that users may push to; repeatable."),
    ] = None,
    profiles: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Destination profiles (TOML).")
    ] = None,
    providers: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="OAuth providers (TOML) that users may consent at.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many worker processes.")] = 1,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once it is ready; it goes on running.")
    ] = False,
) -> None:
    """Start everything on this machine: PostgreSQL, Valkey, OpenBao, worker, sweeper and web pages.

    Stays in the foreground; Ctrl-C stops everything in order, a second Ctrl-C at once. A service that crashes is started
    again. All data stay in the data directory. Once it is ready it prints a link that signs you in to the web pages, once.
    """
    from cloudpush.stack import up as stack  # noqa: PLC0415 - with all its servers: not for every command to load

    options = stack.UpOptions(
        data_dir=data_dir or default_data_dir(),
        workers=workers,
        source_roots=tuple(source_root or ()),
        allowed_endpoints=tuple(allow_endpoint or ()),
        profiles_file=profiles,
        providers_file=providers,
    )
    if detach:
        Console().print(Text(stack.run_detached(options)), soft_wrap=True)
    else:
        stack.run_up(options)


def down(data_dir: _DataDir = None) -> None:
    """Stop what `cloudpush up` started, and wait until it has ended."""
    from cloudpush.stack import up as stack  # noqa: PLC0415 - as above

    where = data_dir or default_data_dir()
    pid = stack.run_down(where)
    said = (
        f"Nothing is running in {where}."
        if pid is None
        else f"Stopped process {pid} and its services; the data stay in {where}."
    )
    Console().print(Text(said), soft_wrap=True)
