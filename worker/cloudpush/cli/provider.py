"""``cloudpush provider``: the operator's list of where users may consent, and CloudPush's own secrets there."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cloudpush.cli.context import console, print_json, warn
from cloudpush.cli.exits import Exit
from cloudpush.credentials.clients import SIGN_IN, Clients
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.providers import ProviderBook, read_providers
from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.logs import setup_logs
from cloudpush.push.grants.model import Flow, Provider
from cloudpush.settings import Settings, read_settings

app = typer.Typer(
    name="provider", help="Where users may connect accounts (config/providers.toml).", no_args_is_help=True
)


def add_to(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="provider")


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help=f"See `cloudpush provider list`; {SIGN_IN!r}: who signs people in.")
]

#: Far more than any client secret has.
LIMIT = 64 * 1024


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the providers, those that are not offered to users included."""
    _, book = _read()
    if as_json:
        print_json([_as_dict(p) for p in book.all()])
        return
    rows = [[p.name, p.title, str(p.flow), str(p.use), p.profile, _offered(p), " ".join(p.scopes)] for p in book.all()]
    _table(["name", "title", "flow", "use", "profile", "offered", "scopes"], rows)


@app.command(
    "set-secret",
    # Taken in by us and refused in words that do not repeat them: they may be the secret.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def set_secret(context: typer.Context, name: Name) -> None:
    """Put CloudPush's client secret at a provider into Vault, in place of an older one. Prompts, or reads stdin."""
    if context.args:
        raise InputError(
            Code.BAD_INPUT,
            "provider set-secret takes a name only. A secret never belongs on the command line, where others can read it: "
            "if that was one, replace it at the provider, and use the prompt or stdin.",
            field="arguments",
        )
    settings, book = _read()
    _check_name(name, book)
    secret = _secret(name)
    with closing(VaultConnection(settings, "keeper")) as connection:
        Clients(connection).put(name, secret)
    typer.echo(f"The client secret of {name} is in Vault; nobody needs to be restarted.")
    if name != SIGN_IN and book.get(name).token_auth == "none":  # noqa: S105 -- no password
        warn(f"{name} has token_auth = none: the secret is not used. Set client_secret_post or client_secret_basic.")


@app.command("forget-secret")
def forget_secret(name: Name) -> None:
    """Destroy CloudPush's client secret at a provider. Repeatable."""
    settings, _ = _read()
    with closing(VaultConnection(settings, "keeper")) as connection:
        Clients(connection).forget(name)
    typer.echo(f"The client secret of {name} is gone.")


@app.command()
def check(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="One of the list; by default all that are offered.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check what can be checked without a user: the table, the provider's metadata, whether the secret is there.

    The exit code is 8 where something is wrong.
    """
    settings, book = _read()
    providers = [book.get(name)] if name else [p for p in book.all() if p.offered]
    with closing(VaultConnection(settings, "worker")) as connection:
        found = {p.name: _troubles(p, book, Clients(connection), settings) for p in providers}
    if as_json:
        print_json(found)
    else:
        for one, troubles in found.items():
            typer.echo(f"{one}: {'nothing found' if not troubles else ''}".rstrip())
            for trouble in troubles:
                typer.echo(f"  {trouble}")
        if not found:
            typer.echo("No provider is offered: register CloudPush at one and give it a client_id.")
    if any(found.values()):
        raise typer.Exit(Exit.UNSOUND)


def _read() -> tuple[Settings, ProviderBook]:
    setup_logs("error", "console")
    settings = read_settings()
    return settings, read_providers(settings)


def _troubles(provider: Provider, book: ProviderBook, clients: Clients, settings: Settings) -> list[str]:
    troubles: list[str] = []
    if not provider.offered:
        troubles.append("client_id is empty: users are not offered it.")
    if not settings.web_url.startswith("https://") and provider.flow is Flow.WEB_IDENTITY:
        troubles.append(
            "CLOUDPUSH_WEB_URL is no https address: AWS cannot fetch the public keys of our identity tokens."
        )
    try:
        resolved = book.resolve(provider)
    except CloudPushError as e:
        troubles.append(f"its metadata: {e}")
        resolved = provider
    if provider.flow is not Flow.CODE:
        return troubles
    troubles += [
        f"{field} is neither in the table nor in its metadata."
        for field in ("authorization_endpoint", "token_endpoint")
        if not getattr(resolved, field)
    ]
    if not resolved.revocation_endpoint:
        troubles.append("It has no revocation_endpoint: users end a grant there themselves" + _where(provider))
    if provider.token_auth != "none":  # noqa: S105 -- no password
        troubles += _secret_troubles(provider, clients)
    return troubles


def _secret_troubles(provider: Provider, clients: Clients) -> list[str]:
    try:
        there = bool(clients.secret(provider.name))
    except CloudPushError as e:
        return [f"its client secret: {e}"]
    return [] if there else [f"its client secret is missing: cloudpush provider set-secret {provider.name}"]


def _where(provider: Provider) -> str:
    return f", at {provider.manage_url}." if provider.manage_url else "."


def _check_name(name: str, book: ProviderBook) -> None:
    if name != SIGN_IN:
        book.get(name)


def _secret(name: str) -> str:
    if sys.stdin.isatty():
        return str(typer.prompt(f"Client secret of {name}", hide_input=True, err=True)).strip()
    text = sys.stdin.read(LIMIT + 1)
    if len(text) > LIMIT:
        raise InputError(
            Code.BAD_INPUT, f"The input is longer than {LIMIT} characters: it is no secret.", field="stdin"
        )
    return text.strip()


def _offered(provider: Provider) -> str:
    return "yes" if provider.offered else "no client_id"


def _as_dict(provider: Provider) -> dict[str, Any]:
    return {
        "name": provider.name,
        "title": provider.title,
        "flow": str(provider.flow),
        "use": str(provider.use),
        "profile": provider.profile,
        "offered": provider.offered,
        "scopes": provider.scopes,
        "rotation": str(provider.rotation),
        "manage_url": provider.manage_url,
    }


def _table(heads: list[str], rows: list[list[str]]) -> None:
    table = Table(*heads, header_style="bold", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console().print(table)
