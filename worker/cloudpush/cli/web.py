"""``cloudpush web``: serves the pages; ``cloudpush web-link``: a one-time link to sign in with."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from cloudpush.cli.context import os_user, print_json
from cloudpush.cli.serving import Workers, serve
from cloudpush.errors import Code, InputError, SettingsError, StackError
from cloudpush.logs import setup_logs
from cloudpush.settings import Settings, read_settings

#: Requests that wait in the kernel while we are busy.
BACKLOG = 256
#: A link is for whoever runs the command, now.
LINK_MINUTES = 15.0


def add_to(app: typer.Typer) -> None:
    """Add both commands."""
    app.command()(web)
    app.command(name="web-link")(web_link)


def web() -> None:
    """Serve the web pages until told to stop: sign in, connect, watch, revoke.

    Listens at CLOUDPUSH_WEB_HOST and CLOUDPUSH_WEB_PORT. Browsers reach it at CLOUDPUSH_WEB_URL, which has to be https unless it
    is this machine: put your own reverse proxy in front. CLOUDPUSH_WEB_PROCESSES of them share the work.
    """
    settings = read_settings()
    _check_url(settings)
    setup_logs(settings.log_level, settings.log_format)
    with _listen(settings) as listening:
        if settings.web_processes == 1:
            serve(settings, listening)
        else:
            Workers(settings.web_processes, lambda: serve(settings, listening)).supervise()


def web_link(
    user: Annotated[str, typer.Option(help="Whom it signs in; default: CLOUDPUSH_WEB_LINK_USER, else you.")] = "",
    minutes: Annotated[float, typer.Option(min=1, max=1440, help="How long it can be used.")] = LINK_MINUTES,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Print a link that signs you in to the web pages, once."""
    from cloudpush.wiring import sign_in_link  # noqa: PLC0415 -- not for every command to load

    setup_logs("error", "console")
    settings = read_settings()
    _check_url(settings)
    owner = user or settings.web_link_user or os_user()
    if not owner.isprintable() or len(owner) > 200:
        raise InputError(Code.BAD_INPUT, f"user {owner[:200]!r} is no name.", field="user")
    link = sign_in_link(settings, owner, minutes * 60)
    if as_json:
        print_json({"link": link, "user": owner, "minutes": minutes})
    else:
        typer.echo(link)


def _check_url(settings: Settings) -> None:
    key = "CLOUDPUSH_WEB_URL"
    if not settings.web_url:
        raise SettingsError(
            Code.SETTINGS_INVALID,
            f"{key} is missing: say where browsers reach the pages, https://HOST[:PORT]",
            field=key,
        )


def _listen(settings: Settings) -> socket.socket:
    """Bound by us, so that a port that is taken is told in our words. Raises StackError."""
    where = f"{settings.web_host}:{settings.web_port}"
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.web_host, settings.web_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.create_server(address[:2], family=family, backlog=BACKLOG, reuse_port=False)
    except OSError as e:
        raise StackError(Code.STACK, f"The web pages cannot listen at {where}: {e.strerror or e}") from e
    # What is accepted inherits it; asyncio sets it on none of these, which it does not take for TCP. Without it the body of an
    # answer waits 40 ms for the other side to acknowledge its head (measured: 48 ms for a page of the API, 4 ms with it).
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
