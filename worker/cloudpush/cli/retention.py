"""``cloudpush audit months``, ``archive``, ``drop``, ``pseudonymise``: what becomes of the record as it grows old."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cloudpush.cli import trust
from cloudpush.cli.context import console, os_user, print_json, services, size, warn, when
from cloudpush.cli.exits import Exit
from cloudpush.errors import Code, InputError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from cloudpush.settings import Settings

KeyFile = Annotated[
    Path | None,
    typer.Option("--key", metavar="PUB", help="The audit key's public half, which you kept: PEM or JWK."),
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``cloudpush audit``."""
    for command in (months, archive, drop, pseudonymise):
        app.command()(command)


def months(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List the months of the record: rows, size, whether sealed; archived and dropped by whom; due by CLOUDPUSH_KEEP_MONTHS."""
    from cloudpush.audit.months import months as find_months  # noqa: PLC0415 -- not for every command to load

    with services() as built:
        found = find_months(built.database, built.settings.keep_months)
    if as_json:
        print_json({"months": [_plain(month) for month in found]})
        return
    table = Table("month", "events", "files", "size", "sealed", "archive", "archived (UTC)", "dropped (UTC)", "")
    for month in found:
        table.add_row(
            f"{month.month:%Y-%m}",
            str(month.events),
            str(month.files),
            size(month.size),
            "yes" if month.sealed else "no",
            (month.archived or "")[:16],
            _by(month.archived_at, month.archived_by),
            _by(month.dropped_at, month.dropped_by),
            "dropped" if month.dropped else "due" if month.due else "",
        )
    console().print(table)


def _by(at: datetime | None, who: str | None) -> Text:
    return Text(f"{when(at)} by {who}" if at and who else when(at) if at else "")


def archive(
    month: Annotated[str, typer.Argument(metavar="MONTH", help="Such as 2026-01: one that is over.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Below which directory.")],
) -> None:
    """Write a month's events and file rows to Parquet, with the checkpoints that prove them. Changes no row."""
    from cloudpush.audit.archives import write_archive  # noqa: PLC0415 -- not for every command to load
    from cloudpush.audit.months import read_month  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.ed25519 import pem_of  # noqa: PLC0415 -- likewise
    from cloudpush.wiring import audit_keys  # noqa: PLC0415 -- likewise

    wanted = read_month(month)
    with services() as built:
        keys = "".join(pem_of(key.raw) for key in audit_keys(built.settings)[::-1])
        place, manifest = write_archive(built.database, wanted, to, keys, os_user())
    console().print(
        f"{place}: {manifest['events']} events, {manifest['files']} file rows",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def drop(
    month: Annotated[str, typer.Argument(metavar="MONTH", help="The oldest one.")],
    archive: Annotated[Path, typer.Option(metavar="DIR", help="Its archive, which is verified first, row by row.")],
    key_file: KeyFile = None,
) -> None:
    """Take an archived month's events and file rows out of the database, as the owner of its tables."""
    from cloudpush.audit.archive_check import check_archive  # noqa: PLC0415 -- not for every command to load
    from cloudpush.audit.months import drop as drop_month  # noqa: PLC0415 -- likewise
    from cloudpush.audit.months import read_month  # noqa: PLC0415 -- likewise

    wanted = read_month(month)
    with services() as built, ExitStack() as closing:
        witness, trouble = trust.outside_witness(built.settings, key_file, closing, offline=False)
        checked = check_archive(archive, witness)
        if trouble and key_file is None:
            raise InputError(Code.BAD_INPUT, f"its archive cannot be checked: {trouble}", field="key")
        with _owner(built.settings) as owner:
            drop_month(owner, wanted, archive, checked, os_user())
    manifest = checked.manifest
    console().print(
        f"{wanted:%Y-%m}: {manifest['events']} events and {manifest['files']} file rows dropped. Keep {archive}."
    )


def verify_archive(
    place: Path, key_file: Path | None, saved: tuple[tuple[int, str], ...], *, offline: bool, as_json: bool
) -> None:
    """``cloudpush audit verify --archive``. With a key, or ``offline``, nothing but the archive is read."""
    from cloudpush.audit.archive_check import (  # noqa: PLC0415 -- not for every command to load
        check_archive,
        compare_with_record,
    )
    from cloudpush.audit.database import transaction  # noqa: PLC0415 -- likewise
    from cloudpush.audit.findings import Witness  # noqa: PLC0415 -- likewise

    if key_file is not None or offline:
        signed = trust.signed_with(key_file) if key_file is not None else None
        checked = check_archive(place, Witness(signed, saved=saved))
        checked.report.unchecked.append("whether the record has the same checkpoints: it was not asked")
    else:
        with services() as built, ExitStack() as closing:
            witness, trouble = trust.outside_witness(built.settings, None, closing, offline=False)
            checked = check_archive(place, replace(witness, saved=saved))
            checked.report.unchecked.extend([trouble] if trouble else [])
            with transaction(built.database) as c:
                compare_with_record(c, checked)
    trust.tell(checked.report, as_json=as_json)
    if not checked.report.sound:
        raise typer.Exit(Exit.UNSOUND)


def pseudonymise(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the person who leaves, as owner of their pushes.")],
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="What else names them: an address, an account at a provider. Repeatable."),
    ] = None,
    pseudonym: Annotated[
        str | None, typer.Option(help="What takes its place; default: a random one. To go on after an interruption.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be changed; change nothing.")] = False,
) -> None:
    """Replace a person's name wherever the record has it, without breaking a chain; as the owner of its tables."""
    from cloudpush.audit.names import Names, refuse, remains  # noqa: PLC0415 -- not for every command to load
    from cloudpush.audit.pseudonyms import Pseudonyms  # noqa: PLC0415 -- likewise
    from cloudpush.wiring.trust import make_erasing  # noqa: PLC0415 -- likewise

    names = Names(name, also or (), pseudonym)
    with services() as built, _owner(built.settings) as owner, ExitStack() as closing:
        if dry_run:
            for where, count in sorted(remains(owner, names).items()):
                console().print(f"{where}: {count} rows", markup=False)
        refuse(owner, names)
        if dry_run:
            return
        signer, signed = make_erasing(built.settings, closing)
        typer.echo(f"{names.pseudonym} takes the name's place; if this is interrupted, go on with it.", err=True)
        done = Pseudonyms(owner, names, signer, signed).run()
        left = remains(owner, names)
    console().print(f"changed: {', '.join(f'{count} {what}' for what, count in done.items()) or 'nothing'}")
    for where, count in sorted(left.items()):
        warn(f"{where}: {count} rows have it still, within a longer word or a path.")


@contextmanager
def _owner(settings: Settings) -> Iterator[sa.Engine]:
    """The way of the tables' owner. Raises InputError where none is set."""
    from cloudpush.audit.database import make_engine  # noqa: PLC0415 -- not for every command to load

    if not settings.database_admin_url:
        what = "this takes the owner of the tables: set CLOUDPUSH_DATABASE_ADMIN_URL for this command."
        raise InputError(Code.BAD_INPUT, what, field="CLOUDPUSH_DATABASE_ADMIN_URL")
    engine = make_engine(settings.database_admin_url, pool_size=1)
    try:
        yield engine
    finally:
        engine.dispose()


def _plain(month: Any) -> dict[str, Any]:
    return {
        "month": f"{month.month:%Y-%m}",
        "events": month.events,
        "files": month.files,
        "bytes": month.size,
        "sealed": month.sealed,
        "archived": month.archived,
        "dropped": month.dropped,
        "due": month.due,
        "archived_at": month.archived_at,
        "archived_by": month.archived_by,
        "dropped_at": month.dropped_at,
        "dropped_by": month.dropped_by,
    }
