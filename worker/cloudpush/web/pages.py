"""How a page is written: a plain function from a :class:`Visit` to a response, and a route made of it.

::

    def show(visit: Visit) -> Response:                    # runs in a thread of its own: may block
        grant = visit.services.grants.show(visit.caller, visit.id("grant_id"))
        return visit.render("grant.html", title=grant.name, grant=grant)

    def routes(services: WebServices) -> list[BaseRoute]:
        return [get("/connections/{grant_id}", show), post("/connections/{grant_id}/check", check)]

What ``get`` and ``post`` see to, so that no page has to:

- whoever is not signed in is sent to the sign-in page, unless the route is ``public``; ``visit.owner`` is who it is;
- a POST's form (urlencoded, 64 KiB at most) is read, and its ``csrf`` field and the browser's own word on where it comes
  from are checked before the function is called; ``visit.form`` holds the fields. A template writes ``{{ csrf_field(visit) }}``
  into every ``<form method="post">``;
- a CloudPushError becomes an error page: what happened, who must act, the fix; UNKNOWN_* and NOT_OWNER a 404 that does
  not tell one from the other;
- headers: the Content-Security-Policy, to whose ``form-action`` ``visit.render(…, form_action=[url])`` adds origins
  (Chromium applies it to the redirect that follows a POST, too: so the page with the *form* has to name the provider).

A route and another of the same path for the other method are two entries. ``visit.token`` is the browser's session token
(a secret: for deriving state, nonce and PKCE verifier by HMAC, for nothing else). ``visit.session`` is None only in public
routes. Leave by ``visit.see(path)`` (303 to a page of ours) or ``visit.leave(url)`` (303 to a provider of the operator's).
``visit.message(title, text, …)`` is a whole page that says how something went (template ``message.html``).

Blocks of ``base.html``: ``title`` (plain text), ``main`` (inside ``<main>``; begins with one ``<h1>``). Names that every template
has: ``visit`` (``owner``, ``path``), ``csrf_field(visit)``, ``asset(name)``, and the filters of ``web.words``:
``when`` (a <time> element), ``size``, ``push_state``…
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.logs import get_logger
from cloudpush.push.access.model import Right
from cloudpush.push.credential import Caller
from cloudpush.web import sessions
from cloudpush.web.failing import error_response
from cloudpush.web.headers import POLICY

if TYPE_CHECKING:
    from cloudpush.audit.sessions import Session
    from cloudpush.push.access.model import Principal
    from cloudpush.wiring import WebServices

log = get_logger(__name__)

#: A form of ours has a dozen short fields.
BODY_BYTES = 64 * 1024
FIELDS = 100
#: Where somebody may want to go on after signing in: pages of ours that only show something.
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NEXT = re.compile(
    rf"/(?:connections(?:/{_UUID})?|pushes(?:/{_UUID})?|connect(?:/[a-z0-9_-]{{1,64}})?"
    rf"|audit(?:/pushes/{_UUID}|/ledger(?:/events|/{_UUID})?|/integrity)?"
    r"|tokens|account|device(?:\?code=[A-Z]{4}-[A-Z]{4})?)"
)

HOME = "/connections"
#: Sent by our script when a page asks for itself again: not the user's doing, so it keeps no session alive.
LIVE = "x-cloudpush-live"


@dataclass
class Visit:
    """One request, as a page sees it."""

    request: Request
    services: WebServices
    session: Session | None = None
    token: str = field(default="", repr=False)
    form: Mapping[str, str] = field(default_factory=dict, repr=False)
    trouble: CloudPushError | None = None  # why nobody can say who this is
    _cookie: str | None = field(default=None, repr=False)  # what the answer is to set; empty: forget it

    @property
    def owner(self) -> str:
        """Who is signed in; empty for nobody."""
        return self.session.owner or "" if self.session else ""

    @property
    def caller(self) -> Caller:
        """The same, as the story asks. Nobody is an operator here."""
        if not self.owner:
            raise InputError(Code.SIGN_IN_REFUSED, "Nobody is signed in.")
        return Caller(self.owner)

    @property
    def principal(self) -> Principal:
        """The same with what they may: the roles that they have now. Raises InputError: nobody is signed in; StoreError."""
        return self.services.access.principal_of_session(self.caller.name)

    @cached_property
    def auditor(self) -> bool:
        """Whether the way to the auditors' pages is shown. An error page is shown without, rather than not at all."""
        try:
            return bool(self.owner) and self.principal.may(Right.READ_ALL)
        except CloudPushError:
            return False

    @property
    def path(self) -> str:
        """Of this request, without the query."""
        return self.request.url.path

    def id(self, name: str) -> UUID:
        """The path's parameter ``name``, an id in its canonical form. Raises HTTPException 404."""
        text = self.request.path_params[name]
        if not re.fullmatch(_UUID, text):
            raise HTTPException(404)
        return UUID(text)

    def query(self, name: str) -> str:
        """The first of that name in the URL, or an empty string."""
        return self.request.query_params.get(name, "")

    def field(self, name: str) -> str:
        """The form's field without the space around it, or an empty string."""
        return self.form.get(name, "").strip()

    @property
    def csrf(self) -> str:
        """What a form must bring back. A browser without a session gets an anonymous one."""
        if self.session is None:
            self.adopt(*sessions.start_anonymous(self.services))
        return sessions.csrf_token(self.token)

    def adopt(self, session: Session, token: str) -> None:
        """The browser has this session from now on: the answer sets its cookie."""
        self.session, self.token, self._cookie = session, token, token

    def forget(self) -> None:
        """The browser has none any more."""
        self.session, self.token, self._cookie = None, "", ""

    def render(
        self, template: str, /, *, status: int = 200, form_action: Iterable[str] = (), **context: Any
    ) -> Response:
        """A page. ``form_action``: URLs whose origins its forms may lead to, beside our own."""
        text = self.request.app.state.templates.get_template(template).render(visit=self, **context)
        origins = [f"{p.scheme}://{p.netloc}" for p in map(urlsplit, form_action) if p.scheme in ("http", "https")]
        policy = (
            POLICY if not origins else POLICY.replace("form-action 'self'", " ".join(["form-action 'self'", *origins]))
        )
        return HTMLResponse(text, status, headers={"content-security-policy": policy})

    def message(
        self,
        title: str,
        text: str | Sequence[str],
        *,
        tone: str = "good",
        status: int = 200,
        details: Sequence[str] = (),
        links: Sequence[tuple[str, str]] = ((HOME, "Go to your connections"),),
    ) -> Response:
        """A page that says how something went.

        ``text``: a paragraph or several. ``tone``: good, wait or bad. ``details``: a list, smaller, such as another side's
        own words. ``links``: (path of ours, words), the first as a button.
        """
        paragraphs = [text] if isinstance(text, str) else list(text)
        return self.render(
            "message.html", status=status, title=title, paragraphs=paragraphs, tone=tone, details=details, links=links
        )

    def see(self, path: str) -> Response:
        """303 to a page of ours."""
        if not path.startswith("/") or path.startswith(("//", "/\\")):
            raise ValueError(path)
        return RedirectResponse(path, 303)

    def leave(self, url: str) -> Response:
        """303 to a URL that the operator's configuration led to."""
        return RedirectResponse(url, 303)


