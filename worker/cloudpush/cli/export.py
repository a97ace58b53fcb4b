"""``cloudpush export``: whole tables of the record as files."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from cloudpush.cli.context import os_user, parse_push_id, parse_strength, parse_time
from cloudpush.cli.desk import LOCAL
from cloudpush.errors import Code, InputError, SourceError
from cloudpush.push.states import State, Strength


class Table(StrEnum):
    """What can be exported."""

    PUSHES = "pushes"
    FILES = "files"
    PARTS = "parts"
    EVENTS = "events"
    CREDENTIALS = "credentials"
    LEDGER = "ledger"
    CHECKPOINTS = "checkpoints"


class Form(StrEnum):
    """As what."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def add_to(root: typer.Typer) -> None:
    """Add the command."""
    root.command()(export)


def export(
    table: Annotated[Table, typer.Argument(help="Which table.")],
    form: Annotated[Form, typer.Option("--format", help="As what.")] = Form.CSV,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there; default: to stdout.")
    ] = None,
    owner: Annotated[str, typer.Option(help="Whose.")] = "",
    bucket: Annotated[str, typer.Option(help="Pushes into this bucket.")] = "",
    prefix: Annotated[str, typer.Option(help="How their keys begin.")] = "",
    state: Annotated[State | None, typer.Option(help="In which state.")] = None,
    strength: Annotated[str, typer.Option(help="Proved exactly so.")] = "",
    kind: Annotated[str, typer.Option(help="With which kind of credential.")] = "",
    credential: Annotated[UUID | None, typer.Option(metavar="ID", help="With this credential or grant.")] = None,
    code: Annotated[str, typer.Option(help="Ended with which error code.")] = "",
    since: Annotated[str, typer.Option(help="At or after: an ISO time, or a span such as 7d.")] = "",
    until: Annotated[str, typer.Option(help="Before.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="With this label, k=v; repeatable.")] = None,
    text: Annotated[
        str, typer.Option("--text", "-q", help="Words of source, destination and paths; word* for how one begins.")
    ] = "",
    push: Annotated[str, typer.Option(help="Of this push only.")] = "",
) -> None:
    """Export a table as CSV, JSON Lines or Parquet. That somebody took a copy is an event of the record, too."""
    asked: dict[str, Any] = {
        "format": form.value,
        "owner": owner,
        "bucket": bucket,
        "prefix": prefix,
        "state": state.value if state else "",
        "strength": parse_strength(strength).word if strength else "",
        "kind": kind,
        "credential": str(credential) if credential else "",
        "code": code,
        "since": parse_time(since, "since") if since else "",
        "until": parse_time(until, "until") if until else "",
        "label": [_pair(one) for one in label or []],
        "q": text,
        "push": str(parse_push_id(push)) if push else "",
    }
    given = {name: value for name, value in asked.items() if value not in ("", [])}
    if output is None and form is Form.PARQUET and sys.stdout.isatty():
        raise InputError(Code.BAD_INPUT, "Parquet is nothing for a terminal: name a file with -o.", field="output")
    with _opened(table, given) as pieces:
        if output is None:
            for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        else:
            _save(output, pieces)


@contextmanager
def _opened(table: Table, asked: dict[str, Any]) -> Iterator[Iterator[bytes]]:
    """The file in pieces: from the API where there is a login, else from this machine's own stack."""
    if os.environ.get(LOCAL, "") in ("", "0"):
        from cloudpush.client.logins import find_login  # noqa: PLC0415 -- not for who works locally

        if (login := find_login()) is not None:
            from cloudpush.client import Client  # noqa: PLC0415 -- likewise

            query = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in asked.items()}
            with Client(login.url, login.token) as client, client.export(table.value, **query) as pieces:
                yield pieces
            return
    from cloudpush.audit.export import Format, Wanted  # noqa: PLC0415 -- for who works locally
    from cloudpush.audit.filters import Filter  # noqa: PLC0415 -- likewise
    from cloudpush.cli.context import services  # noqa: PLC0415 -- likewise

    labels = tuple(tuple(pair.split("=", 1)) for pair in asked.get("label", []))
    which = Filter(
        owner=asked.get("owner"),
        bucket=asked.get("bucket"),
        prefix=asked.get("prefix"),
        state=State(asked["state"]) if "state" in asked else None,
        strength=Strength.of(asked["strength"]) if "strength" in asked else None,
        credential_kind=asked.get("kind"),
        credential_id=UUID(asked["credential"]) if "credential" in asked else None,
        error_code=asked.get("code"),
        since=asked.get("since"),
        until=asked.get("until"),
        labels=labels,
        text=asked.get("q"),
    )
    one = parse_push_id(asked["push"]) if "push" in asked else None
    with services() as built:
        if one is not None:
            built.history.push(one)
        wanted = Wanted(table.value, Format(asked["format"]), which, one)
        with closing(built.history.export(wanted, os_user())) as pieces:
            yield pieces


def _save(path: Path, pieces: Iterator[bytes]) -> None:
    """The whole file or none of it; nobody but its owner may read it."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.writelines(pieces)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as e:
        raise SourceError(
            Code.SOURCE_UNREADABLE, f"output={str(path)!r} cannot be written: {e.strerror}.", field="output"
        ) from e


def _pair(text: str) -> str:
    if "=" not in text:
        raise InputError(Code.BAD_INPUT, f"label {text!r} is not of the form key=value.", field="label")
    return text
