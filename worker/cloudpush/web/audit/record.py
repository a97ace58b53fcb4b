"""What the auditors' pages ask the record: the one place that knows how it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cloudpush.audit.auditing import CredentialFilter
from cloudpush.audit.charts import Step
from cloudpush.audit.exported import Wanted
from cloudpush.audit.findings import Report
from cloudpush.audit.history import Filter, LedgerFilter, Page, Totals
from cloudpush.push.states import FileState
from cloudpush.web import words
from cloudpush.web.audit.chart import Point

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

Row = Mapping[str, Any]

#: What an inspection counted, in words.
COUNTED = {
    "chains": "Chains",
    "events": "Events",
    "sealed": "Of them sealed",
    "parts": "Parts",
    "files": "File rows",
    "checkpoints": "Checkpoints",
    "pseudonymised": "Events with a pseudonym",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """A page of rows, and where the next one begins; empty where there is none."""

    rows: Sequence[Row]
    next: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A fault that an inspection named, and where its page is."""

    what: str
    stream: str = ""
    push: str = ""
    credential: str = ""


@dataclass(frozen=True, slots=True)
class Inspection:
    """How the last look at the whole record went."""

    sound: bool
    finished_at: datetime
    took: str
    by: str
    counts: Sequence[tuple[str, int]]
    faults: Sequence[Found]
    found: int  # faults in all, of which the first are named


@dataclass(frozen=True, slots=True)
class Integrity:
    """What is known of the record as a whole."""

    inspection: Inspection | None
    anchored: int | None  # the checkpoint that Vault remembers
    asked: bool  # whether Vault could be asked
    cut: Sequence[str]  # what is not as Vault remembers it, now
    checkpoints: Sequence[Row]
    unsealed: int
    more: bool  # there are more than were counted
    months: Sequence[Row]  # archived or dropped, oldest first
    pseudonyms: int  # people whose names were replaced


def pushes(services: WebServices, which: Filter, limit: int, cursor: str) -> Rows:
    """Newest first. Raises InputError, field ``cursor``, for one that is none of ours."""
    return _rows(services.history.page(which, limit=limit, cursor=cursor or None))


def totals(services: WebServices, which: Filter) -> Totals:
    """How much ``which`` lets through."""
    return services.history.totals(which)


def series(services: WebServices, which: Filter, step: Step) -> list[Point]:
    """The same over time: steps in which something happened."""
    rows = services.history.series(which, step)
    return [Point(b.start, b.pushes, b.failed + b.unverified + b.cancelled, b.bytes) for b in rows]


def files(
    services: WebServices, push_id: UUID, state: FileState | None, text: str | None, after: int, limit: int
) -> Rows:
    """A push's files in their order. A page may have few rows, or none, and still have one after it."""
    states = [state] if state is not None else []
    page = services.history.file_page(push_id, states=states, text=text or "", after=after, limit=limit)
    return Rows(page.rows, str(page.after) if page.after is not None else "")


def events(services: WebServices, stream: UUID, after: int, limit: int) -> Rows:
    """What happened to it, in order; after an event's number."""
    return _numbered(services.history.events(stream, after=after, limit=limit + 1), "seq", limit)


def credentials(services: WebServices, read: Mapping[str, Any], limit: int, cursor: str) -> Rows:
    """Everybody's, newest first. Raises InputError, field ``cursor``."""
    return _rows(services.auditing.credentials(CredentialFilter(**read), limit=limit, cursor=cursor))


def credential(services: WebServices, credential_id: UUID) -> Row:
    """One of them. Raises InputError UNKNOWN_CREDENTIAL."""
    return services.auditing.credential(credential_id)


def life(services: WebServices, credential_id: UUID, before: int | None, limit: int) -> Rows:
    """Its whole life, and what pushes did with it, newest first; before an event's id."""
    rows = services.history.ledger(credential_id, before=before, limit=limit + 1, newest=True)
    return _numbered(rows[::-1], "id", limit)


def ledger(services: WebServices, read: Mapping[str, Any], limit: int, cursor: str) -> Rows:
    """What happened to all of them, newest first. A page may have few rows, or none, and still have one after it.

    Raises InputError, field ``cursor``.
    """
    kinds = (read["event"],) if "event" in read else ()
    same = {name: read.get(name) for name in ("owner", "actor", "since", "until")}
    return _rows(services.history.ledger_all(LedgerFilter(**same, kinds=kinds), limit=limit, cursor=cursor or None))


def verify(services: WebServices, push_id: UUID) -> Report:
    """A look at every row of one push, and at what Vault remembers. Raises VaultError where it goes away meanwhile."""
    return services.history.verify(push_id, services.witness())


def integrity(services: WebServices, checkpoints: int) -> Integrity:
    """The last inspection, the newest checkpoints, and what is not sealed yet."""
    witness = services.witness()  # before the record is read: Vault remembers nothing that is not written yet
    found = services.history.integrity()
    row = found["inspection"]
    return Integrity(
        _inspection(services, row) if row else None,
        witness.anchor.number if witness.anchor else None,
        witness.asked,
        [fault.what for fault in services.history.anchored(witness).faults],
        services.history.checkpoints(limit=checkpoints),
        found["unsealed"],
        found["unsealed_more"],
        found["months"],
        found["pseudonyms"],
    )


def export(services: WebServices, wanted: Wanted, actor: str) -> Iterator[bytes]:
    """A table as a file, in chunks; at its end the record says who took it."""
    return services.history.export(wanted, actor)


def _inspection(services: WebServices, row: Row) -> Inspection:
    report = row["report"]
    faults = report.get("faults") or []
    kinds = services.auditing.kinds([UUID(f["stream"]) for f in faults if f.get("stream")])
    named = []
    for f in faults:
        stream = str(f.get("stream") or "")
        kind = kinds.get(UUID(stream), "") if stream else ""
        named.append(Found(f["what"], stream, **({kind: stream} if kind else {})))
    return Inspection(
        row["sound"],
        row["finished_at"],
        words.span(max(1, (row["finished_at"] - row["started_at"]).total_seconds())),
        row["by"],
        [(said, report[name]) for name, said in COUNTED.items() if isinstance(report.get(name), int)],
        named,
        max(len(named), report.get("faults_total") or 0),
    )


def _rows(page: Page) -> Rows:
    return Rows(page.rows, page.next or "")


def _numbered(rows: Sequence[Row], column: str, limit: int) -> Rows:
    """Of one row more than a page has: the page, and the number of its last row where there is one after it."""
    return Rows(rows[:limit], str(rows[limit - 1][column]) if len(rows) > limit else "")
