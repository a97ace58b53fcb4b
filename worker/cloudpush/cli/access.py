"""``cloudpush token`` and ``cloudpush role``: over the API where one is known, else as the operator of an own stack."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Protocol
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from cloudpush.cli.context import console, os_user, print_json, when
from cloudpush.cli.desk import LOCAL
from cloudpush.errors import AccessError, Code
from cloudpush.push.access.model import ALL_SCOPES, Principal, Role, Scope, Via

tokens_app = typer.Typer(name="token", help="Make, list and end API tokens.", no_args_is_help=True)
roles_app = typer.Typer(
    name="role", help="Say who is an auditor, an administrator or a pipeline.", no_args_is_help=True
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Row = Mapping[str, Any]


def add_to(root: typer.Typer) -> None:
    """Add both groups."""
    root.add_typer(tokens_app, name="token")
    root.add_typer(roles_app, name="role")


class Office(Protocol):
    """Where tokens and roles are seen to."""

    def create(self, name: str, scopes: list[Scope], role: Role | None, days: int | None, owner: str) -> Row:
        """A new token; ``token`` is its text."""

    def tokens(self, owner: str) -> list[Row]:
        """Living ones, newest first."""

    def revoke(self, token_id: UUID) -> None:
        """End one."""

    def roles(self, principal: str) -> list[Row]:
        """Who has which."""

    def grant(self, principal: str, role: Role) -> None:
        """Give."""

    def ungrant(self, principal: str, role: Role) -> None:
        """Take."""


@tokens_app.command()
def create(
    name: Annotated[str, typer.Argument(help="What you call it, as it stands in lists and in the record.")],
    scope: Annotated[
        list[Scope] | None, typer.Option(help="What it may be used for, repeatable; default: submit and read.")
    ] = None,
    role: Annotated[
        Role | None, typer.Option(help="At most this one of your roles; pipeline: pushes, and manages nothing.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="How long it lives; default: 90.")] = None,
    owner: Annotated[str, typer.Option(help="Whose it is; another than yourself is for administrators.")] = "",
    as_json: Json = False,
) -> None:
    """Make a token, and print it: this once."""
    with office() as at:
        made = at.create(name, scope or [Scope.SUBMIT, Scope.READ], role, days, owner)
    if as_json:
        print_json(made)
        return
    typer.echo(made["token"])
    typer.echo(
        f"Token {made['id']} of {made['owner']} for {', '.join(made['scopes'])}, until {_when(made['expires_at'])}. "
        "It is shown this once: keep it as a password.",
        err=True,
    )


@tokens_app.command(name="list")
def list_tokens(
    owner: Annotated[str, typer.Option(help="Another's; for administrators.")] = "", as_json: Json = False
) -> None:
    """List living tokens, newest first."""
    with office() as at:
        found = at.tokens(owner)
    if as_json:
        print_json(found)
        return
    table = Table("id", "name", "owner", "role", "scopes", "expires", "last used")
    for row in found:
        table.add_row(
            *(Text(str(row[name] or ""), overflow="fold") for name in ("id", "name", "owner", "role")),
            " ".join(row["scopes"]),
            *(_when(row["expires_at"]), _when(row["used_at"])),
        )
    console().print(table)


@tokens_app.command()
def revoke(token_id: Annotated[UUID, typer.Argument(metavar="ID", help="See `cloudpush token list`.")]) -> None:
    """End a token: within two seconds it opens nothing any more."""
    with office() as at:
        at.revoke(token_id)
    typer.echo(f"Token {token_id} is revoked.")


@roles_app.command()
def grant(
    principal: Annotated[str, typer.Argument(help="Who: the name that they sign in by.")],
    role: Annotated[Role, typer.Argument(help="auditor, admin or pipeline.")],
) -> None:
    """Give somebody a role. It is recorded."""
    with office() as at:
        at.grant(principal, role)
    typer.echo(f"{principal} is {role}.")


@roles_app.command(name="revoke")
def ungrant(
    principal: Annotated[str, typer.Argument(help="Who.")],
    role: Annotated[Role, typer.Argument(help="Which.")],
) -> None:
    """Take a role: within two seconds no token of theirs has it any more. It is recorded."""
    with office() as at:
        at.ungrant(principal, role)
    typer.echo(f"{principal} is not {role}.")


@roles_app.command(name="list")
def list_roles(principal: Annotated[str, typer.Argument(help="One's only.")] = "", as_json: Json = False) -> None:
    """List who was granted which role. Whoever was granted none is a `user`."""
    with office() as at:
        found = at.roles(principal)
    if as_json:
        print_json(found)
        return
    table = Table("principal", "role", "granted", "by")
    for row in found:
        cells = (row["principal"], row["role"], _when(row["granted_at"]), row["granted_by"])
        table.add_row(*(Text(cell, overflow="fold") for cell in cells))
    console().print(table)


def _when(value: object) -> str:
    return when(
        datetime.fromisoformat(value) if isinstance(value, str) else value if isinstance(value, datetime) else None
    )


# -- where -------------------------------------------------------------------------------------


@contextmanager
def office() -> Iterator[Office]:
    """The API's where a server is known, else an own stack's."""
    if os.environ.get(LOCAL, "") in ("", "0"):
        from cloudpush.client.logins import find_login  # noqa: PLC0415 -- not for who works locally

        if (login := find_login()) is not None:
            from cloudpush.client.transport import Transport  # noqa: PLC0415 -- likewise

            if not login.token:
                raise AccessError(Code.UNAUTHENTICATED, f"There is no token for {login.url}.", field="token")
            transport = Transport(login.url, login.token)
            try:
                yield _Remote(transport)
            finally:
                transport.close()
            return
    from cloudpush.logs import setup_logs  # noqa: PLC0415 -- likewise
    from cloudpush.settings import read_settings  # noqa: PLC0415 -- likewise
    from cloudpush.wiring.command import token_desk  # noqa: PLC0415 -- likewise

    setup_logs("error", "console")
    with token_desk(read_settings()) as desk:
        yield _Local(desk)


class _Remote:
    """Over the API."""

    def __init__(self, transport: Any) -> None:
        self._call = transport.call

    def create(self, name: str, scopes: list[Scope], role: Role | None, days: int | None, owner: str) -> Row:
        body = {"name": name, "scopes": scopes, "role": role, "days": days, "owner": owner}
        found: Row = self._call("POST", "/tokens", body=body).json
        return found

    def tokens(self, owner: str) -> list[Row]:
        return self._items("/tokens", {"owner": owner})

    def revoke(self, token_id: UUID) -> None:
        self._call("DELETE", f"/tokens/{token_id}")

    def roles(self, principal: str) -> list[Row]:
        return self._items("/roles", {"principal": principal})

    def grant(self, principal: str, role: Role) -> None:
        self._call("POST", "/roles", body={"principal": principal, "role": role}, repeatable=True)

    def ungrant(self, principal: str, role: Role) -> None:
        self._call("POST", "/roles/revoke", body={"principal": principal, "role": role}, repeatable=True)

    def _items(self, path: str, query: Mapping[str, str]) -> list[Row]:
        found: list[Row] = self._call("GET", path, query=query).json["items"]
        return found


class _Local:
    """On an own stack: who can reach its database is its operator."""

    def __init__(self, desk: Any) -> None:
        self._desk = desk
        self._me = Principal(os_user(), frozenset(Role), ALL_SCOPES, os_user(), Via.SESSION)

    def create(self, name: str, scopes: list[Scope], role: Role | None, days: int | None, owner: str) -> Row:
        made = self._desk.create(self._me, name, frozenset(scopes), role=role, days=days, owner=owner)
        return {**made.token.row(), "token": made.text}

    def tokens(self, owner: str) -> list[Row]:
        return [token.row() for token in self._desk.list(self._me, owner, everyone=not owner)]

    def revoke(self, token_id: UUID) -> None:
        self._desk.revoke(self._me, token_id)

    def roles(self, principal: str) -> list[Row]:
        return [found.row() for found in self._desk.roles(self._me, principal)]

    def grant(self, principal: str, role: Role) -> None:
        self._desk.grant(self._me, principal, role)

    def ungrant(self, principal: str, role: Role) -> None:
        self._desk.revoke_role(self._me, principal, role)
