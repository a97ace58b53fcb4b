"""Connections: what was granted, who uses it, and how to take it back.

The way to a provider and back is ``web.consent``; here is everything that needs no provider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute

from cloudpush.audit.history import Filter
from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.push.credential import Use
from cloudpush.push.grants.model import Flow, Grant, GrantState, Provider, Rotation, Share
from cloudpush.push.states import State
from cloudpush.web import words
from cloudpush.web.origins import Origins
from cloudpush.web.pages import Visit, get, post

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

#: What a redirect after a form may say, by the word that it carries.
DONE = {
    "connected": "Connected.",
    "revoking": "It is taken back. Nothing can use it any more; pushes that ran with it stop within seconds.",
    "shared": "Shared.",
    "unshared": "The share has ended. Pushes that run by it stop within seconds.",
}
#: The same for a check: what is said depends on whether a worker has made it by now.
CHECKING = "checking"
#: Events that a page shows; older ones are told by the command line.
EVENTS_SHOWN = 200
SHARE_DAYS = 30
#: Pushes in one state that are looked at to say how many a revocation stops.
MANY = 500


@dataclass(frozen=True, slots=True)
class Shown:
    """A grant as pages show it."""

    grant: Grant
    title: str  # of its provider
    scopes: Sequence[str]  # what was granted, in plain words
    explains: Mapping[str, str]  # scope → plain words
    settings: Sequence[tuple[str, str]]  # what the user told, by its title
    use: Use
    pushed: bool  # whether its last push is the owner's own, so that it can be looked at
    expiry: str
    shares: Sequence[Share]  # those that hold now
    waiting: Sequence[UUID]
    code_flow: bool
    manage_url: str
    trouble: Mapping[str, str]
    check: Mapping[str, str]

    @property
    def live(self) -> bool:
        """Whether there is anything to take back."""
        return self.grant.state in (GrantState.ACTIVE, GrantState.RECONNECT)


def routes(services: WebServices) -> list[BaseRoute]:
    """All pages about connections but those that lead to a provider."""
    pages = Connections(services)
    return [
        get("/connections", pages.index),
        get("/connect", offer),
        get("/connections/{grant_id}", pages.show),
        get("/connections/{grant_id}/revoke", pages.ask_revoke),
        post("/connections/{grant_id}/revoke", revoke),
        post("/connections/{grant_id}/check", check),
        post("/connections/{grant_id}/shares", pages.share),
        post("/connections/{grant_id}/shares/{share_id}/end", unshare),
    ]


class Connections:
    """Pages with forms that may lead to a provider."""

    def __init__(self, services: WebServices) -> None:
        self._origins = Origins(services.providers)

    def index(self, visit: Visit) -> Response:
        """Every connection of whoever asks, and what others share with them."""
        grants = visit.services.grants.list(visit.caller, ended=visit.query("ended") == "1")
        shown = [describe(visit, grant) for grant in grants]
        return visit.render(
            "connections.html",
            form_action=self._origins.of(s.grant.provider for s in shown if s.live and s.code_flow),
            connections=shown,
            ended=visit.query("ended") == "1",
            shared=visit.services.grants.shared_with(visit.caller),
            providers={p.name: p.title for p in visit.services.providers.all()},
            offered=any(p.offered for p in visit.services.providers.all()),
            done=DONE.get(visit.query("done"), ""),
        )

    def show(self, visit: Visit) -> Response:
        """One connection and its ledger."""
        return self._page(visit, visit.id("grant_id"))

    def ask_revoke(self, visit: Visit) -> Response:
        """What will happen, and a button."""
        shown = describe(visit, visit.services.grants.show(visit.caller, visit.id("grant_id")))
        if not shown.live:
            return visit.see(f"/connections/{shown.grant.id}")
        return visit.render("revoke.html", c=shown, running=_running(visit, shown.grant.id))

    def share(self, visit: Visit) -> Response:
        """Let somebody else push with it. What was typed wrong is told beside the field, with what was typed."""
        grant = visit.services.grants.show(visit.caller, visit.id("grant_id"))
        try:
            visit.services.grants.share(
                visit.caller,
                grant.id,
                principal=visit.field("principal"),
                uri=visit.field("uri"),
                until=_end_of_day(visit.field("until")),
            )
        except InputError as e:
            if e.field not in ("principal", "uri", "until"):
                raise
            return self._page(visit, grant.id, wrong=e, status=400)
        return visit.see(f"/connections/{grant.id}?done=shared#shares")

    def _page(self, visit: Visit, grant_id: UUID, *, wrong: InputError | None = None, status: int = 200) -> Response:
        # Asked before the grant is read: a check that ends in between is looked for once more, and none is told as new
        # that is not.
        checking = visit.services.grants.checking(visit.caller, grant_id)
        grant = visit.services.grants.show(visit.caller, grant_id)
        shown = describe(visit, grant)
        now = datetime.now(UTC)
        events = ledger(visit, grant.id)
        return visit.render(
            "connection.html",
            status=status,
            form_action=self._origins.of([grant.provider]) if shown.live and shown.code_flow else (),
            c=shown,
            events=events[-EVENTS_SHOWN:][::-1],
            left_out=max(0, len(events) - EVENTS_SHOWN),
            all_shares=visit.services.grants.shares(visit.caller, grant.id),
            now=now,
            tomorrow=(now + timedelta(days=1)).date().isoformat(),
            until=visit.field("until") or (now + timedelta(days=SHARE_DAYS)).date().isoformat(),
            principal=visit.field("principal"),
            uri=visit.field("uri"),
            wrong={wrong.field: wrong.message} if wrong else {},
            checking=checking,
            checked=visit.query("done") == CHECKING,
            pending=checking or grant.state is GrantState.REVOKING,
            done=DONE.get(visit.query("done"), ""),
        )


def offer(visit: Visit) -> Response:
    """The providers that the operator offers, with what each will be asked for."""
    offered = [p for p in visit.services.providers.all() if p.offered]
    asked = {p.name: [words.scope(p.explains, s) for s in p.scopes] for p in offered}
    return visit.render("connect.html", providers=offered, asked=asked, flows=Flow)


def revoke(visit: Visit) -> Response:
    """Take it back. Repeatable."""
    grant = visit.services.grants.revoke(visit.caller, visit.id("grant_id"))
    return visit.see(f"/connections/{grant.id}?done=revoking")


def check(visit: Visit) -> Response:
    """Have a worker try it out."""
    grant = visit.services.grants.check(visit.caller, visit.id("grant_id"))
    return visit.see(f"/connections/{grant.id}?done={CHECKING}")


def unshare(visit: Visit) -> Response:
    """End a share."""
    grant = visit.services.grants.show(visit.caller, visit.id("grant_id"))
    share_id = visit.id("share_id")
    if all(s.id != share_id for s in visit.services.grants.shares(visit.caller, grant.id)):
        raise HTTPException(404)
    visit.services.grants.unshare(visit.caller, share_id)
    return visit.see(f"/connections/{grant.id}?done=unshared#shares")


# -- how a grant is told -----------------------------------------------------------------------


def describe(visit: Visit, grant: Grant) -> Shown:
    """Everything that a page says about a grant."""
    services = visit.services
    provider = _provider(services, grant.provider)
    credential = services.credentials.get(grant.id)
    use = credential.use if credential else Use()
    now = datetime.now(UTC)
    titles = {q.name: q.title for q in provider.questions} if provider else {}
    explains = provider.explains if provider else {}
    return Shown(
        grant=grant,
        title=provider.title if provider else grant.provider,
        scopes=[words.scope(explains, s) for s in grant.granted],
        explains=explains,
        settings=[(titles.get(k, k), v) for k, v in grant.settings.items()],
        use=use,
        pushed=use.last_push is not None and _own(visit, use.last_push),
        expiry=_expiry(grant, provider, now),
        shares=[s for s in services.grants.shares(visit.caller, grant.id) if s.ended_at is None and now < s.until],
        waiting=services.grants.waiting(visit.caller, grant.id) if grant.state is GrantState.RECONNECT else (),
        code_flow=provider is not None and provider.flow is Flow.CODE and provider.offered,
        manage_url=provider.manage_url if provider else "",
        trouble=words.error(grant.trouble_code, grant.trouble_message),
        check=words.error(grant.check_code, grant.check_message),
    )


def _provider(services: WebServices, name: str) -> Provider | None:
    try:
        return services.providers.get(name)
    except CloudPushError:
        return None  # the operator took it away


def _own(visit: Visit, push_id: UUID) -> bool:
    try:
        visit.services.history.push(push_id, visit.owner)
    except InputError:
        return False
    return True


def _expiry(grant: Grant, provider: Provider | None, now: datetime) -> str:
    """When it ends, in words."""
    if grant.state in (GrantState.REVOKING, GrantState.REVOKED):
        return "it is over"
    if provider and provider.flow is Flow.WEB_IDENTITY:
        return "never by itself: it holds as long as your account trusts CloudPush"
    if grant.state is GrantState.RECONNECT:
        return "it cannot renew itself any more"
    if grant.access_expires_at is None:
        return "never by itself"
    often = (
        " Its refresh token is a new one each time." if provider and provider.rotation is Rotation.SINGLE_USE else ""
    )
    moment = grant.access_expires_at
    state = f"Its access token ends {words.ago(moment, now)}" if moment > now else "Its access token has ended"
    return f"renews itself when it is used. {state}.{often}"


def ledger(visit: Visit, grant_id: UUID) -> list[dict[str, Any]]:
    """A grant's whole life, in order."""
    return visit.services.history.ledger(grant_id)


def _running(visit: Visit, grant_id: UUID) -> int:
    """How many of the owner's pushes would stop."""
    return sum(
        row["credential_id"] == grant_id
        for state in (State.RUNNING, State.QUEUED, State.AWAITING_CONSENT)
        for row in visit.services.history.pushes(Filter(owner=visit.owner, state=state), limit=MANY)
    )


def _end_of_day(text: str) -> datetime:
    """The end of a day, UTC. Raises InputError."""
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise InputError(
            Code.BAD_INPUT, f"until {text[:40]!r} is no date: write it as 2027-01-31.", field="until"
        ) from None
    return datetime.combine(day, time(23, 59, 59), UTC)
