"""``cloudpush resign`` and ``cloudpush needs``: a push with signed URLs goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cloudpush.cli.context import console, parse_push_id, print_json, size, warn
from cloudpush.cli.desk import desk
from cloudpush.cli.handed import Format, handed_over
from cloudpush.cli.handover import refuse_urls, refuse_words
from cloudpush.errors import Code, InputError
from cloudpush.push.states import State


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(context_settings={"allow_extra_args": True})(resign)
    app.command()(needs)


def resign(
    context: typer.Context,
    push_id: Annotated[str, typer.Argument(metavar="PUSH")],
    manifest: Annotated[
        str, typer.Option(metavar="FILE|-", help="Read fresh URLs for the files that `cloudpush needs` lists.")
    ] = "",
    manifest_format: Annotated[Format, typer.Option(help="What the manifest is written in.")] = Format.AUTO,
    signed_url: Annotated[
        str, typer.Option(metavar="FILE|-", help="Read one fresh URL, or a row as JSON, from a file or stdin.")
    ] = "",
    owner: Annotated[str, typer.Option(help="On whose behalf; default: you.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Hand over fresh URLs for a push: it goes on where it stopped. They must lead to the same objects."""
    refuse_urls(push_id, *context.args)
    refuse_words(context.args)
    wanted = parse_push_id(push_id)
    with desk() as at, handed_over(signed_url, manifest, manifest_format) as urls:
        if urls is None:
            raise InputError(Code.BAD_INPUT, "Give fresh URLs by --manifest or --signed-url.", field="manifest")
        resigned = at.resign(wanted, owner, urls)
    if as_json:
        print_json(resigned)
        return
    typer.echo(f"{wanted} goes on: rows with fresh URLs {resigned['accepted']}, rows not needed {resigned['ignored']}.")
    if resigned["missing"]:
        warn(f"files that still need a fresh URL: {resigned['missing']}; see cloudpush needs {wanted}")


def needs(
    push_id: Annotated[str, typer.Argument(metavar="PUSH")],
    files: Annotated[int, typer.Option(min=1, help="Show so many files; --json tells all.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """List the files of a push that are not there yet: what fresh URLs are needed for."""
    refuse_urls(push_id)
    wanted = parse_push_id(push_id)
    with desk() as at:
        row = at.push(wanted)
        open_files = () if State(row["state"]).final else at.needs(wanted)
        if as_json:
            _print_needs(row, open_files)
        else:
            _show_needs(row, open_files, files)


def _print_needs(row: Mapping[str, Any], open_files: Iterable[Mapping[str, Any]]) -> None:
    """One JSON document, written row by row: a push may have a million files."""
    head = {"push": row["id"], "state": row["state"], "uri": row["uri"], "code": row["error_code"]}
    text = json.dumps({**head, "planned": row["planned_at"] is not None}, default=str, ensure_ascii=False)
    sys.stdout.write(f'{text[:-1]}, "files": [')
    for number, f in enumerate(open_files):
        need = {**f, "code": f["error_code"]}
        del need["error_code"]
        sys.stdout.write((",\n" if number else "\n") + json.dumps(need, ensure_ascii=False))
    sys.stdout.write("]}\n")


def _show_needs(row: Mapping[str, Any], open_files: Iterable[Mapping[str, Any]], shown: int) -> None:
    out = console()
    state = State(row["state"])
    if state.final:
        out.print(f"{row['id']} is {state}: it needs nothing.", markup=False)
        return
    if not row["planned_at"]:
        out.print(f"{row['id']} is {state} and not planned yet: it needs a URL for every file.", markup=False)
        return
    found = list(islice(open_files, shown + 1))
    table = Table("file", "key", "size", "parts that arrived", "code")
    for f in found[:shown]:
        table.add_row(
            Text(f["path"], overflow="fold"),
            Text(f["key"], overflow="fold"),
            size(f["size"]),
            spans(f["arrived"]),
            f["error_code"] or "",
        )
    out.print(table)
    if len(found) > shown:
        out.print("… and more; --files N shows them, --json tells all.")


def spans(numbers: Iterable[int]) -> str:
    """Rising numbers for people: ``1-3, 7``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in found)
