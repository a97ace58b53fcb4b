"""Commands that are imported when they are called: ``cloudpush push`` does not pay for what ``cloudpush up`` needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any

import typer
import typer.core
import typer.main


class Commands(MutableMapping[str, Any]):
    """Name → command. ``modules``: name → the module below ``cloudpush.cli`` whose ``add_to`` adds it."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded and name in self._modules:
            self._loaded |= load(self._modules[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._modules or name in self._loaded  # asked of every word, known or not: import nothing

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        self._modules.pop(name, None)
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._modules, *self._loaded)))

    def __len__(self) -> int:
        return len({*self._modules, *self._loaded})


def load(module: str) -> dict[str, Any]:
    """The commands that a module adds, by name."""
    part = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    import_module(f"cloudpush.cli.{module}").add_to(part)
    return dict(typer.main.get_group(part).commands)


def group_of(modules: Mapping[str, str]) -> type[typer.core.TyperGroup]:
    """A group of these commands, and of those that its application has beside them."""

    class Lazy(typer.core.TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            eager = attributes.pop("commands", None) or {}
            super().__init__(**attributes)
            self.commands = Commands(modules)
            self.commands.update(eager)

    return Lazy
