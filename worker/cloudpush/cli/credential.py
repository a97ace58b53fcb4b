"""``cloudpush credential``: add, list, show and purge. A secret goes in here and never comes out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from cloudpush.cli import handover
from cloudpush.cli.context import console, parse_time, print_json, warn, when
from cloudpush.cli.desk import NewCredential, Row, desk
from cloudpush.credentials.kinds import KINDS, AccessKey, parse
from cloudpush.errors import Code, InputError

app = typer.Typer(
    name="credential", help="Hand over, look at and destroy the secrets that pushes use.", no_args_is_help=True
)


def add_to(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="credential")


Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Operator = Annotated[
    bool, typer.Option("--operator", help="Act as operator: on everyone's credentials. It is recorded.")
]
Id = Annotated[UUID, typer.Argument(metavar="ID", help="The credential's id, see `cloudpush credential list`.")]


@app.command(
    # Taken in by us and refused in words that do not repeat them: they may be a secret.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def add(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What you call it; unique among your live credentials.")],
    kind: Annotated[str, typer.Option(help=f"The kind of credential: {', '.join(KINDS)}.")] = AccessKey.KIND,
    endpoint: Annotated[str, typer.Option(help="Where the key is valid: https://HOST[:PORT].")] = "",
    region: Annotated[str, typer.Option(help="The region that requests are signed for.")] = "",
    profile: Annotated[str, typer.Option(help="The destination profile that it is meant for; a note.")] = "",
    expires: Annotated[str, typer.Option(help="When it stops being valid: 12h, 30d, or an ISO time (UTC).")] = "",
    purge_after: Annotated[
        str, typer.Option(help="When the secret is destroyed: as above. Default: 30 days after it expires.")
    ] = "",
    owner: Annotated[str, typer.Option(help="Whose it is; another than yourself needs --operator.")] = "",
    from_stdin: Annotated[bool, typer.Option("--from-stdin", help="Read JSON or name=value lines from stdin.")] = False,
    from_file: Annotated[
        Path | None, typer.Option(help="Read JSON, name=value lines or an AWS credentials file.")
    ] = None,
    aws_profile: Annotated[str, typer.Option(help="The section of an AWS credentials file.")] = "",
    from_env: Annotated[bool, typer.Option("--from-env", help="Read AWS_ACCESS_KEY_ID and its siblings.")] = False,
    operator: Operator = False,
    as_json: Json = False,
) -> None:
    """Seal a secret in Vault and print its id. It is asked for, or read as you say; no option takes it."""
    _refuse_extra(context.args)
    fields = _read_secret(kind, stdin=from_stdin, file=from_file, env=from_env, aws_profile=aws_profile)
    ends = fields.pop("expires", "")
    fields |= {k: v for k, v in {"endpoint": endpoint, "region": region}.items() if v}
    checked = parse(kind, fields)
    expires_at = parse_time(expires or ends, "expires", future=True) if expires or ends else None
    purge_at = parse_time(purge_after, "purge_after", future=True) if purge_after else None
    with desk() as at:
        credential = at.add_credential(
            NewCredential(
                secret=checked,
                name=name,
                owner=owner,
                profile=profile,
                expires_at=expires_at,
                purge_after=purge_at,
                operator=operator,
            )
        )
    if as_json:
        print_json(credential)
    else:
        typer.echo(credential["id"])


@app.command("list")
def list_(
    everyone: Annotated[bool, typer.Option("--everyone", help="Act as operator: list everyone's.")] = False,
    purged: Annotated[bool, typer.Option("--purged", help="Include those that were destroyed.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, newest first.")] = 1000,
    as_json: Json = False,
) -> None:
    """List credentials: metadata only."""
    with desk() as at:
        found = at.credentials(everyone=everyone, purged=purged, limit=limit)
    if as_json:
        print_json(found)
        return
    heads = ["id", "owner", "name", "kind", "state", "endpoint", "expires", "purge", "last used"]
    _print_table(heads, [_row(c) for c in found])


@app.command()
def show(credential: Id, operator: Operator = False, as_json: Json = False) -> None:
    """Show one credential's metadata and its last use."""
    with desk() as at:
        found = at.credential(credential, operator=operator)
    _print_one(found, as_json=as_json)


@app.command()
def purge(
    credential: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    operator: Operator = False,
    as_json: Json = False,
) -> None:
    """Destroy the secret in Vault, for good. Its metadata and history stay."""
    with desk() as at:
        named = at.credential(credential, operator=operator)
        if not yes:
            _confirm(named["name"])
        purged = at.purge_credential(credential, operator=operator)
    _print_one(purged, as_json=as_json)


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(Code.BAD_INPUT, "purge destroys the secret for good: confirm with --yes.", field="yes")
    typer.confirm(f"Destroy the secret of {name!r} for good?", abort=True, err=True)


def _refuse_extra(extra: list[str]) -> None:
    if extra:
        # The names of options are harmless; whatever else stands there may be the secret itself.
        options = [o for o in (e.partition("=")[0] for e in extra) if re.fullmatch(r"--[a-z][a-z-]{1,30}", o)]
        what = f"no option {options[0]}" if options else "no arguments"
        raise InputError(
            Code.BAD_INPUT,
            f"credential add takes {what}. A secret never belongs on the command line, where others can read it: "
            "if that was one, replace it, and use the prompt, --from-stdin, --from-file or --from-env.",
            field="arguments",
        )


def _read_secret(kind: str, *, stdin: bool, file: Path | None, env: bool, aws_profile: str) -> dict[str, str]:
    if stdin + env + (file is not None) > 1:
        raise InputError(
            Code.BAD_INPUT, "--from-stdin, --from-file and --from-env exclude each other.", field="from_stdin"
        )
    if stdin:
        return handover.from_stream(sys.stdin, aws_profile)
    if file is not None:
        return handover.from_file(file, aws_profile, warn)
    if env:
        if kind != AccessKey.KIND:
            raise InputError(
                Code.BAD_INPUT,
                f"--from-env reads AWS's variables, which hold no {kind}: use --from-stdin.",
                field="from_env",
            )
        return handover.from_environment(os.environ)
    if not sys.stdin.isatty():
        raise InputError(
            Code.BAD_INPUT, "No terminal to ask on: use --from-stdin, --from-file or --from-env.", field="from_stdin"
        )
    return handover.from_prompt(kind, _ask)


def _ask(label: str, hidden: bool, required: bool) -> str:
    default = None if required else ""
    return str(typer.prompt(label, default=default, hide_input=hidden, show_default=False, err=True))


def _print_one(credential: Row, *, as_json: bool) -> None:
    if as_json:
        print_json(credential)
        return
    texts = {k: when(v) if isinstance(v, datetime) else str("" if v is None else v) for k, v in credential.items()}
    _print_table(["field", "value"], [[*pair] for pair in texts.items()])


def _row(c: Row) -> list[str]:
    expired = c["state"] == "active" and c["expires_at"] is not None and c["expires_at"] <= datetime.now(UTC)
    return [
        str(c["id"]),
        c["owner"],
        c["name"],
        c["kind"],
        "expired" if expired else c["state"],
        c["endpoint"] or (f"profile {c['profile']}" if c["profile"] else ""),
        when(c["expires_at"]),
        when(c["purged_at"] or c["purge_after"]),
        when(c["last_used_at"]),
    ]


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*heads, header_style="bold", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))  # Text: a user's words are no markup
    console().print(table)
