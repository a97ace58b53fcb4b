"""`cloudpush login`: a command line signs in by a browser elsewhere (RFC 8628). Public; counted by address."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from cloudpush.push.access.model import Scope
from cloudpush.web.api.limits import LOGINS, POLLS, limits_of
from cloudpush.web.api.paging import Strict, answer

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

PUBLIC: dict[str, Any] = {"security": []}


class Wanted(Strict):
    """What the command wants its token for, and on which machine it runs."""

    model_config = ConfigDict(
        strict=False, json_schema_extra={"examples": [{"scopes": ["submit", "read"], "host": "hpc7"}]}
    )

    scopes: Annotated[list[Scope], Field(min_length=1, max_length=8, default_factory=lambda: list(Scope))]
    host: Annotated[str, Field(max_length=255)] = ""


class Waiting(BaseModel):
    """What to show, and what to ask with."""

    device_code: Annotated[str, Field(description="The command's secret.")]
    user_code: Annotated[str, Field(description="What the user compares or types: XXXX-XXXX.")]
    verification_uri: str
    verification_uri_complete: str
    expires_in: int
    interval: Annotated[int, Field(description="Seconds between two questions.")]


class Device(Strict):
    """Whose token is asked for."""

    device_code: Annotated[str, Field(min_length=1, max_length=200)]


class Confirmed(BaseModel):
    """The token."""

    token: Annotated[str, Field(description="Shown once: keep it as a password.")]
    token_id: UUID
    name: Annotated[str, Field(description="Whom it stands for.")]
    scopes: list[Scope]
    expires_at: datetime


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["access"])

    @made.post(
        "/login/device",
        operation_id="beginLogin",
        summary="Begin to sign in a command line",
        response_model=Waiting,
        openapi_extra=PUBLIC,
    )
    def begin(request: Request, body: Wanted) -> Response:
        services: WebServices = request.app.state.services
        limits = limits_of(request)
        limits.count_address(request, LOGINS)
        begun = services.logins.begin(frozenset(body.scopes), body.host, limits.address(request))
        page = f"{services.settings.web_url.rstrip('/')}/device"
        return answer(
            request,
            {
                "device_code": begun.device_code,
                "user_code": begun.user_code,
                "verification_uri": page,
                "verification_uri_complete": f"{page}?code={begun.user_code}",
                "expires_in": begun.seconds,
                "interval": begun.interval,
            },
        )

    @made.post(
        "/login/token",
        operation_id="finishLogin",
        summary="Fetch the token once somebody has confirmed the code",
        description="LOGIN_PENDING: ask again after `interval` seconds; RATE_LIMITED: that was too soon.",
        response_model=Confirmed,
        openapi_extra=PUBLIC,
    )
    def finish(request: Request, body: Device) -> Response:
        services: WebServices = request.app.state.services
        limits_of(request).count_address(request, POLLS)
        found = services.logins.fetch(body.device_code)
        token = found.token
        return answer(
            request,
            {
                "token": found.text,
                "token_id": token.id,
                "name": token.owner,
                "scopes": [scope for scope in Scope if scope in token.scopes],
                "expires_at": token.expires_at,
            },
        )

    return made
