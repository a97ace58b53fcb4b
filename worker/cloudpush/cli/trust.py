"""``cloudpush audit …``: whether the record is what was written, its checkpoints, and the key that signs them."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from contextlib import closing as closed
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from cloudpush.cli.context import console, parse_push_id, print_json, services, when
from cloudpush.cli.exits import Exit
from cloudpush.errors import Code, InputError, VaultError
from cloudpush.push.trust.checkpoints import digest, document, read_document, signed_text

if TYPE_CHECKING:
    from cloudpush.audit.findings import Report, Witness
    from cloudpush.settings import Settings

#: A saved checkpoint: number, SHA-256 of its statement, signature, and what that is over.
Saved = tuple[int, str, bytes, bytes]
#: How long `audit seal` waits for older transactions to be over.
SEAL_SECONDS = 10.0
#: A checkpoint's file is small: what is longer is another file.
MOST_BYTES = 65_536


def add_to(app: typer.Typer) -> None:
    """Add the commands to ``cloudpush audit``."""
    for command in (verify, checkpoints, checkpoint, seal, key):
        app.command()(command)


def verify(
    push_id: Annotated[
        str | None, typer.Argument(metavar="[PUSH]", help="Only this push; default: everything.")
    ] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask Vault.")] = False,
    key_file: Annotated[
        Path | None,
        typer.Option("--key", metavar="PUB", help="The audit key's public half, which you kept: PEM or JWK."),
    ] = None,
    anchors: Annotated[
        list[Path] | None,
        typer.Option("--anchor", metavar="FILE", help="A checkpoint that you saved: the record must have it."),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="An archived month, instead of the record; with --key nothing else is read."),
    ] = None,
    receipt: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A receipt: check it, its push, and whether the record still says the same."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Recompute chains, file digests and checkpoints; exit code 8 if something is not as it was written."""
    if sum(given is not None for given in (push_id, archive, receipt)) > 1:
        raise InputError(Code.BAD_INPUT, "give one of PUSH, --archive and --receipt.", field="receipt")
    if receipt is not None:
        from cloudpush.cli.receipt import verify_with_record  # noqa: PLC0415 -- it knows this module

        verify_with_record(
            receipt, key_file, [_saved(path) for path in anchors or ()], offline=offline, as_json=as_json
        )
        return
    if archive is not None:
        from cloudpush.cli.retention import verify_archive  # noqa: PLC0415 -- it knows this module

        kept = tuple((number, sha256) for number, sha256, _, _ in map(_saved, anchors or ()))
        verify_archive(archive, key_file, kept, offline=offline, as_json=as_json)
        return
    from cloudpush.audit.integrity import verify as verify_record  # noqa: PLC0415 -- not for every command to load

    saved = [_saved(path) for path in anchors or ()]
    with services() as built, ExitStack() as closing:
        witness, trouble = outside_witness(built.settings, key_file, closing, offline=offline)
        witness = replace(witness, saved=tuple((number, sha256) for number, sha256, _, _ in saved))
        report = verify_record(built.database, parse_push_id(push_id) if push_id else None, witness)
        blame_saved(report, saved, witness)
    if push_id and not report.streams:
        raise InputError(Code.UNKNOWN_PUSH, f"push {push_id} is not known.", field="push")
    report.unchecked.extend([trouble] if trouble else [])
    tell(report, as_json=as_json)
    if not report.sound:
        raise typer.Exit(Exit.UNSOUND)


def blame_saved(report: Report, saved: Sequence[Saved], witness: Witness) -> None:
    """A saved checkpoint is one only if it is signed."""
    for number, _, signature, text in saved:
        if witness.signed is not None and not witness.signed(signature, text):
            report.blame(None, None, f"the saved checkpoint {number} is not signed by the audit key")


def tell(report: Report, *, as_json: bool, more: Mapping[str, Any] | None = None) -> None:
    """Print what was found. ``more``: what the JSON has besides."""
    from cloudpush.audit.inspections import summary  # noqa: PLC0415 -- not for every command to load

    if as_json:
        print_json(summary(report) | dict(more or {}))
        return
    out = console()
    for fault in report.faults:
        out.print(f"[red]✗[/] {fault.stream or 'the record'}: {escape(fault.what)}")
    for word in report.unchecked:
        out.print(f"[yellow]?[/] not checked: {escape(word)}")
    colour, word = ("green", "sound") if report.sound else ("red", f"{len(report.faults) + report.unlisted} faults")
    out.print(
        f"[bold {colour}]{word}[/]: {report.streams} chains, {report.events} events, "
        f"{report.files} file rows of {report.parts} parts checked; "
        f"{report.sealed} events sealed by {report.checkpoints} checkpoints"
    )
    if report.pseudonymised:
        out.print(f"{report.pseudonymised} events had somebody's name replaced, by command")
    if report.retired_months:
        out.print(
            f"dropped by command, and in archives: {report.retired_events} events and {report.retired_files} file rows "
            f"of {', '.join(report.retired_months)}"
        )