def safe_next(path: str) -> str:
    """``path`` where somebody may be sent to after signing in, else our first page."""
    return path if _NEXT.fullmatch(path) else HOME


Handler = Callable[[Visit], Response]


def get(path: str, handler: Handler, *, public: bool = False) -> Route:
    """A page that shows something and changes nothing."""
    return Route(path, _endpoint(handler, public=public), methods=["GET"], name=f"GET {path}")


def post(path: str, handler: Handler, *, public: bool = False) -> Route:
    """A form's target: changes something, and ends in a redirect or in a page that says why not."""
    return Route(path, _endpoint(handler, public=public), methods=["POST"], name=f"POST {path}")


def _endpoint(handler: Handler, *, public: bool) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        form = await _read_form(request) if request.method == "POST" else {}
        return await run_in_threadpool(_answer, request, handler, form, public)

    return endpoint


def _answer(request: Request, handler: Handler, form: Mapping[str, str], public: bool) -> Response:
    visit = visit_of(request, form, touch=LIVE not in request.headers)
    try:
        response = _respond(visit, handler, public=public)
    except Exception as error:  # noqa: BLE001 -- the place where errors become pages; a defect is logged there
        response = error_response(visit, error)
    cookie = visit._cookie  # noqa: SLF001 -- its own module
    if cookie is not None:
        sessions.set_cookie(response, cookie)
    return response


def _respond(visit: Visit, handler: Handler, *, public: bool) -> Response:
    if visit.trouble:
        raise visit.trouble
    if visit.request.method == "POST":
        sessions.check_origin(visit.request, visit.services.settings.web_url)
        if not public and not visit.owner:
            return visit.see("/sign-in")
        sessions.check_csrf(visit.token if visit.session else "", visit.form.get("csrf", ""))
    elif not public and not visit.owner:
        path = safe_next(visit.path)
        return visit.see("/sign-in" if path == HOME else f"/sign-in?next={path}")
    return handler(visit)


def visit_of(request: Request, form: Mapping[str, str] | None = None, *, touch: bool = True) -> Visit:
    """The visit that a request is. Blocks. ``touch`` False: it is not the user's doing, and keeps no session alive."""
    visit = Visit(request, request.app.state.services, form=form or {})
    try:
        visit.session, visit.token = sessions.find(visit.services, request, touch=touch)
    except CloudPushError as e:
        visit.trouble = e  # told by whoever needs the session: an error page can do without
    return visit


async def _read_form(request: Request) -> dict[str, str]:
    """An urlencoded form; of a name that comes twice, the first. Raises HTTPException 400, 413, 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and kind != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise HTTPException(413)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FIELDS, errors="strict")
    except ValueError:
        raise HTTPException(400) from None
    form: dict[str, str] = {}
    for name, value in pairs:
        form.setdefault(name, value)
    return form
