"""Words of others on a terminal: names of files, what a provider says. They are shown, and obeyed by nobody."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from cloudpush.cli import main
from cloudpush.cli.context import console, harmless, print_json
from cloudpush.errors import CloudPushError, Code

HOSTILE = [
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x1b]52;c;cm0gLXJm\x07",
    "\x9b31m",
    "\u202egnp.exe",
    "\x07",
    "\x7f",
    "\ud800",
]


@pytest.mark.parametrize("words", HOSTILE)
def test_a_table_shows_escapes_and_sends_none(words: str) -> None:
    out = console()
    out.file = io.StringIO()
    table = Table("what")
    table.add_row(Text(f"a {words} b", overflow="fold"))
    out.print(table)
    out.print(f"c {words} d", markup=False)
    told = out.file.getvalue()
    assert not set(words) & set("\x1b\x07\x7f\x9b\u202e\ud800") & set(told)
    assert "a " in told
    assert "d\n" in told


def test_our_own_colours_are_sent() -> None:
    out = harmless(Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=40))
    out.print("[red]red[/] plain\nnext")
    assert out.file.getvalue() == "\x1b[31mred\x1b[0m plain\nnext\n"  # type: ignore[attr-defined]


def test_an_error_with_a_providers_words_says_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    main.show_error(CloudPushError(Code.PROVIDER_UNAVAILABLE, "No \x1b[2J.", detail="\x1b]0;owned\x07"))
    told = capsys.readouterr().err
    assert "owned" in told
    assert "\x1b" not in told


def test_every_command_explains_itself() -> None:
    """Rich reads help as markup, and does not forgive brackets that are none."""
    runner = CliRunner()
    failed = [
        path for path in _commands(get_command(main.app), ()) if runner.invoke(main.app, [*path, "--help"]).exit_code
    ]
    assert not failed


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, (*path, name))


@pytest.mark.parametrize("words", HOSTILE)
def test_json_is_the_same_for_programs_and_harmless_for_terminals(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_json({"path": f"ü {words}"})
    told = capsys.readouterr().out
    assert json.loads(told) == {"path": f"ü {words}"}
    assert "ü" in told
    assert not set(words) & set("\x1b\x07\x7f\x9b\u202e\ud800") & set(told)
