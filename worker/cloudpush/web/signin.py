"""Signing in and out: by a one-time link, or at the operator's own OpenID provider.

::

    link   GET shows a button, so that a preview or prefetch of the link does not use it up; POST does, and signs in
    oidc   GET /sign-in/oidc ─ anonymous session, state = its HMAC ─> provider ─> GET /sign-in/callback ─ once ─> signed in

State is bound to an anonymous session that lives for ten minutes and ends when the callback comes, whatever that brings: a state
is good once, in the browser that was given it. Nonce and PKCE verifier follow from the same session. Where to go on is
part of what the state's HMAC covers, and is one of our own pages in any case.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import BaseRoute

from cloudpush.errors import CloudPushError
from cloudpush.logs import get_logger, redact
from cloudpush.web import sessions
from cloudpush.web.oidc import SignInProvider
from cloudpush.web.pages import HOME, Visit, get, post, safe_next

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

log = get_logger(__name__)

CALLBACK = "/sign-in/callback"
_LINK = re.compile(r"[A-Za-z0-9_-]{20,100}")
#: What providers' error codes mean to people (OpenID Connect Core 3.1.2.6, RFC 6749 4.1.2.1).
REFUSALS = {
    "access_denied": "You, or the provider, said no.",
    "login_required": "The provider wants you to sign in there first.",
    "consent_required": "The provider wants your consent first.",
    "interaction_required": "The provider wants to ask you something first.",
    "temporarily_unavailable": "The provider is not available just now.",
    "server_error": "The provider had an error.",
}


def routes(services: WebServices) -> list[BaseRoute]:
    """The way in and the way out."""
    pages = SignIn(services)
    made: list[BaseRoute] = [
        get("/sign-in", pages.show, public=True),
        get("/sign-in/link", show_link, public=True),
        post("/sign-in/link", use_link, public=True),
        post("/sign-out", sign_out),
        post("/sign-out/everywhere", sign_out_everywhere),
    ]
    if pages.provider:
        made += [get("/sign-in/oidc", pages.begin, public=True), get(CALLBACK, pages.finish, public=True)]
    return made


# -- links --------------------------------------------------------------------------------


def show_link(visit: Visit) -> Response:
    """One button, and whom it signs in: who was sent another's link would connect their cloud for that other.

    The link itself is used up by the button, not by being looked at.
    """
    token = visit.query("token")
    owner = visit.services.sessions.link_owner(sessions.digest(token)) if _LINK.fullmatch(token) else None
    if owner is None:
        return _dead_link(visit)
    return visit.render("sign_in_link.html", token=token, owner=owner)


def use_link(visit: Visit) -> Response:
    """Sign in whom the link was made for."""
    token = visit.field("token")
    owner = visit.services.sessions.use_link(sessions.digest(token)) if _LINK.fullmatch(token) else None
    if owner is None:
        return _dead_link(visit)
    visit.adopt(*sessions.start(visit.services, owner, sessions.VIA_LINK, visit.token))
    log.info("signed in", via=sessions.VIA_LINK)
    return visit.see(HOME)


def _dead_link(visit: Visit) -> Response:
    return visit.message(
        "This link does not work",
        [
            "It was used before, it is too old, or a part of it is missing.",
            "Whoever runs this CloudPush makes a new one with: cloudpush web-link",
        ],
        tone="bad",
        status=403,
        links=[("/sign-in", "Go to the sign-in page")],
    )


# -- out ----------------------------------------------------------------------------------


def sign_out(visit: Visit) -> Response:
    """End this browser's session."""
    visit.services.sessions.end(sessions.digest(visit.token))
    visit.forget()
    return visit.see("/sign-in?done=out")


def sign_out_everywhere(visit: Visit) -> Response:
    """End every session of whoever this is."""
    visit.services.sessions.end_all(visit.owner)
    visit.forget()
    return visit.see("/sign-in?done=everywhere")


# -- the operator's provider -----------------------------------------------------------------


