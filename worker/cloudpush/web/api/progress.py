"""A push while it runs, as server-sent events.

::

    event: state      the push, as GET /v1/pushes/{id} shows it: at first, whenever it is another one, and at the end
    event: progress   {"bytes", "files", "bytes_total", "files_total", "speed", "eta"}
    : …               a comment every few seconds, so that a dead connection is noticed

The stream ends after a final state, and after some minutes: then it is asked for again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from cloudpush.errors import AccessError, CloudPushError, Code
from cloudpush.logs import get_logger
from cloudpush.push.access.model import Principal
from cloudpush.push.states import State
from cloudpush.web.api.auth import Asker, bearer_of
from cloudpush.web.api.documents import problems
from cloudpush.web.api.views import push_view
from cloudpush.web.live import HEARTBEAT_SECONDS, PACE_SECONDS, POLL_SECONDS, STREAM_SECONDS, Listen, Streams, watching

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

log = get_logger(__name__)

Row = Mapping[str, Any]

#: Streams of one principal: a pipeline may wait for many pushes.
PER_PRINCIPAL = 50


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["pushes"])
    made.add_api_route(
        "/pushes/{push_id}/progress",
        progress,
        methods=["GET"],
        operation_id="followPush",
        summary="Follow a push while it runs",
        response_class=Response,
        responses={
            200: {"content": {"text/event-stream": {}}, "description": "Events."},
            **problems(404),
        },
    )
    return made


async def progress(request: Request, asked_by: Asker, push_id: UUID) -> Response:
    """Events `state` (the push) and `progress`; ends after a final state."""
    streams: Streams = request.app.state.streams
    row = await run_sync(_row, request, asked_by, push_id)
    if streams.full(asked_by.name, PER_PRINCIPAL):
        raise AccessError(Code.RATE_LIMITED, "Too many streams are open: ask for the push now and then instead.")
    return StreamingResponse(
        _stream(request, asked_by, push_id, row, streams),
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no", "cache-control": "no-store"},
    )


def _row(request: Request, asked_by: Principal, push_id: UUID) -> Row:
    services: WebServices = request.app.state.services
    return services.history.push(push_id, asked_by.sees)


async def _stream(
    request: Request, asked_by: Principal, push_id: UUID, row: Row, streams: Streams
) -> AsyncIterator[bytes]:
    with streams.one(asked_by.name):
        services: WebServices = request.app.state.services
        watch = await run_sync(watching, services, push_id)
        listen = await run_sync(watch.__enter__)
        try:
            async for chunk in _moments(request, asked_by, push_id, row, listen, streams):
                yield chunk
        except CloudPushError as e:
            log.warning("stream ended", push=str(push_id), code=e.code)
        finally:
            with anyio.CancelScope(shield=True):
                await run_sync(watch.__exit__, None, None, None)


async def _moments(
    request: Request, asked_by: Principal, push_id: UUID, row: Row, listen: Listen, streams: Streams
) -> AsyncIterator[bytes]:
    began = heard = time.monotonic()
    seen: Row = {}
    told: Row = {}
    while not streams.stopping() and time.monotonic() - began < STREAM_SECONDS:
        if _standing(row) != seen:
            seen = _standing(row)
            yield _event("state", push_view(row))
            if State(row["state"]).final:
                return
        if (now := _progress(row)) != told:
            told = now
            yield _event("progress", now)
        if time.monotonic() - heard > HEARTBEAT_SECONDS:
            heard = time.monotonic()
            asked_by = await run_sync(_again, request, asked_by)
            yield b": still here\n\n"
        message = await run_sync(listen, POLL_SECONDS, limiter=streams.limiter)
        if message is not None and "bytes" in message:
            told = _progress(row, message)
            yield _event("progress", told)
            await anyio.sleep(PACE_SECONDS)
        row = await run_sync(_row, request, asked_by, push_id)


_LIVE = ("sent_bytes", "sent_files", "speed", "eta_seconds")


def _standing(row: Row) -> Row:
    """What a `state` event is worth."""
    return {name: value for name, value in push_view(row).items() if name not in _LIVE}


def _progress(row: Row, message: Row | None = None) -> Row:
    sent = message or {"bytes": row["sent_bytes"], "files": row["sent_files"], "speed": row["speed"]}
    done = row["files_verified"] + row["files_skipped"]
    total, files = row["bytes_total"], row["files_total"]
    planned = row["planned_at"] is not None
    return {
        "bytes": min(row["bytes_verified"] + int(sent["bytes"]), total) if planned else 0,
        "files": min(done + int(sent["files"]), files) if planned else 0,
        "bytes_total": total,
        "files_total": files,
        "speed": sent["speed"],
        "eta": sent.get("eta", row["eta_seconds"]),
    }


def _again(request: Request, asked_by: Principal) -> Principal:
    """Who asks, with the roles that they have now. Raises AccessError where the token is good no more."""
    services: WebServices = request.app.state.services
    try:
        return services.access.identify(bearer_of(request))
    except AccessError:
        raise
    except CloudPushError:
        return asked_by  # nobody can say just now


def _event(name: str, value: Row) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(value))
