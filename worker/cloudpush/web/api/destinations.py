"""Where pushes can lead: the schemes that are known, and the operator's profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from cloudpush.push.access.model import Right
from cloudpush.push.job import Profile
from cloudpush.push.uris import BUILT_IN, schemes_of
from cloudpush.web.api.auth import Asker
from cloudpush.web.api.documents import NOT_MODIFIED
from cloudpush.web.api.paging import IfNoneMatch, Paged, page

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices


class Destination(BaseModel):
    """A profile, and the schemes of URIs that go by it unless another is named."""

    profile: str
    dialect: str
    endpoint: str
    region: str
    schemes: list[str]


class DestinationPage(Paged):
    """Every profile, by name."""

    items: list[Destination]


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(tags=["pushes"])
    made.add_api_route(
        "/destinations",
        index,
        methods=["GET"],
        operation_id="listDestinations",
        summary="Profiles and schemes that lead somewhere",
        response_model=DestinationPage,
        openapi_extra=IfNoneMatch,
        responses=NOT_MODIFIED,
    )
    return made


def index(request: Request, asked_by: Asker) -> Response:
    """The operator's, and those that CloudPush knows by itself."""
    asked_by.need(Right.READ)
    services: WebServices = request.app.state.services
    own = {
        name: Profile(name, p.dialect, p.endpoint, p.region, path_style=p.path_style)
        for name, p in services.settings.profiles().items()
    }
    found = sorted({**BUILT_IN, **own}.values(), key=lambda profile: profile.name)
    return page(request, [_view(profile) for profile in found], None)


def _view(profile: Profile) -> dict[str, Any]:
    return {
        "profile": profile.name,
        "dialect": profile.dialect,
        "endpoint": profile.endpoint,
        "region": profile.region,
        "schemes": schemes_of(profile.name),
    }
