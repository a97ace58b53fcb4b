"""``cloudpush grant``: what users consented to, seen from a shell. Connecting itself takes a browser: ``cloudpush web``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from cloudpush.cli.context import console, os_user, parse_time, print_json, services, when
from cloudpush.cli.exits import Exit
from cloudpush.errors import Code, InputError
from cloudpush.push.credential import Caller
from cloudpush.push.grants.model import Grant, GrantState, Share
from cloudpush.wiring import Services

app = typer.Typer(
    name="grant", help="Look at, share, try out and revoke the accounts that were connected.", no_args_is_help=True
)


def add_to(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="grant")


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Operator = Annotated[bool, typer.Option("--operator", help="Act as operator: on everyone's grants. It is recorded.")]
Reference = Annotated[str, typer.Argument(metavar="GRANT", help="Its id, or its name if it is yours.")]

#: Seconds between two looks while a worker is waited for.
LOOK_SECONDS = 0.25


@app.command("list")
def list_(
    everyone: Annotated[bool, typer.Option("--everyone", help="Act as operator: list everyone's.")] = False,
    ended: Annotated[bool, typer.Option("--ended", help="Include those that were revoked.")] = False,
    as_json: Json = False,
) -> None:
    """List your grants, and those of others that are shared with you."""
    who = Caller(os_user(), everyone)
    with services() as s:
        mine = s.grants.list(who, everyone=everyone, ended=ended)
        theirs = [] if everyone else s.grants.shared_with(who)
    if as_json:
        shared = [{**_of_another(grant), "share": asdict(share)} for grant, share in theirs]
        print_json({"grants": [as_dict(g) for g in mine], "shared": shared})
        return
    _table(["id", "owner", "name", "provider", "state", "account", "granted", "refreshed", "check"], map(_row, mine))
    if theirs:
        console().print("\nShared with you:")
        heads = ["credential", "provider", "state", "below", "until"]
        rows = ([f"{g.owner}/{g.name}", g.provider, str(g.state), h.uri, when(h.until)] for g, h in theirs)
        _table(heads, rows)


@app.command()
def show(grant: Reference, operator: Operator = False, as_json: Json = False) -> None:
    """Show one grant: what was asked and granted, where it stands, with whom it is shared, what waits for it."""
    who = Caller(os_user(), operator)
    with services() as s:
        found = s.grants.find(who, grant)
        shares, waiting = s.grants.shares(who, found.id), s.grants.waiting(who, found.id)
        page = s.settings.web_url
    told = {**as_dict(found), "shares": [asdict(share) for share in shares], "waiting": list(waiting)}
    if as_json:
        print_json(told)
        return
    del told["shares"]
    _fields(told)
    if shares:
        console().print("\nShares:")
        _table(["id", "with", "below", "until", "ended"], map(_share_row, shares))
    if found.state is GrantState.RECONNECT:
        sys.stderr.write(f"{Code.CONSENT_NEEDED.fix}{_at(page)}\n")


@app.command()
def ledger(grant: Reference, operator: Operator = False, as_json: Json = False) -> None:
    """Print a grant's whole life: asked, granted, each unsealing and use, refreshed, shared, revoked, purged."""
    with services() as s:
        found = s.grants.find(Caller(os_user(), operator), grant)
        events = s.history.ledger(found.id)
    if as_json:
        print_json(events)
        return
    _table(["at", "event", "by", "what"], ([when(e["at"]), e["kind"], e["actor"], _what(e["data"])] for e in events))


@app.command()
def revoke(
    grant: Reference,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Stay until the provider was told.")] = False,
    timeout: Annotated[float, typer.Option(help="With --wait: give up waiting after so many seconds.")] = 60.0,
    operator: Operator = False,
    as_json: Json = False,
) -> None:
    """Take a grant back: what runs with it stops within seconds, the provider is told, its tokens are destroyed."""
    who = Caller(os_user(), operator)
    with services() as s:
        found = s.grants.find(who, grant)
        if not yes:
            _confirm(found)
        revoked = s.grants.revoke(who, found.id)
        if wait:
            revoked = _await(s, who, revoked, lambda now: now.state is GrantState.REVOKED, timeout)
    if as_json:
        print_json(as_dict(revoked))
    else:
        typer.echo(f"{revoked.name} is {revoked.state}; nobody can use it any more.")
        if revoked.trouble_message:
            typer.echo(revoked.trouble_message)
    if wait and revoked.state is not GrantState.REVOKED:
        raise typer.Exit(Exit.TIMED_OUT)


