"""Who asks, their tokens, and roles."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from cloudpush.push.access.desk import TOKEN_NAME_LENGTH
from cloudpush.push.access.model import Right, Role, Scope
from cloudpush.push.access.names import NAME_LENGTH
from cloudpush.web.api.auth import Asker
from cloudpush.web.api.documents import NOT_MODIFIED, problems
from cloudpush.web.api.paging import IfNoneMatch, Paged, Strict, answer, page

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

_EXAMPLE: dict[str, Any] = {
    "id": "0b6f4f2e-5a7e-4f0c-9b62-3d0f6f1f9a10",
    "owner": "ada@lab.example",
    "name": "nightly run",
    "role": "pipeline",
    "scopes": ["submit", "read"],
    "created_at": "2026-01-31T12:00:00Z",
    "created_by": "ada@lab.example",
    "expires_at": "2026-05-01T12:00:00Z",
    "used_at": None,
    "revoked_at": None,
}


class Me(BaseModel):
    """Who asks, and what they may with the token in hand."""

    name: str
    roles: list[Role]
    scopes: list[Scope]
    via: Annotated[str, Field(description="token or jwt")]
    token_id: UUID | None
    expires_at: datetime | None
    rights: list[str]


class Token(BaseModel):
    """A token's metadata. The token itself is in no answer but the one that made it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: UUID
    owner: str
    name: str
    role: Annotated[Role | None, Field(description="At most this one of its owner's roles; null: all that they have.")]
    scopes: list[Scope]
    created_at: datetime
    created_by: str
    expires_at: datetime
    used_at: Annotated[datetime | None, Field(description="To the minute.")]
    revoked_at: datetime | None


class NewToken(Strict):
    """What is wanted of a token."""

    model_config = ConfigDict(
        strict=False,  # words of an enumeration come as text
        json_schema_extra={
            "examples": [{"name": "nightly run", "scopes": ["submit", "read"], "role": "pipeline", "days": 90}]
        },
    )

    name: Annotated[str, Field(min_length=1, max_length=TOKEN_NAME_LENGTH)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=8)]
    role: Role | None = None
    days: Annotated[int | None, Field(ge=1, le=3650, strict=True)] = None
    owner: Annotated[str, Field(max_length=NAME_LENGTH)] = ""


class MadeToken(Token):
    """A new token."""

    token: Annotated[str, Field(description="Shown once: keep it as a password.")]


class Tokens(Paged):
    """Living tokens."""

    items: list[Token]


class Granted(BaseModel):
    """A role; whoever has none is a `user`."""

    principal: str
    role: Role
    granted_at: datetime
    granted_by: str


class Roles(Paged):
    """Who has which."""

    items: list[Granted]


class ForWhom(Strict):
    """A role for somebody."""

    model_config = ConfigDict(strict=False)

    principal: Annotated[str, Field(min_length=1, max_length=NAME_LENGTH)]
    role: Role


Owner = Annotated[str, Query(max_length=NAME_LENGTH, description="Another's, for administrators.")]


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["access"])

    @made.get(
        "/me",
        operation_id="whoAmI",
        summary="Who asks, and what they may",
        response_model=Me,
        openapi_extra=IfNoneMatch,
        responses=NOT_MODIFIED,
    )
    def me(request: Request, asked_by: Asker) -> Response:
        used = _services(request).tokens.used(asked_by)
        return answer(
            request,
            {
                "name": asked_by.name,
                "roles": [role for role in Role if role in asked_by.roles],
                "scopes": [scope for scope in Scope if scope in asked_by.scopes],
                "via": asked_by.via,
                "token_id": asked_by.token_id,
                "expires_at": used.expires_at if used else None,
                "rights": [right for right in Right if asked_by.may(right)],
            },
        )

    @made.get(
        "/tokens",
        operation_id="listTokens",
        summary="Living tokens, newest first",
        response_model=Tokens,
        openapi_extra=IfNoneMatch,
        responses=NOT_MODIFIED,
    )
    def tokens(request: Request, asked_by: Asker, owner: Owner = "") -> Response:
        found = _services(request).tokens.list(asked_by, owner)
        return page(request, [token.row() for token in found], None)

    @made.post(
        "/tokens",
        operation_id="createToken",
        summary="Make a token: shown once",
        status_code=201,
        response_model=MadeToken,
    )
    def create(request: Request, asked_by: Asker, body: NewToken) -> Response:
        made = _services(request).tokens.create(
            asked_by, body.name, frozenset(body.scopes), role=body.role, days=body.days, owner=body.owner
        )
        return answer(request, {**made.token.row(), "token": made.text}, 201)

    @made.delete(
        "/tokens/{token_id}",
        operation_id="revokeToken",
        summary="End a token within two seconds; everybody may end the one in use",
        status_code=204,
        response_class=Response,
        responses=problems(404),
    )
    def revoke(request: Request, asked_by: Asker, token_id: UUID) -> Response:
        _services(request).tokens.revoke(asked_by, token_id)
        return Response(None, 204)

    @made.get(
        "/roles",
        operation_id="listRoles",
        summary="Who has which role",
        response_model=Roles,
        openapi_extra=IfNoneMatch,
        responses=NOT_MODIFIED,
    )
    def roles(
        request: Request, asked_by: Asker, principal: Annotated[str, Query(max_length=NAME_LENGTH)] = ""
    ) -> Response:
        found = _services(request).tokens.roles(asked_by, principal)
        return page(request, [grant.row() for grant in found], None)

    @made.post(
        "/roles", operation_id="grantRole", summary="Give somebody a role", status_code=204, response_class=Response
    )
    def grant(request: Request, asked_by: Asker, body: ForWhom) -> Response:
        _services(request).tokens.grant(asked_by, body.principal, body.role)
        return Response(None, 204)

    @made.post(
        "/roles/revoke", operation_id="revokeRole", summary="Take a role", status_code=204, response_class=Response
    )
    def ungrant(request: Request, asked_by: Asker, body: ForWhom) -> Response:
        _services(request).tokens.revoke_role(asked_by, body.principal, body.role)
        return Response(None, 204)

    return made


def _services(request: Request) -> WebServices:
    services: WebServices = request.app.state.services
    return services