def outside_witness(
    settings: Settings, key_file: Path | None, closing: ExitStack, *, offline: bool
) -> tuple[Witness, str]:
    """What stands outside of the database; and why Vault said nothing, where it was asked in vain.

    Once ``closing`` is closed it says nothing any more.
    """
    from cloudpush.audit.findings import Witness  # noqa: PLC0415 -- not for every command to load
    from cloudpush.credentials.connection import VaultConnection  # noqa: PLC0415 -- likewise
    from cloudpush.wiring.trust import witness_of  # noqa: PLC0415 -- likewise

    witness, trouble = Witness(), ""
    if not offline:
        connection = closing.enter_context(closed(VaultConnection(settings, "intake")))
        try:
            witness = witness_of(settings, connection)
        except VaultError as e:
            trouble = f"what Vault knows: {e.message}"
    if key_file is not None:
        witness = replace(witness, signed=signed_with(key_file))
    return witness, trouble


def signed_with(key_file: Path) -> Callable[[bytes, bytes], bool]:
    """(signature, text) → whether a key in the file made it. Raises InputError."""
    from cloudpush.credentials.ed25519 import read_public_key  # noqa: PLC0415 -- not for every command to load
    from cloudpush.wiring.trust import signed_by  # noqa: PLC0415 -- likewise

    return signed_by([key.raw for key in read_public_key(_read(key_file, "key"))])


def checkpoints(
    before: Annotated[int | None, typer.Option(metavar="NUMBER", help="Only older ones: the next page.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="At most so many, newest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List checkpoints, newest first, and how many events none has sealed yet."""
    from cloudpush.audit.checkpoints import CheckpointBook  # noqa: PLC0415 -- not for every command to load

    with services() as built:
        book = CheckpointBook(built.database)
        rows, unsealed = book.list(before=before, limit=limit), book.status()["unsealed"]
    if as_json:
        print_json({"checkpoints": [_plain(row) for row in rows], "unsealed": unsealed})
        return
    table = Table("number", "made (UTC)", "events", "event ids", Column("root", no_wrap=True))
    for row in rows:
        span = f"{row['first_id']}–{row['last_id']}"
        table.add_row(str(row["number"]), when(row["made_at"]), str(row["events"]), span, row["root"].hex()[:16])
    out = console()
    out.print(table)
    out.print(f"{unsealed} events are not sealed yet.")


def checkpoint(
    number: Annotated[int | None, typer.Argument(help="Which; default: the newest.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write it there: keep it where whoever owns the database is not.")
    ] = None,
) -> None:
    """Print one checkpoint with its signature, or save it, to compare the record with later."""
    from cloudpush.audit.checkpoints import CheckpointBook  # noqa: PLC0415 -- not for every command to load

    with services() as built:
        row = CheckpointBook(built.database).one(number)
    if row is None:
        wanted = f"checkpoint {number}" if number is not None else "a checkpoint"
        raise InputError(Code.BAD_INPUT, f"there is no such thing as {wanted} yet.", field="number")
    text = document(row["statement"].encode(), bytes(row["signature"]))
    if save is None:
        console().print(text.decode(), markup=False, highlight=False, soft_wrap=True)
        return
    path = save / f"checkpoint-{row['number']}.json"
    try:
        save.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text + b"\n")
    except OSError as e:
        raise InputError(Code.BAD_INPUT, f"{path} cannot be written: {e.strerror}.", field="save") from e
    console().print(f"{path}", markup=False, highlight=False, soft_wrap=True)


def seal(
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="Go on after checkpoints that the record lost, such as by a restored backup: the next one says so.",
        ),
    ] = False,
) -> None:
    """Seal what is not sealed yet, now, instead of within the next minute."""
    from contextlib import ExitStack  # noqa: PLC0415 -- only here

    from cloudpush.wiring.trust import make_sealing  # noqa: PLC0415 -- not for every command to load

    with services() as built, ExitStack() as closing:
        sealing = make_sealing(built.settings, built.database, closing)
        deadline = time.monotonic() + SEAL_SECONDS
        made = sealing.once(accept_loss=accept_loss)
        while made is None and sealing.pending and time.monotonic() < deadline:
            time.sleep(0.1)
            made = sealing.once(accept_loss=accept_loss)
    if made is not None:
        console().print(f"checkpoint {made.statement.number}: {made.statement.events} events sealed")
    else:
        late = "older transactions are not over yet: try again." if sealing.pending else "there is nothing new to seal."
        console().print(late)


def key(
    jwks: Annotated[bool, typer.Option("--jwks", help="As a JSON Web Key Set.")] = False,
) -> None:
    """Print the public keys that checkpoints and receipts are signed with: PEM, the newest first."""
    from cloudpush.credentials.ed25519 import jwk_of, pem_of  # noqa: PLC0415 -- not for every command to load
    from cloudpush.wiring import audit_keys  # noqa: PLC0415 -- likewise

    with services() as built:
        keys = audit_keys(built.settings)[::-1]
    if jwks:
        print_json({"keys": [jwk_of(k.raw) for k in keys]})
    else:
        typer.echo("".join(pem_of(k.raw) for k in keys), nl=False)


def _saved(path: Path) -> Saved:
    """(number, SHA-256 of its statement, signature, what it is over) of a saved checkpoint. Raises InputError."""
    try:
        statement, text, signature = read_document(_read(path, "anchor").rstrip(b"\n"))
    except ValueError as e:
        raise InputError(Code.BAD_INPUT, f"{path} is no saved checkpoint: {e}.", field="anchor") from e
    return statement.number, digest(text), signature, signed_text(text)


def _read(path: Path, field: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError as e:
        raise InputError(Code.BAD_INPUT, f"{path} cannot be read: {e.strerror}.", field=field) from e


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"root": row["root"].hex(), "signature": base64.b64encode(row["signature"]).decode()}
