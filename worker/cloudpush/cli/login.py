"""``cloudpush login``, ``logout`` and ``whoami``: a token for this machine, confirmed in a browser anywhere."""

from __future__ import annotations

import socket
import time
import webbrowser
from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from cloudpush.cli.context import print_json, visible
from cloudpush.client.logins import Kept, find_login, forget_login, keep_login, known_login
from cloudpush.client.transport import Transport, checked_url
from cloudpush.errors import AccessError, CloudPushError, Code, InputError
from cloudpush.push.access.model import Scope

#: Operations of the login look at no token.
NOBODY = "nobody"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(login)
    app.command()(logout)
    app.command()(whoami)


def login(
    url: Annotated[str, typer.Argument(envvar="CLOUDPUSH_URL", help="The server: https://HOST[:PORT].")] = "",
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="What this machine may do for you, repeatable; default: everything you may."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser here.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; no token is in it.")] = False,
) -> None:
    """Sign this machine in. Works over ssh: the code is confirmed in any browser."""
    if not url:
        known = known_login()
        if known is None:
            raise InputError(Code.BAD_INPUT, "Say which server: cloudpush login https://HOST.", field="url")
        url = known.url
    url = checked_url(url)
    transport = Transport(url, NOBODY)
    try:
        asked = {"scopes": scope or list(Scope), "host": socket.gethostname()[:100]}
        begun = transport.call("POST", "/login/device", body=asked, repeatable=True).json
        typer.echo(visible(f"Open {begun['verification_uri']} and confirm the code {begun['user_code']}"), err=True)
        page = str(begun["verification_uri_complete"])
        # A browser opens what it is given: a file of this machine's, another program's address.
        if browser and urlsplit(page).scheme in ("http", "https"):
            with suppress(webbrowser.Error, OSError):
                webbrowser.open(page)
        found = _wait(transport, begun)
    finally:
        transport.close()
    kept = Kept(url, found["name"], found["token_id"], found["expires_at"])
    where = keep_login(kept, found["token"])
    if as_json:
        print_json(
            {"url": url, "name": kept.name, "scopes": found["scopes"], "expires_at": kept.expires_at, "kept": where}
        )
    else:
        said = f"Signed in to {url} as {kept.name} until {kept.expires_at[:10]}; the token is kept in {where}."
        typer.echo(visible(said))


def _wait(transport: Transport, begun: dict[str, Any]) -> dict[str, Any]:
    """The answer that has the token. Raises CloudPushError: denied, expired."""
    interval = float(begun["interval"])
    deadline = time.monotonic() + float(begun["expires_in"])
    while time.monotonic() < deadline:
        time.sleep(interval)
        try:
            found: dict[str, Any] = transport.call(
                "POST", "/login/token", body={"device_code": begun["device_code"]}
            ).json
        except CloudPushError as e:
            if e.code is Code.RATE_LIMITED:
                interval += 5  # RFC 8628, 3.5
            elif e.code not in (Code.LOGIN_PENDING, Code.SERVER_UNREACHABLE, Code.DATABASE_UNREACHABLE):
                raise
        else:
            return found
    raise InputError(Code.LOGIN_EXPIRED, "Nobody confirmed the code in time.")


def logout() -> None:
    """End this machine's token, and forget it."""
    login = find_login()
    if login is None or not login.token:
        typer.echo("Nobody is signed in.")
        return
    if login.source.startswith("CLOUDPUSH_"):
        raise InputError(
            Code.BAD_INPUT, f"The token comes from {login.source}: end it with `cloudpush token revoke`.", field="token"
        )
    transport = Transport(login.url, login.token)
    try:
        me = transport.call("GET", "/me").json
        if me["token_id"]:
            transport.call("DELETE", f"/tokens/{me['token_id']}")
    except AccessError as e:
        if e.code is not Code.UNAUTHENTICATED:  # else it opens nothing any more
            raise
    finally:
        transport.close()
    forget_login(login.url)
    typer.echo(f"Signed out of {login.url}: the token is revoked and forgotten.")


def whoami(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Say who the server takes you for, and what you may."""
    login = find_login()
    if login is None or not login.token:
        raise AccessError(Code.UNAUTHENTICATED, "Nobody is signed in.", field="token")
    transport = Transport(login.url, login.token)
    try:
        me = transport.call("GET", "/me").json
    finally:
        transport.close()
    if as_json:
        print_json({"url": login.url, "source": login.source, **me})
        return
    typer.echo(visible(f"{me['name']} at {login.url}, by the token from {login.source}"))
    typer.echo(visible(f"roles: {', '.join(me['roles']) or 'none'}; the token may: {', '.join(me['scopes'])}"))
    if me["expires_at"]:
        typer.echo(visible(f"until {me['expires_at']}"))
