"""One push: where it stands, its parts, files, events and needs."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from cloudpush.audit.history import Row
from cloudpush.errors import Code, InputError
from cloudpush.push.access.model import Principal
from cloudpush.push.states import FileState, State
from cloudpush.web.api import views
from cloudpush.web.api.auth import Asker
from cloudpush.web.api.documents import NOT_MODIFIED, problems
from cloudpush.web.api.paging import Cursor, IfNoneMatch, Limit, answer, decode, encode, page

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices


#: No part and no event of a push has a higher number, nor could the database count that far.
LAST_NUMBER = 2**31 - 1


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["pushes"])
    said = NOT_MODIFIED | problems(404)
    for path, endpoint, name, summary, model in (
        ("", show, "getPush", "One push and where it stands", views.OnePush),
        ("/parts", parts, "listParts", "Its parts, in order", views.PartPage),
        ("/files", files, "listFiles", "Its files, in the order of their paths", views.FilePage),
        ("/events", events, "listEvents", "What happened to it, newest first", views.EventPage),
        ("/needs", needs, "listNeeds", "What it needs fresh signed URLs for", views.NeedPage),
    ):
        made.add_api_route(
            f"/pushes/{{push_id}}{path}",
            endpoint,
            methods=["GET"],
            operation_id=name,
            summary=summary,
            response_model=model,
            response_model_exclude_unset=True,
            openapi_extra=IfNoneMatch,
            responses=said,
        )
    return made


def show(request: Request, asked_by: Asker, push_id: UUID) -> Response:
    """With what its running parts have sent."""
    return answer(request, views.push_view(_row(request, asked_by, push_id)))


def parts(request: Request, asked_by: Asker, push_id: UUID, limit: Limit = 50, cursor: Cursor = "") -> Response:
    """One worker executes one at a time."""
    services = _seen(request, asked_by, push_id)
    found = services.history.parts(push_id, after=min(_after(cursor), LAST_NUMBER), limit=limit + 1)
    rest = encode(found[limit - 1]["number"]) if len(found) > limit else None
    return page(request, [views.part_view(p) for p in found[:limit]], rest)


def files(
    request: Request,
    asked_by: Asker,
    push_id: UUID,
    state: FileState | None = None,
    q: Annotated[str, Query(max_length=500, description="Part of the path.")] = "",
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """With the verdict on each and what proves it."""
    services = _seen(request, asked_by, push_id)
    states = (state,) if state else ()
    found = services.history.file_page(push_id, states=states, text=q, after=_after(cursor), limit=limit)
    rest = encode(found.after) if found.after else None
    return page(request, [views.file_view(f) for f in found.rows], rest)


def events(request: Request, asked_by: Asker, push_id: UUID, limit: Limit = 50, cursor: Cursor = "") -> Response:
    """Each is chained to the one before it by its hash."""
    services = _seen(request, asked_by, push_id)
    given = decode(cursor, int)
    before = max(0, min(given[0], LAST_NUMBER)) if given else None
    found = services.history.events(push_id, before=before, limit=limit + 1, newest=True)
    rows = found[::-1]
    rest = encode(rows[limit - 1]["seq"]) if len(rows) > limit else None
    return page(request, [views.event_view(e) for e in rows[:limit]], rest)


def needs(request: Request, asked_by: Asker, push_id: UUID, limit: Limit = 50, cursor: Cursor = "") -> Response:
    """Nothing, once it is over."""
    row = _row(request, asked_by, push_id)
    services: WebServices = request.app.state.services
    after = _after(cursor)
    items = []
    if not State(row["state"]).final:
        items = list(islice(services.needs(push_id, after), limit + 1))
    rest = encode(items[limit - 1]["seq"]) if len(items) > limit else None
    standing = {"state": row["state"], "planned": row["planned_at"] is not None}
    return answer(request, {**standing, "items": items[:limit], "next": rest})


def _row(request: Request, asked_by: Principal, push_id: UUID) -> Row:
    services: WebServices = request.app.state.services
    return services.history.push(push_id, asked_by.sees)


def _seen(request: Request, asked_by: Principal, push_id: UUID) -> WebServices:
    """The services, to whoever may see this push. Raises AccessError, InputError."""
    _row(request, asked_by, push_id)
    services: WebServices = request.app.state.services
    return services


def _after(cursor: str) -> int:
    found = decode(cursor, int)
    if found is None:
        return 0
    if found[0] < 0:
        raise InputError(Code.BAD_INPUT, "cursor is none of this list.", field="cursor")
    return int(found[0])
