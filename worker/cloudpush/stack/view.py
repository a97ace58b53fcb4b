"""What people see: a table that stays up to date on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cloudpush.stack.supervisor import Phase, Watched

_STYLES = {
    Phase.RUNNING: "green",
    Phase.STARTING: "yellow",
    Phase.STOPPING: "yellow",
    Phase.CRASHED: "bold red",
}

#: service, phase, since (local time), pid, version, restarts, where
Row = tuple[str, str, str, str, str, str, str]


def rows(watched: Sequence[Watched]) -> list[Row]:
    """Each service as text."""
    return [
        (
            w.service.name,
            w.phase.value,
            w.since.astimezone().strftime("%H:%M:%S"),
            str(w.pid or ""),
            w.service.version,
            str(w.restarts),
            w.service.where if w.phase is not Phase.WAITING else "",
        )
        for w in watched
    ]


class PlainView:
    """One line for each change; a context like the other view."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._seen: dict[str, Row] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def show(self, watched: Sequence[Watched]) -> None:
        """A line for each service whose phase is another one."""
        for row in rows(watched):
            name, phase, since, pid, version, _, where = row
            if self._seen.get(name, row)[:2] != row[:2] or (name not in self._seen and phase != Phase.WAITING):
                facts = ", ".join(x for x in (version, pid and f"pid {pid}", where) if x)
                self._print(f"{since} {name} {phase}" + (f" ({facts})" if facts and phase == Phase.RUNNING else ""))
            self._seen[name] = row

    def say(self, text: str) -> None:
        """The text."""
        self._print(text)

    def _print(self, text: str) -> None:
        with suppress(OSError):  # a full disk, or a reader that is gone, is no reason to stop services
            self._console.print(Text(text), soft_wrap=True)
            self._console.file.flush()


class LiveView:
    """A table at the bottom of the terminal, and what happened above it."""

    def __init__(self, console: Console) -> None:
        # No refreshing thread: the table changes when a phase does, and we know when that is.
        self._live = Live(console=console, auto_refresh=False)
        self._shown: list[Row] = []

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, watched: Sequence[Watched]) -> None:
        """Draw the table if it has changed."""
        now = rows(watched)
        if now != self._shown:
            self._shown = now
            with suppress(OSError):  # a terminal that is gone
                self._live.update(_table(now), refresh=True)

    def say(self, text: str) -> None:
        """The text, above the table."""
        with suppress(OSError):
            self._live.console.print(Text(text), soft_wrap=True)


def _table(lines: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("service", "state", "since", "pid", "version", "restarts", "where"):
        table.add_column(title, overflow="fold", justify="right" if title in ("pid", "restarts") else "left")
    for name, phase, *rest in lines:
        table.add_row(name, Text(phase, style=_STYLES.get(Phase(phase), "dim")), *(Text(x) for x in rest))
    return table


def view_for(console: Console) -> LiveView | PlainView:
    """The view that fits where the console writes to."""
    return LiveView(console) if console.is_terminal else PlainView(console)
