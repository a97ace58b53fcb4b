"""What every command needs: services, built once, and the person at the keyboard."""

from __future__ import annotations

import getpass
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer
from rich.console import Console, ConsoleOptions, RenderHook
from rich.segment import Segment

from cloudpush.errors import Code, InputError
from cloudpush.push.states import Strength

if TYPE_CHECKING:
    from cloudpush.wiring import Services

#: Control characters but the line's end, and what is seen as nothing or turns a text around.
_UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@contextmanager
def services() -> Iterator[Services]:
    """Services for one command; warnings go to stderr in plain words."""
    from cloudpush.logs import setup_logs  # noqa: PLC0415 -- what works through the API needs none of these
    from cloudpush.settings import read_settings  # noqa: PLC0415 -- likewise
    from cloudpush.wiring import build  # noqa: PLC0415 -- likewise

    setup_logs("error", "console")
    built = build(read_settings())
    try:
        yield built
    finally:
        built.close()


def os_user() -> str:
    """The account that runs this command: the default owner and the actor in the audit."""
    return getpass.getuser()


def warn(text: str) -> None:
    """A warning on stderr; what it is about goes on."""
    typer.secho(f"Warning: {text}", err=True, fg="yellow")


def console() -> Console:
    """Where tables go: wide enough for a path when it is no terminal."""
    return harmless(Console(highlight=False, width=None if sys.stdout.isatty() else 160))


def harmless(made: Console) -> Console:
    """``made``, on which nobody's words but ours say anything to the terminal: file names and providers' words may hold escapes."""
    made.push_render_hook(_Hook())
    return made


class _Hook(RenderHook):
    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        return [_Seen(one) for one in renderables]


class _Seen:
    """What is printed, with every character seen and none obeyed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __rich_console__(self, made: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Text is text here; what rich itself tells the terminal is in styles and in control segments."""
        for segment in made.render(self._inner, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def visible(text: str) -> str:
    """``text`` with what controls a terminal, or turns the direction of a line around, as it would be written in Python."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    text = json.dumps(value, default=_plain, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    # In JSON, too: what is above ASCII would stand there as it is.
    sys.stdout.write(_UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def parse_time(text: str, field: str, *, future: bool = False) -> datetime:
    """An ISO date or time (UTC unless it says otherwise), or a span such as ``7d``: ago, or from now.

    Raises InputError.
    """
    if text[-1:] in UNITS and text[:-1].isdigit():
        span = timedelta(**{UNITS[text[-1]]: int(text[:-1])})
        return datetime.now(UTC) + (span if future else -span)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as e:
        raise InputError(
            Code.BAD_INPUT,
            f"{field} {text!r} is no time: write 2026-01-31, 2026-01-31T12:00Z or a span such as 7d.",
            field=field,
        ) from e
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_push_id(text: str) -> UUID:
    """A push's id as users type it. Raises InputError."""
    try:
        return UUID(text)
    except ValueError as e:
        raise InputError(Code.UNKNOWN_PUSH, f"push {text!r} is no push id.", field="push") from e


def parse_strength(word: str) -> Strength:
    """A strength as users type it. Raises InputError."""
    try:
        return Strength.of(word)
    except KeyError:
        words = ", ".join(s.word for s in Strength)
        raise InputError(Code.BAD_INPUT, f"strength {word!r} is none of {words}.", field="strength") from None


def size(count: float | None) -> str:
    """Bytes for people."""
    value = float(count or 0)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError  # the last unit always returns


def when(moment: datetime | None) -> str:
    """A time for people, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else ""
