"""My pushes: where each stands, what happened to it, and a way to stop it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from cloudpush.audit.history import Filter
from cloudpush.errors import CloudPushError, InputError
from cloudpush.push.grants.model import GRANT_KINDS
from cloudpush.push.states import Event, FileState, State
from cloudpush.push.trust.receipts import MEDIA_TYPE
from cloudpush.web import words
from cloudpush.web.api.receipts import headers as receipt_headers
from cloudpush.web.pages import Visit, get, post

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

PAGE = 25
FILES = 200
EVENTS = 300
TROUBLE = (FileState.FAILED, FileState.UNVERIFIED)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def routes(_services: WebServices) -> list[BaseRoute]:
    """Pages about pushes; what is live about them is ``web.live``."""
    return [
        get("/pushes", index),
        get("/pushes/{push_id}", show),
        post("/pushes/{push_id}/cancel", cancel),
        get("/pushes/{push_id}/receipt", receipt),
    ]


def index(visit: Visit) -> Response:
    """A page of pushes, newest first."""
    word = visit.query("state")
    state = State(word) if word in set(State) else None
    before = visit.query("before")
    rows = visit.services.history.pushes(
        Filter(owner=visit.owner, state=state),
        limit=PAGE + 1,
        before=UUID(before) if _UUID.fullmatch(before) else None,
    )
    return visit.render(
        "pushes.html",
        pushes=[{**row, "done": percent(row)} for row in rows[:PAGE]],
        more=rows[PAGE - 1]["id"] if len(rows) > PAGE else "",
        state=state.value if state else "",
        first=not before,
    )


def show(visit: Visit) -> Response:
    """One push, its files (trouble first) and its events."""
    push_id = visit.id("push_id")
    history = visit.services.history
    row = history.push(push_id, visit.owner)
    files = list(history.files(push_id, states=TROUBLE, limit=FILES))
    if len(files) < FILES:
        others = [s for s in FileState if s not in TROUBLE]
        files += history.files(push_id, states=others, limit=FILES - len(files))
    events = history.events(push_id)
    return visit.render(
        "push.html",
        p=row,
        live=snapshot(row),
        files=files,
        events=events[-EVENTS:],
        events_before=max(0, len(events) - EVENTS),
        # The newest: a retry may have probed again.
        probe=next((e for e in reversed(events) if e["kind"] == Event.PUSH_PREFLIGHT), None),
        error=words.error(row["error_code"], row["error_message"]),
        connection=_connection(visit, row),
        final=State(row["state"]).final,
    )


def cancel(visit: Visit) -> Response:
    """Stop it. Repeatable."""
    push_id = visit.id("push_id")
    visit.services.intake.cancel(push_id, visit.owner, visit.owner)
    return visit.see(f"/pushes/{push_id}")


def receipt(visit: Visit) -> Response:
    """Its signed receipt, to keep. Seconds after the push's end it may not be there yet."""
    push_id = visit.id("push_id")
    chunks = visit.services.receipts.stream(push_id, visit.principal.sees)
    return StreamingResponse(chunks, headers=receipt_headers(push_id), media_type=MEDIA_TYPE)


def percent(row: Mapping[str, Any]) -> int | None:
    """How far a push is, 0 to 100; None where nobody knows yet."""
    if row["planned_at"] is None:
        return None
    if State(row["state"]) is State.SUCCEEDED:
        return 100
    total = row["bytes_total"]
    sent = min(row["bytes_verified"] + row.get("sent_bytes", 0), total)
    # The last hundredth is the verdict's.
    return min(99, int(100 * sent / total)) if total else None


def snapshot(row: Mapping[str, Any], sent: int | None = None, speed: float | None = None) -> dict[str, Any]:
    """What is live about a push: ``sent``, ``total`` bytes, ``percent``, and ``text`` that says the same in words."""
    total = row["bytes_total"]
    now = min(row["bytes_verified"] + (row["sent_bytes"] if sent is None else sent), total)
    state = State(row["state"])
    running = state is State.RUNNING
    return {
        "state": state.value,
        "sent": now,
        "total": total,
        "percent": percent({**row, "sent_bytes": row["sent_bytes"] if sent is None else sent}),
        "text": words.left(now, total, (speed or row["speed"]) if running else None)
        if row["planned_at"] is not None
        else words.PUSH_STATES[state][2],
    }


def _connection(visit: Visit, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The connection that a push uses, if it is a grant that its owner may see; else its name at most."""
    if row["credential_kind"] not in GRANT_KINDS:
        return None
    try:
        grant = visit.services.grants.show(visit.caller, row["credential_id"])
    except InputError:
        return {"id": "", "name": "a connection that was shared with you", "reconnect": False}
    except CloudPushError:
        return None
    return {"id": grant.id, "name": grant.name, "reconnect": grant.state == "reconnect"}
