"""Tables as files, streamed. Each copy that is taken is an event in the record.

A link on another site must not make an auditor's browser write that event, nor have the database read out: an export is given
only where the browser says that a page of ours asked (``Sec-Fetch-Site: same-origin``, which no script and no other site can
write). Whoever types the address, or follows a link in a message, is shown the page with the buttons. Programs use
``/v1/audit/exports``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from cloudpush.audit.charts import Step
from cloudpush.audit.exported import Format, Wanted
from cloudpush.push.states import FileState
from cloudpush.web.api.turns import Hurried, exports
from cloudpush.web.audit import asking, ledger, push, record
from cloudpush.web.audit.asking import Asked, Field
from cloudpush.web.pages import Visit


@dataclass(frozen=True, slots=True)
class Table:
    """What can be exported: by which fields, and from which page. ``of``: the field without which there is none."""

    home: str
    fields: Sequence[Field] = ()
    of: str = ""


STEP = Field("step", "By", asking.one_of([(step.value, step.value) for step in Step]), hidden=True)
PUSH = Field("push", "Push", asking.an_id, hidden=True)
CREDENTIAL = Field("credential", "Credential", asking.an_id, hidden=True)

TABLES: Mapping[str, Table] = {
    "pushes": Table("/audit", asking.PUSHES),
    "series": Table("/audit/summary", (*asking.PUSHES, STEP)),
    "files": Table("/audit/pushes/{}", (*push.FILE_FIELDS, PUSH), "push"),
    "events": Table("/audit/pushes/{}", (PUSH,), "push"),
    "parts": Table("/audit/pushes/{}", (PUSH,), "push"),
    "credentials": Table("/audit/ledger", ledger.FIELDS),
    "life": Table("/audit/ledger/{}", (CREDENTIAL,), "credential"),
    "ledger": Table("/audit/ledger/events", ledger.EVENT_FIELDS),
    "checkpoints": Table("/audit/integrity"),
}


def export(visit: Visit) -> Response:
    """What the filter of a page lets through."""
    name, form = visit.request.path_params["table"], visit.query("format")
    table = TABLES.get(name)
    if table is None or form not in set(Format):
        raise HTTPException(404)
    asked = asking.ask(table.home, table.fields, visit.request.query_params)
    home = _home(table, asked)
    if asked.wrong or visit.request.headers.get("sec-fetch-site") != "same-origin":
        return visit.see(home)
    wanted = _wanted(name, Format(form), asked.read)
    if wanted.push_id is not None:
        visit.services.history.push(wanted.push_id)
    if not exports.acquire(blocking=False):
        return visit.message(
            "Others are exporting just now",
            "Only a few copies are taken at a time, so that pushes do not wait for them. Try again in a minute.",
            tone="wait",
            status=503,
            links=[(home, "Go back")],
        )
    chunks = _while_it_is_our_turn(lambda: record.export(visit.services, wanted, visit.owner))
    first = next(chunks, b"")  # what goes wrong before anything was sent becomes a page
    return Hurried(
        chain([first], chunks),
        headers={
            "content-type": wanted.format.media_type,
            "content-disposition": f'attachment; filename="cloudpush-{name}.{form}"',
        },
    )


def _home(table: Table, asked: Asked) -> str:
    """The page with the button, as it was filtered. Raises HTTPException 404 where it is not said whose page."""
    if not table.of:
        return asked.address(step="") if "step" in asked.typed else asked.address()
    if table.of not in asked.read:
        raise HTTPException(404)
    return asked.address(table.home.format(asked.read[table.of]), **{table.of: ""})


def _wanted(table: str, form: Format, read: Mapping[str, Any]) -> Wanted:
    one = read.get("push")
    if table == "files":
        states = (FileState(read["state"]),) if "state" in read else ()
        return Wanted(table, form, push_id=one, states=states, path=read.get("q", ""))
    return Wanted(
        table,
        form,
        asking.to_filter(read),
        one,
        kinds=(read["event"],) if "event" in read else (),
        actor=read.get("actor", ""),
        step=Step(read.get("step", Step.DAY)),
    )


def _while_it_is_our_turn(read: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    try:
        yield from read()
    finally:
        exports.release()
