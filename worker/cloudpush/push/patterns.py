"""Include and exclude patterns of a push.

The rule, whole: shell globs (``*``, ``?``, ``[a-z]``, ``[!a-z]``; case matters), where no wildcard crosses a slash
but the segment ``**``, which stands for any number of directories, none included. A pattern without a slash is
compared with names at every depth (``*.tmp``, ``.git``); one with a slash is compared with the path from
the source on (``raw/*.csv``, ``/notes``, ``runs/**/log``). A trailing slash means directories only. What matches
a directory stands for all that is below it. Exclusion beats inclusion; without include patterns everything is included.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cloudpush.errors import Code, InputError

#: Far above any sensible pattern; bounds the work that one hostile pattern can cause.
_LONGEST = 1_000

_Segment = re.Pattern[str] | None  # None: any number of directories


@dataclass(frozen=True, slots=True)
class Pattern:
    """One compiled pattern. ``segments`` has None for ``**``."""

    segments: tuple[_Segment, ...]
    names_only: bool
    directories_only: bool

    def matches(self, path: Sequence[str], *, directory: bool) -> bool:
        """Whether it matches ``path``, given in segments."""
        if self.directories_only and not directory:
            return False
        return _matches(self.segments, path[-1:] if self.names_only else path)


def compile_patterns(texts: Sequence[str], field: str) -> tuple[Pattern, ...]:
    """``texts`` compiled. Raises InputError BAD_INPUT naming ``field`` and the pattern."""
    return tuple(_compile(text, field) for text in texts)


def _compile(text: str, field: str) -> Pattern:
    body = text.removesuffix("/")
    anchored = "/" in body
    parts = body.removeprefix("/").split("/")
    if len(text) > _LONGEST or "\0" in text or any(part in {"", ".", ".."} for part in parts):
        raise InputError(
            Code.BAD_INPUT,
            f"{field} {text[:200]!r} is not a pattern; write globs such as '*.csv', 'raw/**' or 'cache/'",
            field=field,
        )
    return Pattern(
        segments=tuple(None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts),
        names_only=not anchored,
        directories_only=text.endswith("/"),
    )


def _matches(segments: Sequence[_Segment], path: Sequence[str]) -> bool:
    """Glob matching over whole segments; going back to the last ``**`` only keeps it from being exponential."""
    s = p = 0
    back_s, back_p = -1, 0
    while p < len(path):
        if s < len(segments) and (segment := segments[s]) is not None and segment.match(path[p]):
            s, p = s + 1, p + 1
        elif s < len(segments) and segments[s] is None:
            back_s, back_p = s, p
            s += 1
        elif back_s >= 0:
            back_p += 1
            s, p = back_s + 1, back_p
        else:
            return False
    return all(segment is None for segment in segments[s:])
