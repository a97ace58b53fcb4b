"""``cloudpush db``: the schema's level."""

from __future__ import annotations

import typer

from cloudpush.audit.database import make_engine, transaction
from cloudpush.cli.context import print_json
from cloudpush.cli.exits import Exit
from cloudpush.settings import read_settings

app = typer.Typer(help="Create and upgrade the database schema.", no_args_is_help=True)


def add_to(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="db")


@app.command()
def upgrade() -> None:
    """Bring the database to the level that this version needs. Safe to repeat."""
    from cloudpush.audit import migrate  # noqa: PLC0415 -- brings Alembic: not for every command to load

    typer.echo(f"The database is at {migrate.upgrade(read_settings())}.")


@app.command()
def status() -> None:
    """Say which level the database is at and which is needed."""
    from cloudpush.audit import migrate  # noqa: PLC0415 -- as above

    engine = make_engine(read_settings().database_url, pool_size=1)
    with transaction(engine) as c:
        level = migrate.level(c)
    print_json({"level": level, "needed": migrate.head()})
    if level != migrate.head():
        raise typer.Exit(Exit.UNSOUND)
