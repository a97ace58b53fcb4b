"""``cloudpush receipt``: fetch what was signed about a push, and check such a file anywhere, offline."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.text import Text

from cloudpush.cli import trust
from cloudpush.cli.context import console, parse_push_id, print_json, services, size, visible
from cloudpush.cli.desk import desk
from cloudpush.cli.exits import Exit
from cloudpush.credentials.ed25519 import jwk_of, pem_of, read_public_key
from cloudpush.credentials.ed25519 import verify as verify_signature
from cloudpush.errors import Code, InputError
from cloudpush.push.trust.checking import Proved, check_receipt

app = typer.Typer(help="Signed receipts: fetch one, or check one offline.", no_args_is_help=True)

#: Local files that differ, and are named.
NAMED = 20
CHUNK = 1024 * 1024


def add_to(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="receipt")


@app.command()
def get(
    push_id: Annotated[str, typer.Argument(metavar="PUSH")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there; default: to stdout.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait until it is signed.")] = 0,
) -> None:
    """Fetch the receipt of a push that is over. Its bytes are fixed: keep them as they are."""
    wanted = parse_push_id(push_id)
    try:
        with desk() as at:
            if output is not None:
                at.receipt(wanted, output, timeout)
                return
            with tempfile.TemporaryDirectory(prefix="cloudpush-") as scratch:
                with at.receipt(wanted, Path(scratch) / "receipt", timeout).open("rb") as source:
                    shutil.copyfileobj(source, sys.stdout.buffer)
                sys.stdout.buffer.flush()
    except TimeoutError as e:
        raise InputError(Code.RECEIPT_PENDING, f"push {wanted} has no receipt yet.", field="push") from e


@app.command()
def key(
    as_json: Annotated[bool, typer.Option("--json", help="As a JWKS and not as PEM.")] = False,
) -> None:
    """Print the public keys that this installation signs receipts with, oldest first. Hand them to whoever checks."""
    with desk() as at:
        raws = [key.raw for key in read_public_key(at.keys())]
    if as_json:
        print_json({"keys": [jwk_of(raw) for raw in raws]})
    else:
        typer.echo("".join(map(pem_of, raws)), nl=False)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A receipt; - for stdin.")],
    keys: Annotated[
        Path, typer.Option("--key", metavar="PUB", help="The issuer's public keys: PEM, a JWK, or what /v1/keys gave.")
    ],
    files: Annotated[
        Path | None, typer.Option("--files", metavar="DIR", help="Also hash the files below DIR, and compare.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Check a receipt offline: neither settings nor a network are needed. Exit code 8 if it does not hold."""
    trusted = {key.kid: key.raw for key in read_public_key(_read(keys, "key"))}
    local = Local(files) if files else None
    try:
        with _open(file) as source:
            proved = check_receipt(source, trusted, verify_signature, local.compare if local else lambda _: None)
    except InputError as e:
        if e.code is not Code.RECEIPT_INVALID:
            raise
        if as_json:
            print_json({"valid": False, "code": e.code, "reason": e.message})
        else:
            console().print(f"[bold red]NOT VALID[/] {visible(e.message)}", markup=True)
        raise typer.Exit(Exit.UNSOUND) from None
    if local and not proved.with_files:
        raise InputError(
            Code.BAD_INPUT, "this receipt does not list its files, so that none can be compared.", field="files"
        )
    if as_json:
        compared = {"compared": local.compared, "differ": local.differ} if local else None
        print_json(
            {"valid": True, "kid": proved.kid, "files_listed": proved.with_files, "local": compared}
            | {"statement": proved.statement}
        )
    else:
        _tell(proved, local)
    if local and local.differ:
        raise typer.Exit(Exit.UNSOUND)


def verify_with_record(
    file: Path, key_file: Path | None, saved: Sequence[trust.Saved], *, offline: bool, as_json: bool
) -> None:
    """``cloudpush audit verify --receipt``: by the key, and against the record."""
    from cloudpush.audit.findings import Report  # noqa: PLC0415 -- not for every command to load
    from cloudpush.audit.receipt_check import verify_receipt  # noqa: PLC0415 -- likewise
    from cloudpush.wiring import audit_keys  # noqa: PLC0415 -- likewise

    if offline and key_file is None:
        raise InputError(Code.BAD_INPUT, "a receipt is checked by the public key: give --key.", field="key")
    placed, wrong = None, None
    with services() as built, ExitStack() as closing:
        witness, trouble = trust.outside_witness(built.settings, key_file, closing, offline=offline)
        witness = replace(witness, saved=tuple((number, sha256) for number, sha256, _, _ in saved))
        if key_file is not None:
            trusted = {key.kid: key.raw for key in read_public_key(_read(key_file, "key"))}
        else:
            trusted = {key.kid: key.raw for key in audit_keys(built.settings)}

        def read(on_file: Callable[[Mapping[str, Any]], None]) -> Proved:
            with _file(file) as source:
                return check_receipt(source, trusted, verify_signature, on_file)

        try:
            proved = read(lambda _: None)
        except InputError as e:
            if e.code is not Code.RECEIPT_INVALID:
                raise
            report, wrong = Report(), e.message
            report.blame(None, None, e.message)
        else:
            report, placed = verify_receipt(built.database, proved, read, witness)
        trust.blame_saved(report, saved, witness)
    report.unchecked.extend([trouble] if trouble else [])
    told = {"valid": wrong is None, **(asdict(placed) if placed else {})}
    trust.tell(report, as_json=as_json, more={"receipt": told})
    if placed and not as_json:
        sealed = f", sealed by checkpoint {placed.sealed_by}" if placed.sealed_by else ""
        issued = f"event {placed.issued} tells of it" if placed.issued else "no event at hand tells of it"
        files = {"same": "its files are the record's", "differ": "its files are not the record's"}
        tail = files.get(placed.files, "its files were not compared")
        console().print(f"receipt of push {placed.push}: made after event {placed.after}{sealed}; {issued}; {tail}")
    if not report.sound:
        raise typer.Exit(Exit.UNSOUND)


