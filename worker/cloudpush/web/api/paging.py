"""Answers: JSON with a strong ETag; and lists, page by page, with opaque cursors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from cloudpush.errors import Code, InputError
from cloudpush.push.trust.base64url import from_base64url, to_base64url

#: Items of a page, at the most.
MOST = 1000

Limit = Annotated[int, Query(ge=1, le=MOST, description="Items of a page.")]
Cursor = Annotated[str, Query(max_length=500, description="`next` of the page before; empty: the first page.")]

IfNoneMatch = {
    "parameters": [
        {
            "in": "header",
            "name": "If-None-Match",
            "schema": {"type": "string"},
            "description": "ETag of an earlier answer: 304 where nothing has changed.",
        }
    ]
}


class Strict(BaseModel):
    """A body: nothing that we do not know is taken, and nothing is taken for something else."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class Paged(BaseModel):
    """A page of a list. Subclasses say what ``items`` are."""

    next: Annotated[str | None, Field(description="The cursor of the next page; null: this is the last one.")]


def answer(request: Request, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``value`` as JSON. A GET's answer has an ETag, and is 304 where the asker has it already."""
    body = to_json(value)
    if request.method != "GET":
        return Response(body, status, headers, media_type="application/json")
    tag = f'"{hashlib.sha256(body).hexdigest()}"'
    more = {**(headers or {}), "etag": tag, "cache-control": "private, no-cache"}
    if known(request, tag):
        return Response(None, 304, more)
    return Response(body, status, more, media_type="application/json")


def page(request: Request, items: Sequence[Any], next_: str | None) -> Response:
    """A page of a list."""
    return answer(request, {"items": items, "next": next_})


def encode(*parts: str | int | UUID | datetime) -> str:
    """A cursor that stands for ``parts``."""
    texts = [
        part if isinstance(part, int) else part.isoformat() if isinstance(part, datetime) else str(part)
        for part in parts
    ]
    return to_base64url(json.dumps(texts, separators=(",", ":")).encode())


def decode(cursor: str, *sorts: type) -> list[Any] | None:
    """What a cursor stands for: a part of each of ``sorts`` (str, int, UUID, datetime); None for an empty one.

    Raises InputError for what was never ours, or is of another list.
    """
    if not cursor:
        return None
    try:
        parts = json.loads(from_base64url(cursor))
        # strict: of another length, it is of another list
        return [_part(part, sort) for part, sort in zip(parts, sorts, strict=True)]
    except (ValueError, RecursionError, TypeError):
        raise InputError(
            Code.BAD_INPUT, "cursor is none of this list: leave it out to begin with the first page.", field="cursor"
        ) from None


def _part(part: Any, sort: type) -> Any:
    if sort is int:
        if type(part) is not int or not -(2**63) <= part < 2**63:
            raise ValueError
        return part
    if not isinstance(part, str) or "\0" in part:
        raise ValueError
    part.encode()
    if sort is datetime:
        moment = datetime.fromisoformat(part)
        if moment.tzinfo is None:
            raise ValueError
        return moment
    return sort(part)


def known(request: Request, tag: str) -> bool:
    """Whether the asker has the answer with this ETag already."""
    given = request.headers.get("if-none-match", "")
    return given.strip() == "*" or tag in (each.strip().removeprefix("W/") for each in given.split(","))
