"""The ledger: everybody's credentials and consents, and the whole life of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from cloudpush.audit.listings import LEDGER
from cloudpush.errors import InputError
from cloudpush.push.states import Event
from cloudpush.web.audit import asking, record
from cloudpush.web.audit.asking import ALL_KINDS, Field
from cloudpush.web.pages import Visit

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

PAGE = 50
EVENTS = 100

Ask = Callable[["WebServices", Mapping[str, Any], int, str], record.Rows]

FIELDS: tuple[Field, ...] = (
    Field("owner", "Owner", asking.plain, "Whose it is, exactly.", aside=False),
    Field("kind", "Kind", asking.one_of(ALL_KINDS), choices=ALL_KINDS, aside=False, says=dict(ALL_KINDS).get),  # type: ignore[arg-type]
    Field("since", "Added from", asking.first_moment, "The first day, UTC.", type="date", aside=False),
    Field("until", "To", asking.last_moment, "The last day, UTC; it counts.", type="date", aside=False),
)

EVENTS_OF_LEDGER = tuple((e.value, e.value) for e in Event if e.value.startswith(LEDGER))
EVENT_FIELDS: tuple[Field, ...] = (
    Field("owner", "Owner", asking.plain, "Whose credential it is, exactly.", aside=False),
    Field("event", "What", asking.one_of(EVENTS_OF_LEDGER), choices=EVENTS_OF_LEDGER, aside=False),
    Field("actor", "By", asking.plain, "Who did it, exactly."),
    Field("since", "From", asking.first_moment, "The first day, UTC.", type="date", aside=False),
    Field("until", "To", asking.last_moment, "The last day, UTC; it counts.", type="date", aside=False),
)


def index(visit: Visit) -> Response:
    """A page of credentials and consents, newest first."""
    return _list(visit, "/audit/ledger", FIELDS, record.credentials, "audit_ledger.html")


def events(visit: Visit) -> Response:
    """A page of what happened to all of them, newest first."""
    return _list(visit, "/audit/ledger/events", EVENT_FIELDS, record.ledger, "audit_ledger_events.html")


def show(visit: Visit) -> Response:
    """One credential's or consent's whole life, newest first."""
    credential_id = visit.id("credential_id")
    row = record.credential(visit.services, credential_id)
    before = visit.query("before")
    life = record.life(
        visit.services, credential_id, int(before) if before.isascii() and before.isdigit() else None, EVENTS
    )
    asked = asking.ask(f"/audit/ledger/{credential_id}", (), {})
    return visit.render("audit_credential.html", c=row, events=life.rows, asked=asked, before=before, next=life.next)


def _list(visit: Visit, path: str, fields: tuple[Field, ...], ask: Ask, template: str) -> Response:
    asked = asking.ask(path, fields, visit.request.query_params)
    cursor = visit.query("cursor")
    page = record.Rows(())
    if not asked.wrong:
        try:
            page = ask(visit.services, asked.read, PAGE, cursor)
        except InputError as e:
            if e.field != "cursor":
                raise
            return visit.see(asked.address())
    status = 400 if asked.wrong else 200
    return visit.render(template, status=status, asked=asked, rows=page.rows, cursor=cursor, next=page.next)
