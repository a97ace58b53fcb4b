"""Commands that a page of the documentation, or a file of ``deploy``, names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import typer

from cloudpush.cli.main import app


def unknown(commands: Iterable[Sequence[str]]) -> list[tuple[str, Sequence[str]]]:
    """(word, command) of each that names a command, or an option, that there is not. Each without ``cloudpush`` itself."""
    wrong = []
    for words in commands:
        command: Any = typer.main.get_command(app)
        for word in words:
            option = word.startswith("-") and word != "-"  # which is standard input
            if hasattr(command, "commands") and not option:
                command = command.commands.get(word)
            elif option and not any(word.partition("=")[0] in p.opts for p in command.params):
                command = None
            if command is None:
                wrong.append((word, words))
                break
    return wrong
