"""The application: routes, templates, and what surrounds them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

from cloudpush.errors import CloudPushError
from cloudpush.web import access, account, connections, consent, issuer, live, pushes, signin, words
from cloudpush.web.api.app import make_api
from cloudpush.web.assets import Assets
from cloudpush.web.audit.routes import routes as audit_routes
from cloudpush.web.failing import http_error
from cloudpush.web.headers import Surroundings
from cloudpush.web.pages import Visit, get

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

HERE = Path(__file__).parent


def make_app(services: WebServices, *, stopping: Callable[[], bool] = lambda: False) -> Starlette:
    """The web pages as an ASGI application. ``stopping``: whether long answers should end now.

    Raises SettingsError where web_url is missing or no URL of a server.
    """
    assets = Assets.read(HERE / "static")
    streams = live.Streams(stopping)
    api = make_api(services, streams)
    routes: list[BaseRoute] = [
        _mounted("/v1", api),
        get("/", lambda visit: visit.see("/connections")),
        *signin.routes(services),
        *account.routes(services),
        *access.routes(services),
        *connections.routes(services),
        *consent.routes(services),
        *pushes.routes(services),
        *live.routes(services),
        *audit_routes(services),
        *issuer.issuer_routes(services.settings.web_url, services.public_keys),
        *assets.routes(),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Surroundings, web_url=services.settings.web_url)],
        exception_handlers={HTTPException: http_error, CloudPushError: http_error},
    )
    app.router.redirect_slashes = False  # it would build a URL from the Host header
    app.state.services = services
    app.state.templates = make_templates(assets)
    app.state.streams = streams
    return app


def _mounted(path: str, app: ASGIApp) -> Mount:
    """Whatever follows: Starlette's own pattern ends at a line's end, and what comes after it would be a page."""
    made = Mount(path, app)
    made.path_regex = re.compile(made.path_regex.pattern, re.DOTALL)
    return made


def make_templates(assets: Assets) -> Environment:
    """Templates that escape everything, and fail where a name is missing."""
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {"asset": assets.path, "csrf_field": csrf_field, "push_states": words.PUSH_STATES}
    templates.filters |= {
        "when": words.when,
        "exact": words.exact,
        "minute": words.minute,
        "prose": words.prose,
        "size": words.size,
        "counted": words.count,
        "push_state": lambda s: words.PUSH_STATES[s],
        "grant_state": lambda s: words.GRANT_STATES[s],
        "file_state": lambda s: words.FILE_STATES[s],
        "visible": words.visible,
        "spelled": words.spelled,
        "short": words.short,
        "cut": words.cut,
        "instant": words.instant,
        "credential_kind": lambda s: words.CREDENTIAL_KINDS.get(s, s.replace("_", " ")),
        "credential_state": lambda s: words.CREDENTIAL_STATES.get(s, ("off", s)),
        "strength": lambda s: words.STRENGTHS.get(s, s),
        "sentence": lambda event, explains: words.sentence(event["kind"], event["data"], explains),
    }
    return templates


def csrf_field(visit: Visit) -> Markup:
    """The hidden field that every form brings back."""
    return Markup('<input type="hidden" name="csrf" value="{}">').format(visit.csrf)
