"""Preflights: whether a credential reaches a destination, tried out with a tiny object before any data moves."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from anyio import move_on_after, sleep
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from cloudpush.push.access.model import Principal, Right
from cloudpush.push.preflights import LOOK_SECONDS, Asked
from cloudpush.web.api.auth import Asker
from cloudpush.web.api.documents import NOT_MODIFIED, problems
from cloudpush.web.api.paging import Cursor, IfNoneMatch, Limit, Paged, Strict, answer, decode, encode, page
from cloudpush.web.api.progress import PER_PRINCIPAL
from cloudpush.web.api.submissions import Long, Name
from cloudpush.web.live import Streams

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

WAIT_SECONDS = 60.0
Wait = Annotated[float, Query(ge=0, le=WAIT_SECONDS, description="Seconds to wait for the answer.")]


class Question(Strict):
    """What is to be tried out."""

    model_config = Strict.model_config | {
        "json_schema_extra": {"examples": [{"destination": "s3://lab-archive/run-17", "credential": "lab"}]}
    }

    destination: Long
    credential: Name
    profile: Name = ""
    delete: Annotated[bool, Field(description="Whether deleting is to be possible, too.")] = False
    abort: Annotated[bool, Field(description="Whether aborting an upload is to be possible, too.")] = False
    owner: Name = ""


class Preflight(BaseModel):
    """A preflight and what it found."""

    id: UUID
    owner: str
    actor: str
    push_id: UUID | None
    credential_id: UUID
    credential_kind: str
    destination: str
    profile: str
    wants: list[str]
    state: Annotated[str, Field(description="queued, running; over: passed, failed.")]
    checks: list[dict[str, Any]]
    created_at: datetime
    finished_at: datetime | None
    error_code: str | None
    error_message: str | None


class PreflightPage(Paged):
    """Preflights, newest first."""

    items: list[Preflight]


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["preflights"])
    made.add_api_route(
        "/preflights",
        ask,
        methods=["POST"],
        operation_id="askPreflight",
        summary="Try a destination and a credential out",
        status_code=202,
        response_model=Preflight,
        responses={200: {"model": Preflight, "description": "It is over: with `wait`."}, **problems(404)},
    )
    made.add_api_route(
        "/preflights",
        index,
        methods=["GET"],
        operation_id="listPreflights",
        summary="Preflights, newest first",
        response_model=PreflightPage,
        openapi_extra=IfNoneMatch,
        responses=NOT_MODIFIED,
    )
    made.add_api_route(
        "/preflights/{preflight_id}",
        show,
        methods=["GET"],
        operation_id="getPreflight",
        summary="One preflight and what it found",
        response_model=Preflight,
        openapi_extra=IfNoneMatch,
        responses=NOT_MODIFIED | problems(404),
    )
    return made


async def ask(request: Request, asked_by: Asker, body: Question, wait: Wait = 0) -> Response:
    """A worker writes, reads and removes a tiny object."""
    asked = await run_in_threadpool(_ask, request, asked_by, body)
    streams: Streams = request.app.state.streams
    # Whoever waits keeps no thread busy, and is counted like whoever follows a push; too many of them come again.
    if not streams.full(asked_by.name, PER_PRINCIPAL):
        with streams.one(asked_by.name), move_on_after(wait):
            while not asked.over and not streams.stopping():
                await sleep(LOOK_SECONDS)
                asked = await run_in_threadpool(request.app.state.services.preflights.show, asked.id, asked.owner)
    where = {"location": f"/v1/preflights/{asked.id}"}
    return answer(request, _view(asked), 200 if asked.over else 202, where)


def _ask(request: Request, asked_by: Principal, body: Question) -> Asked:
    services: WebServices = request.app.state.services
    asked_by.need(Right.SUBMIT)
    owner = asked_by.owner_to_act_for(body.owner)
    wants = [name for name, wanted in (("delete", body.delete), ("abort", body.abort)) if wanted]
    return services.preflights.ask(
        owner, asked_by.actor, body.destination, body.credential, profile=body.profile, wants=wants
    )


def index(request: Request, asked_by: Asker, limit: Limit = 50, cursor: Cursor = "") -> Response:
    """What you may see of them."""
    services: WebServices = request.app.state.services
    before = decode(cursor, UUID)
    found = services.preflights.list(asked_by.sees, limit=limit + 1, before=before[0] if before else None)
    rest = encode(found[limit - 1].id) if len(found) > limit else None
    return page(request, [_view(asked) for asked in found[:limit]], rest)


def show(request: Request, asked_by: Asker, preflight_id: UUID) -> Response:
    """Its checks, one by one."""
    services: WebServices = request.app.state.services
    return answer(request, _view(services.preflights.show(preflight_id, asked_by.sees)))


def _view(asked: Asked) -> dict[str, Any]:
    shown = {name: getattr(asked, name) for name in Preflight.model_fields if name != "destination"}
    return shown | {"destination": asked.uri, "wants": list(asked.wants), "checks": list(asked.checks)}
