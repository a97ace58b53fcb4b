"""Commands that a page of the documentation, or a file of ``deploy``, names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import typer

from cloudpush.cli.main import app


@cache
def _root() -> Any:
    """The command line with every command loaded below it: it takes a while to make."""
    return typer.main.get_command(app)


@cache
def _below(group: Any, name: str) -> Any:
    """The command of that name, or None. Made once: lazy groups build theirs anew each time they are asked."""
    return group.commands.get(name)


def unknown(commands: Iterable[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """(word, command) of each that names a command, or an option, that there is not. Each without ``cloudpush`` itself."""
    wrong = []
    for words in commands:
        command: Any = _root()
        for word in words:
            option = word.startswith("-") and word != "-"  # which is standard input
            if hasattr(command, "commands") and not option:
                command = _below(command, word)
            elif option and not any(word.partition("=")[0] in p.opts for p in command.params):
                command = None
            if command is None:
                wrong.append((word, words))
                break
    return wrong