@app.command()
def share(
    grant: Reference,
    principal: Annotated[str, typer.Option("--with", help="Who may push with it: the owner of the pushes.")],
    below: Annotated[str, typer.Option(help="Where to: SCHEME://BUCKET or SCHEME://BUCKET/PREFIX.")],
    until: Annotated[str, typer.Option(help="Until when: 12h, 30d, or an ISO time (UTC).")],
    operator: Operator = False,
    as_json: Json = False,
) -> None:
    """Let somebody else, such as a pipeline, push with it: below a prefix and until a date. Prints the share's id."""
    who = Caller(os_user(), operator)
    moment = parse_time(until, "until", future=True)
    with services() as s:
        found = s.grants.find(who, grant)
        made = s.grants.share(who, found.id, principal=principal, uri=below, until=moment)
    if as_json:
        print_json({**asdict(made), "credential": f"{found.owner}/{found.name}"})
    else:
        typer.echo(made.id)
        sys.stderr.write(f"{made.principal} pushes with --credential {found.owner}/{found.name}\n")


@app.command()
def unshare(
    share_id: Annotated[UUID, typer.Argument(metavar="SHARE", help="See `cloudpush grant show`.")],
    operator: Operator = False,
    as_json: Json = False,
) -> None:
    """End a share: what is pushed by it stops within seconds."""
    with services() as s:
        ended = s.grants.unshare(Caller(os_user(), operator), share_id)
    if as_json:
        print_json(asdict(ended))
    else:
        typer.echo(f"{ended.principal} may not push below {ended.uri} any more.")


@app.command()
def check(
    grant: Reference,
    timeout: Annotated[float, typer.Option(help="Give up waiting after so many seconds.")] = 60.0,
    operator: Operator = False,
    as_json: Json = False,
) -> None:
    """Have a worker try it out at the provider. The exit code is 0 where it works, 8 where not, 7 where nobody answered."""
    who = Caller(os_user(), operator)
    with services() as s:
        before = s.grants.find(who, grant)
        s.grants.check(who, before.id)
        now = _await(s, who, before, lambda g: g.checked_at not in (None, before.checked_at), timeout)
    known = now.checked_at != before.checked_at
    if as_json:
        print_json(as_dict(now))
    elif not known:
        sys.stderr.write(f"No worker has tried it out in {timeout:g} s; it will: cloudpush grant show {now.id}\n")
    else:
        typer.echo(f"{now.check_code} {now.check_message}" if now.check_code else f"{now.name} works.")
    if not known:
        raise typer.Exit(Exit.TIMED_OUT)
    if now.check_code:
        raise typer.Exit(Exit.UNSOUND)


def as_dict(grant: Grant) -> dict[str, Any]:
    """The metadata as one flat object."""
    return {**asdict(grant), "settings": dict(grant.settings), "state": str(grant.state)}


def _of_another(grant: Grant) -> dict[str, Any]:
    """What whom it is shared with may see of it."""
    return {
        "id": grant.id,
        "credential": f"{grant.owner}/{grant.name}",
        "provider": grant.provider,
        "state": str(grant.state),
    }


def _await(s: Services, who: Caller, grant: Grant, true: Callable[[Grant], bool], timeout: float) -> Grant:
    deadline = time.monotonic() + timeout
    while not true(grant) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        grant = s.grants.show(who, grant.id)
    return grant


def _confirm(grant: Grant) -> None:
    if not sys.stdin.isatty():
        raise InputError(Code.BAD_INPUT, "revoke stops every push that uses it: confirm with --yes.", field="yes")
    typer.confirm(f"Revoke {grant.name!r}, and stop every push that uses it?", abort=True, err=True)


def _row(g: Grant) -> list[str]:
    check = "" if g.checked_at is None else g.check_code or "works"
    return [
        str(g.id),
        g.owner,
        g.name,
        g.provider,
        str(g.state),
        g.subject,
        when(g.granted_at),
        when(g.refreshed_at),
        check,
    ]


def _share_row(s: Share) -> list[str]:
    over = s.ended_at or (s.until if s.until <= datetime.now(UTC) else None)
    return [str(s.id), s.principal, s.uri, when(s.until), when(over)]


def _what(data: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_plain(value)}" for name, value in data.items() if value not in (None, "", [], {}))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str("" if value is None else value)


def _fields(values: Mapping[str, object]) -> None:
    _table(["field", "value"], ([name, _plain(value)] for name, value in values.items()))


def _at(page: str) -> str:
    return f" The page: {page}/connections" if page else ""


def _table(heads: Sequence[str], rows: Any) -> None:
    table = Table(*heads, header_style="bold", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))  # Text: a user's words are no markup
    console().print(table)