class SignIn:
    """The pages that know whether there is a provider."""

    def __init__(self, services: WebServices) -> None:
        settings = services.settings
        self.provider: SignInProvider | None = None
        if settings.web_oidc_issuer:
            self.provider = SignInProvider(
                issuer=settings.web_oidc_issuer,
                client_id=settings.web_oidc_client_id,
                secret=lambda: services.clients.secret("sign-in"),
                redirect_uri=settings.web_url.rstrip("/") + CALLBACK,
                claim=settings.web_oidc_owner_claim,
            )

    def show(self, visit: Visit) -> Response:
        """How one can sign in here."""
        if visit.owner:
            return visit.see(HOME)
        going = safe_next(visit.query("next"))
        links = bool(visit.services.settings.web_link_user) or self.provider is None
        done = {"out": "You are signed out.", "everywhere": "You are signed out, in every browser."}
        return visit.render(
            "sign_in.html",
            going="" if going == HOME else going,
            oidc=self.provider.host if self.provider else "",
            links=links,
            done=done.get(visit.query("done"), ""),
        )

    def begin(self, visit: Visit) -> Response:
        """To the provider."""
        going = safe_next(visit.query("next"))
        if visit.owner:
            return visit.see(going)
        assert self.provider is not None  # noqa: S101 -- the route is there only with one
        _ = visit.csrf  # a session, if there is none yet
        nonce = secrets.token_urlsafe(16)
        token = visit.token
        return visit.leave(
            self.provider.authorization_url(
                state=seal_state(token, nonce, going),
                nonce=sessions.derive(token, f"sign-in nonce {nonce}"),
                verifier=sessions.derive(token, f"sign-in pkce {nonce}"),
            )
        )

    def finish(self, visit: Visit) -> Response:
        """Back from the provider."""
        if visit.owner:
            return visit.see(HOME)
        assert self.provider is not None  # noqa: S101 -- as above
        opened = open_state(visit.token, visit.query("state")) if visit.session else None
        if opened is None:
            return self._failed(visit, "It took longer than ten minutes, was used before, or began in another browser.")
        token, (nonce, going) = visit.token, opened
        # Used up now, whatever comes of it.
        visit.services.sessions.end(sessions.digest(token))
        visit.forget()
        if visit.query("error"):
            text = REFUSALS.get(visit.query("error"), "The provider refused.")
            return self._failed(visit, text, redact(visit.query("error_description"), limit=300))
        try:
            self.provider.check_issuer(visit.query("iss"))
            owner = self.provider.owner(
                code=visit.query("code"),
                nonce=sessions.derive(token, f"sign-in nonce {nonce}"),
                verifier=sessions.derive(token, f"sign-in pkce {nonce}"),
            )
        except CloudPushError as e:
            log.warning("sign-in failed", code=e.code, error=e.message)
            return self._failed(visit, e.message, e.detail)
        visit.adopt(*sessions.start(visit.services, owner, sessions.VIA_OIDC, ""))
        log.info("signed in", via=sessions.VIA_OIDC)
        return visit.see(going)

    def _failed(self, visit: Visit, text: str, detail: str = "") -> Response:
        return visit.message(
            "You are not signed in",
            text,
            tone="bad",
            status=403,
            details=[f"In the provider's own words: {detail}"] if detail else [],
            links=[("/sign-in", "Try again")],
        )


def seal_state(token: str, nonce: str, going: str) -> str:
    """What the provider brings back unchanged: names its attempt and where to go on, under the session's HMAC."""
    text = urlsafe_b64encode(json.dumps([nonce, going]).encode()).rstrip(b"=").decode()
    return f"{text}.{sessions.derive(token, f'sign-in state {text}')}"


def open_state(token: str, state: str) -> tuple[str, str] | None:
    """(nonce, where to go on) of a state that this session was given; None for any other."""
    text, _, mac = state.partition(".")
    if not hmac.compare_digest(sessions.derive(token, f"sign-in state {text}").encode(), mac.encode()):
        return None
    nonce, going = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return str(nonce), safe_next(str(going))
