"""Credentials: sealed secrets go in here and never come out."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, Field, SecretStr
from starlette.responses import Response

from cloudpush.credentials.kinds import KINDS, parse
from cloudpush.errors import Code, InputError
from cloudpush.push.access.model import Principal, Right
from cloudpush.push.credential import Caller, Credential
from cloudpush.web.api.auth import Asker
from cloudpush.web.api.documents import NOT_MODIFIED, problems
from cloudpush.web.api.paging import Cursor, IfNoneMatch, Limit, Paged, Strict, answer, decode, encode, page
from cloudpush.web.api.submissions import Long, Name

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices


class Handed(Strict):
    """A secret that is handed over. It is sealed at once and never told again."""

    model_config = Strict.model_config | {
        "json_schema_extra": {
            "examples": [
                {
                    "kind": "access_key",
                    "name": "lab",
                    "secret": {"access_key_id": "AKIA…", "secret_access_key": "…", "region": "eu-central-1"},
                }
            ]
        }
    }

    kind: Annotated[Name, Field(description=f"One of {', '.join(KINDS)}.")] = "access_key"
    name: Annotated[Name, Field(description="What you call it; unique among your live credentials.")]
    secret: Annotated[dict[str, SecretStr], Field(max_length=20, description="The fields of its kind.")]
    profile: Name = ""
    endpoint: Annotated[Long, Field(description="Where a key is valid: https://HOST[:PORT].")] = ""
    expires_at: Annotated[AwareDatetime | None, Field(strict=False)] = None
    purge_after: Annotated[
        AwareDatetime | None, Field(strict=False, description="Default: 30 days after it expires.")
    ] = None
    owner: Annotated[Name, Field(description="Whose it is; another's takes the role admin.")] = ""


class Metadata(BaseModel):
    """Everything about a credential but its secret."""

    id: UUID
    owner: str
    kind: str
    name: str
    profile: str
    endpoint: str
    state: Annotated[str, Field(description="sealing, active, purging, purged.")]
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    purge_after: datetime | None
    purged_at: datetime | None
    uses: Annotated[int | None, Field(description="How often it was unsealed; null in lists.")]
    last_used_at: datetime | None
    last_used_push: UUID | None


class MetadataPage(Paged):
    """Credentials, newest first."""

    items: list[Metadata]


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["credentials"])
    for path, method, endpoint, name, summary, more in (
        ("", "GET", index, "listCredentials", "Credentials, newest first", {"response_model": MetadataPage}),
        ("", "POST", add, "addCredential", "Seal a secret", {"status_code": 201}),
        ("/{credential_id}", "GET", show, "getCredential", "One credential's metadata", {}),
        ("/{credential_id}", "DELETE", purge, "purgeCredential", "Destroy a secret for good", {"status_code": 202}),
    ):
        reads = method == "GET"
        responses = (NOT_MODIFIED if reads else {}) | (problems(404) if path else {})
        options: dict[str, Any] = {"response_model": Metadata, "responses": responses} | more
        extra = IfNoneMatch if reads else None
        made.add_api_route(
            f"/credentials{path}",
            endpoint,
            methods=[method],
            operation_id=name,
            summary=summary,
            openapi_extra=extra,
            **options,
        )
    return made


def index(
    request: Request,
    asked_by: Asker,
    owner: Annotated[str, Query(max_length=500, description="Of all that you may see, this owner's.")] = "",
    purged: Annotated[bool, Query(description="Those that were destroyed, too.")] = False,
    limit: Limit = 50,
    cursor: Cursor = "",
) -> Response:
    """What you may see of them: never a secret."""
    services: WebServices = request.app.state.services
    sees = asked_by.sees
    if "\0" in owner:
        raise InputError(Code.BAD_INPUT, "owner holds a NUL character.", field="owner")
    if sees is not None and owner and owner != sees:
        return page(request, [], None)
    after = decode(cursor, datetime, UUID)
    found = services.credentials.page(
        sees or owner or None, purged=purged, limit=limit + 1, before=(after[0], after[1]) if after else None
    )
    last = found[limit - 1] if len(found) > limit else None
    items = [_view(c) for c in found[:limit]]
    return page(request, items, encode(last.created_at, last.id) if last else None)


def add(request: Request, asked_by: Asker, body: Handed) -> Response:
    """It is sealed in Vault at once, and never shown again."""
    services: WebServices = request.app.state.services
    asked_by.need(Right.CREDENTIALS)
    owner = asked_by.owner_to_act_for(body.owner)
    fields = {name: value.get_secret_value() for name, value in body.secret.items()}
    if body.endpoint:
        fields["endpoint"] = body.endpoint
    made = services.custody.add(
        _acts(asked_by),
        parse(body.kind, fields),
        name=body.name,
        owner=owner,
        profile=body.profile,
        expires_at=body.expires_at,
        purge_after=body.purge_after,
    )
    return answer(request, _view(made), 201, {"location": f"/v1/credentials/{made.id}"})


def show(request: Request, asked_by: Asker, credential_id: UUID) -> Response:
    """Everything but the secret."""
    return answer(request, _view(_find(request, asked_by.sees, credential_id)))


def purge(request: Request, asked_by: Asker, credential_id: UUID) -> Response:
    """From now on nothing can unseal it; the sweeper destroys it within seconds."""
    services: WebServices = request.app.state.services
    asked_by.need(Right.CREDENTIALS)
    _find(request, None if asked_by.may(Right.ACT_ALL) else asked_by.name, credential_id)
    return answer(request, _view(services.custody.start_purge(_acts(asked_by), credential_id)), 202)


def _find(request: Request, owner: str | None, credential_id: UUID) -> Credential:
    """One of ``owner``'s (None: anybody's). Raises InputError UNKNOWN_CREDENTIAL."""
    services: WebServices = request.app.state.services
    found = services.credentials.get(credential_id)
    if found is None or owner not in (None, found.owner):
        raise InputError(Code.UNKNOWN_CREDENTIAL, f"credential {credential_id} is not known.", field="credential")
    return found


def _acts(principal: Principal) -> Caller:
    """Who the record says did it. Whether they may was asked before."""
    return Caller(principal.actor, operator=True)


def _view(found: Credential) -> dict[str, Any]:
    shown = {name: getattr(found, name) for name in Metadata.model_fields if not name.startswith(("uses", "last_"))}
    use = found.use
    return shown | {"uses": use.count, "last_used_at": use.last_at, "last_used_push": use.last_push}