class Local:
    """Files of this machine, compared with those of a receipt as it is read."""

    def __init__(self, top: Path) -> None:
        if not top.is_dir():
            raise InputError(Code.BAD_INPUT, f"{str(top)!r} is no directory.", field="files")
        self._top = top.resolve()
        self.compared = 0
        self.differ = 0
        self.named: list[tuple[str, str]] = []

    def compare(self, told: Mapping[str, Any]) -> None:
        """One file. Those without a digest were never read, and are passed over."""
        if told["sha256"] is None:
            return
        self.compared += 1
        if why := self._difference(told):
            self.differ += 1
            if len(self.named) < NAMED:
                self.named.append((told["path"], why))

    def _difference(self, told: Mapping[str, Any]) -> str:
        path = self._top / told["path"]
        try:
            if not path.resolve().is_relative_to(self._top):
                return "leads out of the directory"
            with path.open("rb") as source:
                digest, length = hashlib.sha256(), 0
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    length += len(chunk)
        except (OSError, ValueError, RuntimeError) as e:
            return "is not there" if isinstance(e, FileNotFoundError) else "cannot be read"
        if length != told["size"]:
            return f"has {length:,} bytes, not {told['size']:,}"
        return "" if digest.hexdigest() == told["sha256"] else "has other bytes"


def _tell(proved: Proved, local: Local | None) -> None:
    """What is proved, in plain words."""
    out, stated = console(), proved.statement
    push, verdict, files = stated["push"], stated["verdict"], stated["files"]
    credential, states = stated["credential"], files["states"]
    out.print("[bold green]VALID[/] Every byte of this receipt is as it was signed.")
    counts = ", ".join(f"{count:,} {state}" for state, count in states.items()) or "none"
    rows = (
        ("issued by", f"{stated['issuer'] or 'an installation without a web address'} at {stated['issued_at']}"),
        ("signed with", f"Ed25519 key {proved.kid}"),
        ("push", f"{push['id']} of {push['owner']}, asked for by {push['actor']}"),
        ("from", push["source"]),
        ("to", push["destination"] + (f" (profile {push['profile']})" if push["profile"] else "")),
        ("with", f"{credential['kind']} {credential['id']}" + _of(credential["owner"], push["owner"])),
        ("verdict", f"{verdict['state']}" + (f" ({verdict['code']})" if verdict["code"] else "")),
        (
            "proved by",
            f"{verdict['strength'] or 'nothing'}, the weakest of its files; {push['min_strength']} was asked for",
        ),
        ("ended", verdict["finished_at"]),
        ("files", f"{files['count']:,} ({counts}), {size(files['bytes'])}"),
    )
    for name, value in rows:
        out.print(Text(f"  {name:<12}{value}"))
    if not proved.with_files:
        out.print("  Its files are not included: it has the hash over all of them, and not their names.")
    if local:
        same = local.compared - local.differ
        out.print(f"  Of {local.compared:,} files with a digest {same:,} are the same here.")
        for path, why in local.named:
            out.print(Text(f"  ✗ {path}: {why}"))
        if local.differ > len(local.named):
            out.print(f"  … and {local.differ - len(local.named):,} more.")


def _of(owner: str, pusher: str) -> str:
    return f", shared by {owner}" if owner != pusher else ""


@contextmanager
def _open(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    with _file(file) as source:
        yield source


@contextmanager
def _file(file: Path) -> Iterator[BinaryIO]:
    """A receipt's file. Raises InputError where it cannot be read."""
    try:
        source = file.open("rb")
    except OSError as e:
        raise _unreadable(file, e, "receipt") from e
    with source:
        yield source


def _read(file: Path, field: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as e:
        raise _unreadable(file, e, field) from e


def _unreadable(file: Path, error: OSError, field: str) -> InputError:
    return InputError(Code.BAD_INPUT, f"{str(file)!r} cannot be read: {error.strerror}.", field=field)
