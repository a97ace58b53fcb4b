"""``cloudpush push`` and ``cloudpush cancel``: what pipelines call."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated
from uuid import UUID

import typer
from rich.markup import escape

from cloudpush.cli.context import console, parse_push_id, print_json, size, warn
from cloudpush.cli.desk import Desk, Row, desk
from cloudpush.cli.exits import ENDINGS, Exit
from cloudpush.cli.handed import Format, handed_over
from cloudpush.cli.handover import refuse_urls, refuse_words
from cloudpush.cli.wait import watch
from cloudpush.errors import Code, InputError
from cloudpush.push.job import Request
from cloudpush.push.states import Overwrite, Package, State, Strength

STRENGTHS = tuple(s.word for s in Strength)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    # Words too many are taken in by us and refused without being repeated: they may be a signed URL.
    app.command(context_settings={"allow_extra_args": True})(push)
    app.command()(cancel)
    app.command()(retry)
    app.command()(wait)


def push(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A file or directory below a source root.")],
    destination: Annotated[
        str,
        typer.Argument(metavar="[DEST]", help="s3://BUCKET/PREFIX (r2://, b2://, minio://, …); not with signed URLs."),
    ] = "",
    credential: Annotated[
        str,
        typer.Option(
            "--credential",
            "-c",
            help="Id or name of one of your credentials, or OWNER/NAME of a shared one; not with signed URLs.",
        ),
    ] = "",
    signed_url: Annotated[
        str, typer.Option(metavar="FILE|-", help="Read one signed URL, or a row as JSON, from a file or stdin.")
    ] = "",
    manifest: Annotated[
        str, typer.Option(metavar="FILE|-", help="Read a signed URL for every file, see docs/signed-urls.md.")
    ] = "",
    manifest_format: Annotated[Format, typer.Option(help="What the manifest is written in.")] = Format.AUTO,
    resign_hook: Annotated[
        str, typer.Option(help="Id or name of a credential of kind resign_hook: whom to ask for fresh URLs.")
    ] = "",
    profile: Annotated[
        str, typer.Option(help="Destination profile; by default the credential's or the scheme's.")
    ] = "",
    min_strength: Annotated[
        str,
        typer.Option(
            help=f"Proof demanded of every file: {', '.join(STRENGTHS[1:])}. Default: checksum; ingest with signed URLs and Azure."
        ),
    ] = "",
    overwrite: Annotated[
        Overwrite, typer.Option(help="What to do about objects that are there already.")
    ] = Overwrite.IF_DIFFERENT,
    include: Annotated[list[str] | None, typer.Option(help="Only paths like this; may be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No paths like this; may be repeated.")] = None,
    package: Annotated[
        Package | None, typer.Option(help="What to write beside the data, see docs/packages.md; not with signed URLs.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="k=v, kept with the push; may be repeated.")] = None,
    idempotency_key: Annotated[str, typer.Option(help="The same key is the same push, however often submitted.")] = "",
    owner: Annotated[str, typer.Option(help="On whose behalf; default: you.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Walk the source, say what would be pushed, store nothing.")
    ] = False,
    wait_: Annotated[
        bool, typer.Option("--wait", "-w", help="Stay until the verdict; the exit code tells it.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="With --wait: give up waiting after so many seconds.")] = None,
    until_paused: Annotated[
        bool, typer.Option("--until-paused", help="With --wait: leave with code 9 when it waits for somebody.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Push SRC into DEST with a credential, or to where signed URLs lead.

    Returns at once with the push's id; with --wait the exit code is 0 succeeded, 3 failed, 4 unverified, 5 cancelled,
    2 refused, 6 not available now, 7 timed out, 9 paused (only with --until-paused).
    """
    refuse_urls(source, destination, credential, resign_hook, *context.args)
    refuse_words(context.args)
    with_urls = bool(signed_url or manifest)
    if with_urls:
        _refuse_beside_urls({"DEST": destination, "--credential": credential, "--profile": profile})
    else:
        _check_key_push(destination, credential, resign_hook)
    request = Request(
        owner=owner,  # who it is without one, and who does it, is the desk's to know
        actor="",
        source=os.path.abspath(source),  # noqa: PTH100 -- symlinks are resolved against the roots, not here
        destination=destination,
        credential=credential,
        profile=profile,
        min_strength=_strength(min_strength) if min_strength else Strength.INGEST if with_urls else None,
        overwrite=overwrite,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        labels=dict(_label(text) for text in label or ()),
        idempotency_key=idempotency_key,
        package=package,
    )
    with desk() as at, handed_over(signed_url, manifest, manifest_format) as urls:
        if dry_run:
            preview = at.preview(request, urls, resign_hook)
            _warn(preview["warnings"])
            _show_preview(preview, as_json=as_json)
            return
        accepted = at.submit(request, urls, resign_hook)
        _tell(accepted)
        if wait_:
            _wait(at, accepted["push"], timeout, as_json=as_json, until_paused=until_paused)
        elif as_json:
            print_json(accepted)
        else:
            typer.echo(str(accepted["push"]))


