"""The API's application: routers, errors, what surrounds them, and its own description.

A router's module has ``router() -> APIRouter`` with whole paths (``/pushes/{push_id}``) and plain ``def`` endpoints, and is a line
of ``ROUTERS``. Who asks is ``Asker`` (``auth``); an operation
without it says ``openapi_extra={"security": []}``. Services are ``request.app.state.services``.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from cloudpush.errors import CloudPushError
from cloudpush.web.api import (
    audit,
    credentials,
    destinations,
    keys,
    login,
    meta,
    openapi,
    preflights,
    problems,
    progress,
    pushes,
    reading,
    receipts,
    submitting,
    tokens,
)
from cloudpush.web.api.documents import ANYWHERE
from cloudpush.web.api.documents import problems as documented
from cloudpush.web.api.edges import Edges, known_query
from cloudpush.web.api.turns import Turns
from cloudpush.web.live import Streams

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

#: Modules of routes. One line each.
ROUTERS: tuple[ModuleType, ...] = (
    pushes,  # at first: asked for most
    reading,
    meta,
    audit,
    progress,
    receipts,
    credentials,
    destinations,
    preflights,
    tokens,
    login,
    submitting,
    keys,
)


def make_api(services: WebServices, streams: Streams | None = None) -> FastAPI:
    """The API as an ASGI application, to be mounted at /v1."""
    api = FastAPI(
        title="CloudPush",
        version="1",
        summary="Asynchronous, verified and audited pushes of research datasets into users' own cloud buckets.",
        openapi_url=None,  # ours has an ETag, see meta
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Its records would hold what was sent: bodies and queries with URLs that open something.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        exception_handlers={
            CloudPushError: problems.on_error,
            HTTPException: problems.on_error,
            RequestValidationError: problems.on_error,
        },
        middleware=[Middleware(Edges)],
        dependencies=[Depends(known_query)],
    )
    api.state.services = services
    api.state.streams = streams or Streams(lambda: False)
    api.state.turns = Turns()
    for module in ROUTERS:
        api.include_router(module.router(), responses=documented(*ANYWHERE))
    openapi.describe(api)
    return api
