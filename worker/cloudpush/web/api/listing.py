"""The list of pushes: its filter, and its pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloudpush.audit.history import Filter, History, Row
from cloudpush.errors import Code, InputError
from cloudpush.push.states import Strength


def which(*, strength: str, labels: Sequence[str], **asked: Any) -> Filter:
    """The filter. Raises InputError for a label that is none."""
    wanted = {name: value for name, value in asked.items() if value not in ("", None)}
    if strength:
        wanted["strength"] = Strength.of(strength)
    pairs = [_pair(label) for label in labels]
    if pairs:
        wanted["labels"] = tuple(pairs)
    for name, value in wanted.items():
        if isinstance(value, str) and "\0" in value:
            raise InputError(Code.BAD_INPUT, f"{name} holds a NUL character.", field=name)
    return Filter(**wanted)


def find(history: History, wanted: Filter, limit: int, cursor: str) -> tuple[Sequence[Row], str | None]:
    """A page, newest first, and the cursor of the next. Raises InputError for a cursor that is none of ours."""
    found = history.page(wanted, limit=limit, cursor=cursor or None)
    return found.rows, found.next or None


def _pair(label: str) -> tuple[str, str]:
    key, equals, value = label.partition("=")
    if not equals or "\0" in label:
        raise InputError(Code.BAD_INPUT, "label is not of the form KEY=VALUE.", field="label")
    return key, value
