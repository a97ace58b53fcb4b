"""Who is signed in, and where else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import BaseRoute

from cloudpush.web.pages import Visit, get

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

VIA = {"link": "one-time link", "oidc": "your organisation's sign-in"}


def routes(_services: WebServices) -> list[BaseRoute]:
    """One page."""
    return [get("/account", show)]


def show(visit: Visit) -> Response:
    """Every browser in which this person is signed in."""
    found = visit.services.sessions.list(visit.owner)
    return visit.render("account.html", sessions=found, via=VIA)