def wait(
    push_id: Annotated[str, typer.Argument(metavar="PUSH")],
    timeout: Annotated[float | None, typer.Option(help="Give up waiting after so many seconds.")] = None,
    until_paused: Annotated[
        bool, typer.Option("--until-paused", help="Leave with code 9 when it waits for somebody.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Stay until a push has its verdict; exit codes as for push --wait."""
    with desk() as at:
        _wait(at, parse_push_id(push_id), timeout, as_json=as_json, until_paused=until_paused)


def cancel(
    push_id: Annotated[str, typer.Argument(metavar="PUSH")],
    owner: Annotated[str, typer.Option(help="On whose behalf; default: you.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Stop a push within seconds, in mid-file too. What was verified stays at the destination."""
    with desk() as at:
        wanted = parse_push_id(push_id)
        state = at.cancel(wanted, owner)
        if as_json:
            print_json({"push": wanted, "state": state})
        elif state.final:
            typer.echo(f"{wanted} is {state}.")
        else:
            typer.echo(f"{wanted} stops within seconds.")


def retry(
    push_id: Annotated[str, typer.Argument(metavar="PUSH")],
    owner: Annotated[str, typer.Option(help="On whose behalf; default: you.")] = "",
    wait_: Annotated[
        bool, typer.Option("--wait", "-w", help="Stay until the verdict; the exit code tells it.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(help="With --wait: give up waiting after so many seconds.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Push again what did not succeed: the same request as a new push, whose id is printed.

    One that waits for its next attempt goes on at once, as the push that it is.
    """
    with desk() as at:
        accepted = at.retry(parse_push_id(push_id), owner)
        _tell(accepted)
        if wait_:
            _wait(at, accepted["push"], timeout, as_json=as_json, until_paused=False)
        elif as_json:
            print_json(accepted)
        else:
            typer.echo(str(accepted["push"]))


def _wait(at: Desk, push_id: UUID, timeout: float | None, *, as_json: bool, until_paused: bool) -> None:
    row = watch(at.follow(push_id, timeout), quiet=as_json, until_paused=until_paused)
    state = State(row["state"])
    if as_json:
        print_json(row)
    if until_paused and state is State.AWAITING_CONSENT:
        sys.stderr.write(f"{push_id} waits: {_what_for(row, at.web_url)}\n")
        raise typer.Exit(Exit.PAUSED)
    if not state.final:
        sys.stderr.write(f"{push_id} is {state} after {timeout} s; it goes on: cloudpush wait {push_id}\n")
        raise typer.Exit(Exit.TIMED_OUT)
    if not as_json:
        show_verdict(row)
    raise typer.Exit(ENDINGS[state])


def _what_for(row: Mapping[str, object], web_url: str) -> str:
    """What somebody has to do before a paused push goes on."""
    if row["error_code"] != Code.CONSENT_NEEDED:
        return f"see cloudpush needs {row['id']}"
    page = f" at {web_url}/connections" if web_url else ": cloudpush web-link prints where"
    return f"its connection must be made anew. Press Reconnect{page}; it goes on by itself."


COLOURS = {State.SUCCEEDED: "green", State.UNVERIFIED: "yellow", State.FAILED: "red", State.CANCELLED: "yellow"}


def show_verdict(row: dict[str, object]) -> None:
    """A finished push in a few lines."""
    out = console()
    state = State(str(row["state"]))
    out.print(f"[bold {COLOURS[state]}]{state}[/] {row['id']} → {escape(str(row['uri']))}")
    counts = ", ".join(
        f"{row[f'files_{word}']} {word}"
        for word in ("verified", "skipped", "unverified", "failed")
        if row[f"files_{word}"]
    )
    out.print(
        f"  {row['files_total']} files, {size(row['bytes_total'])}: {counts or 'none dealt with'}"  # type: ignore[arg-type]
        + (f"; proved by {row['strength']}" if row["strength"] else "")
    )
    if row["error_code"]:
        code = Code(str(row["error_code"]))
        out.print(f"  [bold]{code}[/] ", end="")
        out.print(str(row["error_message"]), markup=False)
        out.print(f"  {code.actor} must act: {code.fix}" if code.actor != "nobody" else f"  {code.fix}", markup=False)


def _tell(accepted: Row) -> None:
    _warn(accepted["warnings"])
    if not accepted["announced"]:
        sys.stderr.write("The broker is away; the push is stored and goes out by itself when it is back.\n")


def _warn(warnings: Iterable[str]) -> None:
    for text in warnings:
        warn(text)


def _show_preview(preview: Row, *, as_json: bool) -> None:
    if as_json:
        print_json(preview)
    else:
        out = console()
        out.print(
            f"would push {preview['files']} files, {size(preview['bytes'])}, to {preview['destination']}", markup=False
        )
        for f in preview["first"]:
            out.print(f"  {f['path']!r} → {f['key']!r} ({size(f['size'])})", markup=False)
        if preview["files"] > len(preview["first"]):
            out.print(f"  … and {preview['files'] - len(preview['first'])} more")
        for r in preview["refused"]:
            out.print(f"  refused: {r['path']!r}: {r['message']}", markup=False)
    if preview["refusals"]:
        raise typer.Exit(Exit.BAD_INPUT)


def _refuse_beside_urls(given: Mapping[str, str]) -> None:
    for name, value in given.items():
        if value:
            raise InputError(
                Code.BAD_INPUT, f"{name} does not go with signed URLs: they say themselves where to.", field=name
            )


def _check_key_push(destination: str, credential: str, resign_hook: str) -> None:
    for name, value in (("DEST", destination), ("--credential", credential)):
        if not value:
            raise InputError(
                Code.BAD_INPUT,
                f"{name} is missing: give DEST and --credential, or signed URLs by --signed-url or --manifest.",
                field=name,
            )
    if resign_hook:
        raise InputError(
            Code.BAD_INPUT, "--resign-hook goes with --signed-url or --manifest only.", field="resign_hook"
        )


def _strength(word: str) -> Strength:
    try:
        strength = Strength.of(word)
    except KeyError:
        strength = Strength.NONE
    if strength is Strength.NONE:
        raise InputError(
            Code.BAD_INPUT, f"min-strength {word!r} is none of {', '.join(STRENGTHS[1:])}.", field="min_strength"
        )
    return strength


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(Code.BAD_INPUT, f"label {text!r} is not of the form key=value.", field="label")
    return key, value
