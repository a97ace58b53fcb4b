"""``cloudpush history`` and ``show``: what auditors ask. What they believe it by is in ``trust``, what becomes of it in ``retention``."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Column, Table
from rich.text import Text

from cloudpush.cli import retention, trust
from cloudpush.cli.context import console, parse_push_id, parse_strength, parse_time, print_json, size, when
from cloudpush.cli.desk import Which, desk
from cloudpush.cli.push import COLOURS
from cloudpush.errors import Code, InputError
from cloudpush.push.states import FileState, State

app = typer.Typer(help="Check the audit record.", no_args_is_help=True)


def add_to(root: typer.Typer) -> None:
    """Add the commands."""
    root.command()(history)
    root.command()(show)
    trust.add_to(app)
    retention.add_to(app)
    root.add_typer(app, name="audit")


def history(
    owner: Annotated[str | None, typer.Option(help="Whose pushes.")] = None,
    bucket: Annotated[str | None, typer.Option(help="Into which bucket.")] = None,
    prefix: Annotated[str | None, typer.Option(help="How their keys begin.")] = None,
    state: Annotated[State | None, typer.Option(help="In which state.")] = None,
    strength: Annotated[str, typer.Option(help="Proved exactly so.")] = "",
    kind: Annotated[str | None, typer.Option(help="With which kind of credential, such as access_key.")] = None,
    credential: Annotated[UUID | None, typer.Option(metavar="ID", help="With this credential or grant.")] = None,
    code: Annotated[str | None, typer.Option(help="Ended with which error code.")] = None,
    since: Annotated[str | None, typer.Option(help="Submitted at or after: an ISO time, or a span such as 7d.")] = None,
    until: Annotated[str | None, typer.Option(help="Submitted before.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="With this label, k=v; repeatable.")] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", "-q", help="Words of source, destination and paths; word* for how one begins."),
    ] = None,
    before: Annotated[
        str | None, typer.Option(metavar="PUSH", help="Only pushes older than this one: the next page.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List pushes, newest first."""
    which = Which(
        owner=owner,
        bucket=bucket,
        prefix=prefix,
        state=state,
        strength=parse_strength(strength) if strength else None,
        kind=kind,
        credential=credential,
        code=code,
        since=parse_time(since, "since") if since else None,
        until=parse_time(until, "until") if until else None,
        labels=tuple(_label(one) for one in label or []),
        text=text,
    )
    with desk() as at:
        rows = at.pushes(which, limit, parse_push_id(before) if before else None)
    if as_json:
        print_json(rows)
        return
    # An id that is cut short is of no use in the next command.
    table = Table(
        Column("push", no_wrap=True, min_width=36),
        "submitted (UTC)",
        "owner",
        "destination",
        "state",
        "files",
        "size",
        "proved by",
        "credential",
        "code",
    )
    for row in rows:
        current = State(row["state"])
        table.add_row(
            str(row["id"]),
            when(row["created_at"]),
            Text(row["owner"]),
            Text(row["uri"]),
            Text(current, style=COLOURS.get(current, "")),
            str(row["files_total"]),
            size(row["bytes_total"]),
            row["strength"] or "",
            row["credential_kind"],
            row["error_code"] or "",
        )
    console().print(table)


def show(
    push_id: Annotated[str, typer.Argument(metavar="PUSH")],
    files: Annotated[int, typer.Option(min=0, help="Show so many files; 0 for none.")] = 20,
    trouble: Annotated[bool, typer.Option("--trouble", help="Only files that failed or are unverified.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout; --files 0 for all files.")
    ] = False,
) -> None:
    """Show one push: where it stands, what happened, and its files."""
    wanted = parse_push_id(push_id)
    states = (FileState.FAILED, FileState.UNVERIFIED) if trouble else ()
    with desk() as at:
        row = at.push(wanted)
        events = at.events(wanted)
        if as_json:
            found = list(at.files(wanted, states, files or None))
            print_json({**row, "events": events, "files": found})
            return
        _show_push(row)
        _show_events(events)
        if files:
            _show_files(list(at.files(wanted, states, files)), row["files_total"])


def _show_push(row: dict[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for name in (
        "id",
        "state",
        "owner",
        "source",
        "uri",
        "credential_kind",
        "credential_id",
        "min_strength",
        "strength",
        "overwrite",
        "created_at",
        "started_at",
        "finished_at",
        "uploaded_at",
        "files_total",
        "files_verified",
        "files_skipped",
        "files_unverified",
        "files_failed",
        "parts_paused",
        "hook_id",
        "error_code",
        "error_message",
    ):
        value = row.get(name)
        if value not in (None, "") and (value or name != "parts_paused"):
            table.add_row(name.replace("_", " "), Text(when(value) if name.endswith("_at") else str(value)))
    table.add_row("size", size(row["bytes_total"]))
    if "urls" in row:
        _add_urls(table, row["urls"], row["renewals"])
    if row["labels"]:
        table.add_row("labels", Text(", ".join(f"{k}={v}" for k, v in row["labels"].items())))
    console().print(table)


def _add_urls(table: Table, urls: dict[str, Any], renewals: list[dict[str, Any]]) -> None:
    """What is left of a push's signed URLs: where they lead, how long they last, who handed over fresh ones."""
    table.add_row("urls lead to", Text(urls["origin"]))
    table.add_row("urls expire", f"{when(urls['expires_at']) or 'at a time that they do not say'} ({urls['state']})")
    for renewal in renewals:
        # Without files: a worker made it to hold the URI of an upload under way, when the older set was gone.
        what = f"{renewal['files']} files" if renewal["files"] else "an upload under way"
        table.add_row(
            f"fresh urls {renewal['number']}", Text(f"{when(renewal['at'])} by {renewal['actor']}, for {what}")
        )


def _show_events(events: list[dict[str, Any]]) -> None:
    table = Table("#", "at (UTC)", "event", "by", "what", title="Events", title_justify="left")
    for e in events:
        what = ", ".join(f"{k}={v}" for k, v in e["data"].items() if v not in (None, "", [], {}))
        table.add_row(str(e["seq"]), when(e["at"]), Text(e["kind"]), Text(e["actor"]), Text(what, overflow="fold"))
    console().print(table)


def _show_files(rows: list[dict[str, Any]], total: int) -> None:
    table = Table(
        "file",
        "size",
        "state",
        "proved by",
        "SHA-256",
        "ETag",
        "uploaded (UTC)",
        "code",
        title="Files",
        title_justify="left",
    )
    for f in rows:
        table.add_row(
            Text(f["path"], overflow="fold"),
            size(f["size"]),
            f["state"],
            f["strength"] or "",
            (f["sha256"] or "")[:16],
            Text(f["etag"] or ""),
            when(f["uploaded_at"]),
            f["error_code"] or "",
        )
    out = console()
    out.print(table)
    if len(rows) < total:
        out.print(f"{len(rows)} of {total} files; --files N shows more, --trouble only those that need attention.")


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(Code.BAD_INPUT, f"label {text!r} is not of the form key=value.", field="label")
    return key, value
