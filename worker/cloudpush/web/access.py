"""One's own API tokens, and the page on which a command line's login is confirmed.

Whoever sends somebody a code of their own login may hope that it is confirmed unread: so the page says which machine asked,
from where and for what, and what confirming means; the code is compared, and nothing is confirmed by opening a link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from starlette.responses import Response
from starlette.routing import BaseRoute

from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.push.access.login import plain, shown
from cloudpush.push.access.model import Role, Scope
from cloudpush.web.api.limits import Rate, limits_of
from cloudpush.web.pages import Visit, get, post

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

#: Codes that one person may try: of 34 bits, and for ten minutes each.
CODES = Rate("codes", 0.1, 20)
DAYS = (7, 30, 90, 365)
SCOPES = {
    Scope.SUBMIT: "submit, cancel and retry pushes, and add credentials",
    Scope.READ: "see your pushes, credentials and receipts",
    Scope.AUDIT: "see and export everybody's record, if you are an auditor",
    Scope.ADMIN: "make and end tokens, and what else you may administer",
}


def routes(_services: WebServices) -> list[BaseRoute]:
    """The pages, and what their forms do."""
    return [
        get("/tokens", tokens),
        post("/tokens", create),
        post("/tokens/{token_id}/revoke", revoke),
        get("/device", device, public=True),
        post("/device", decide),
    ]


# -- tokens ------------------------------------------------------------------------------------


def tokens(visit: Visit) -> Response:
    """The living tokens of whoever is signed in."""
    return _tokens(visit)


def create(visit: Visit) -> Response:
    """Make one, and show it: this once."""
    try:
        made = visit.services.tokens.create(
            visit.principal,
            visit.field("name").strip(),
            frozenset(scope for scope in Scope if visit.field(f"scope-{scope}")),
            role=Role.PIPELINE if visit.field("role") == Role.PIPELINE else None,
            days=_days(visit.field("days")),
        )
    except InputError as e:
        return _tokens(visit, wrong=e.message, status=400)
    return _tokens(visit, made=made.text)


def revoke(visit: Visit) -> Response:
    """End one of one's own."""
    token_id: UUID = visit.id("token_id")
    found = visit.services.tokens.list(visit.principal)
    if all(token.id != token_id for token in found):
        raise InputError(Code.UNKNOWN_TOKEN, "There is no such token of yours.", field="token")
    visit.services.tokens.revoke(visit.principal, token_id)
    return visit.see("/tokens?done=revoked")


def _tokens(visit: Visit, *, made: str = "", wrong: str = "", status: int = 200) -> Response:
    most = visit.services.settings.api_token_days
    return visit.render(
        "tokens.html",
        status=status,
        tokens=visit.services.tokens.list(visit.principal),
        made=made,
        wrong=wrong,
        scopes=SCOPES,
        days=[days for days in DAYS if days < most] + ([most] if most <= DAYS[-1] else []),
        revoked=visit.query("done") == "revoked",
        url=visit.services.settings.web_url.rstrip("/"),
    )


def _days(text: str) -> int | None:
    return int(text) if text.isdigit() and len(text) <= 4 else None


# -- logins ------------------------------------------------------------------------------------


def device(visit: Visit) -> Response:
    """A form for the code; with one, what is to be confirmed."""
    code = plain(visit.query("code"))
    if not visit.owner:
        return visit.see(f"/sign-in?next=/device?code={shown(code)}" if code else "/sign-in?next=/device")
    if not visit.query("code"):
        return _ask(visit)
    _count(visit)
    login = visit.services.logins.find(code)
    if login is None:
        return _ask(visit, wrong="This code is not known, was used or has expired. Codes live for ten minutes.")
    return visit.render("device.html", login=login, code=shown(login.user_code), wrong="", scopes=SCOPES)


def decide(visit: Visit) -> Response:
    """Confirm or deny."""
    _count(visit)
    approve = visit.field("decision") == "approve"
    try:
        visit.services.logins.decide(visit.principal, visit.field("code"), approve=approve)
    except CloudPushError as e:
        if e.code is not Code.LOGIN_EXPIRED:
            raise
        return _ask(visit, wrong="This code is not known, was used or has expired. Run `cloudpush login` again.")
    if not approve:
        return visit.message(
            "Denied", "The command line gets no token. If you did not start this login, somebody else did.", tone="wait"
        )
    return visit.message(
        "The command line is signed in",
        "It goes on by itself within seconds. You can end its token at any time.",
        links=(("/tokens", "Your API tokens"),),
    )


def _ask(visit: Visit, *, wrong: str = "") -> Response:
    status = 404 if wrong else 200
    return visit.render("device.html", status=status, login=None, code="", wrong=wrong, scopes=SCOPES)


def _count(visit: Visit) -> None:
    limits_of(visit.request).count_for(visit.owner, CODES)
