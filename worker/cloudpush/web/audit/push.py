"""One push as auditors see it: the request, the verdict, every event, every file; and a check of all that on the spot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

from cloudpush.audit.integrity import Report
from cloudpush.push.states import FileState, State
from cloudpush.push.trust.receipts import MEDIA_TYPE
from cloudpush.web import words
from cloudpush.web.audit import asking, record
from cloudpush.web.audit.asking import Field
from cloudpush.web.pages import Visit

FILES = 100
EVENTS = 100
#: Parts that are shown; a push of a million files has a hundred.
PARTS = 200
#: Faults that a page names; the command line names all.
FAULTS = 200

FILE_STATES = tuple((name, said[1]) for name, said in words.FILE_STATES.items())
FILE_FIELDS: tuple[Field, ...] = (
    Field("q", "In the path", asking.part_of_path, type="search", aside=False),
    Field("state", "Verdict", asking.one_of(FILE_STATES), choices=FILE_STATES, aside=False, says=dict(FILE_STATES).get),  # type: ignore[arg-type]
)


def show(visit: Visit) -> Response:
    """The page."""
    return _page(visit)


def verify(visit: Visit) -> Response:
    """The page, with what came of looking at every row of it."""
    visit.services.history.push(visit.id("push_id"))
    return _page(visit, record.verify(visit.services, visit.id("push_id")))


def receipt(visit: Visit) -> Response:
    """What was signed, as a file."""
    push_id = visit.id("push_id")
    return StreamingResponse(
        visit.services.receipts.stream(push_id),
        media_type=MEDIA_TYPE,
        headers={"content-disposition": f'attachment; filename="receipt-{push_id}.json"'},
    )


def _page(visit: Visit, report: Report | None = None) -> Response:
    push_id = visit.id("push_id")
    row = visit.services.history.push(push_id)
    path = f"/audit/pushes/{push_id}"
    asked = asking.ask(path, FILE_FIELDS, visit.request.query_params if visit.request.method == "GET" else {})
    files = record.Rows(())
    if not asked.wrong:
        state = FileState(asked.read["state"]) if "state" in asked.read else None
        files = record.files(visit.services, push_id, state, asked.read.get("q"), _number(visit.query("after")), FILES)
    events = record.events(visit.services, push_id, _number(visit.query("from")), EVENTS)
    parts = visit.services.history.parts(push_id)
    return visit.render(
        "audit_push.html",
        status=400 if asked.wrong else 200,
        p=row,
        asked=asked,
        after=visit.query("after"),
        files=files.rows,
        archived=visit.services.history.archived(push_id) if row["planned_at"] and not files.rows else None,
        next=files.next,
        events=events.rows,
        shown_seqs={e["seq"] for e in events.rows},
        events_from=visit.query("from"),
        events_next=events.next,
        parts_shown=parts[:PARTS],
        parts_left=max(0, len(parts) - PARTS),
        error=words.error(row["error_code"], row["error_message"]),
        final=State(row["state"]).final,
        receipt=visit.services.receipts.issued_at(push_id),
        report=report,
        faults=report.faults[:FAULTS] if report else (),
        broken={f.seq for f in report.faults} if report else set(),
        counts=_counts(row),
    )


def _counts(row: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """(tone, words, how many) of the files' verdicts, those that there are."""
    numbers = {
        "verified": row["files_verified"],
        "skipped": row["files_skipped"],
        "unverified": row["files_unverified"],
        "failed": row["files_failed"],
    }
    return [(*words.FILE_STATES[state], n) for state, n in numbers.items() if n]


def _number(text: str) -> int:
    """A sequence number of an address; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
