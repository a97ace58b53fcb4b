"""The store of pushes in Postgres: every step one transaction, every state change guarded and recorded.

Two guards stand in every statement that changes something: the state it may leave, and the lease
token of whoever changes it. A statement that finds no row has lost its lease: nothing of its transaction stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit import endings, plan, preflights
from cloudpush.audit.database import append_events, statement, transaction
from cloudpush.audit.endings import hold_part
from cloudpush.audit.rows import lease_params, part_of, part_span
from cloudpush.audit.statements import (
    ARRIVED,
    CLAIM_PART,
    CLAIM_PUSH,
    CLOSING_DUE,
    DROP_PLAN_FILES,
    DROP_PLAN_PARTS,
    EXTEND_PARTS,
    EXTEND_PUSHES,
    HOLD_PUSH,
    NOTE_PROGRESS,
    OPEN_FILES,
    READ_PUSH,
    USABLE,
)
from cloudpush.audit.usable import check_usable, use
from cloudpush.errors import InputError
from cloudpush.push.job import (
    Destination,
    FileResult,
    Lease,
    Page,
    Part,
    PlannedFile,
    Progress,
    Push,
    Verdict,
)
from cloudpush.push.packages import Arrived, unwritten
from cloudpush.push.preflight import Report
from cloudpush.push.states import Event, FileState, Overwrite, Package, State, Strength, Wish

#: Files that are read at once for a package.
ARRIVED_ROWS = 5_000


class Ledger:
    """``push.ports.Store`` on Postgres.

    ``destination`` turns a stored URI and profile name into a Destination.
    """

    def __init__(
        self,
        engine: sa.Engine,
        destination: Callable[[str, str], Destination],
        *,
        proved_days: float = 30.0,
        software: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """``proved_days``: for so long a preflight that passed is known. ``software``: what executes, name → version."""
        self._software = software
        self._engine = engine
        self._proved_seconds = proved_days * 86_400
        self._destination = destination

    # -- claiming ----------------------------------------------------------------------------

    def claim_push(self, push_id: UUID, lease: Lease) -> Push | None:
        software = json.dumps(dict(self._software()))
        params = {
            "id": push_id,
            "proved_seconds": self._proved_seconds,
            "software": software,
            **lease_params(lease),
        }
        with statement(self._engine) as c:
            row = c.execute(CLAIM_PUSH, params).mappings().one_or_none()
        if row is None:
            return None
        if row["attempt"] > 1:
            with transaction(self._engine) as c:
                # A worker that was held up since its claim must not drop the pages of its successor.
                if c.execute(HOLD_PUSH, {"id": push_id, "token": lease.token}).one_or_none() is None:
                    return None
                c.execute(DROP_PLAN_FILES, {"id": push_id})
                c.execute(DROP_PLAN_PARTS, {"id": push_id})
        try:
            return self._push(row)
        except InputError as e:
            # It was right when it was submitted: the operator has changed the profile since.
            with transaction(self._engine) as c:
                events = endings.end_attempt(c, push_id, lease, Verdict(State.FAILED, e))
                append_events(c, push_id, lease.worker, events)
            return None

    def claim_part(self, push_id: UUID, number: int, lease: Lease) -> tuple[Push, Part] | None:
        with transaction(self._engine) as c:
            found = (
                c.execute(CLAIM_PART, {"id": push_id, "number": number, **lease_params(lease)}).mappings().one_or_none()
            )
            if found is None:
                return None
            part = part_of(found)
            row = c.execute(READ_PUSH, {"id": push_id}).mappings().one()
            data = {"part": number, "attempt": part.attempt, "software": dict(self._software())}
            append_events(c, push_id, lease.worker, [(Event.PART_CLAIMED, None, data)])
        try:
            return self._push(row), part
        except InputError as e:
            with transaction(self._engine) as c:
                if part.closing:
                    hold_part(c, part, lease)
                    prefix = row["uri"].partition("://")[2].partition("/")[2]
                    plan.add_files(c, part, unwritten(Package(row["package"]), prefix, part.first))
                _, events = endings.end_part(c, part, lease, Verdict(State.FAILED, e))
                append_events(c, push_id, lease.worker, events)
            return None

    def _push(self, row: sa.RowMapping) -> Push:
        return Push(
            id=row["id"],
            owner=row["owner"],
            source=Path(row["source"]),
            destination=self._destination(row["uri"], row["profile"]),
            credential_id=row["credential_id"],
            credential_kind=row["credential_kind"],
            min_strength=Strength.of(row["min_strength"]),
            overwrite=Overwrite(row["overwrite"]),
            include=tuple(row["include"]),
            exclude=tuple(row["exclude"]),
            created_at=row["created_at"],
            attempt=row["attempt"],
            strikes=row["strikes"],
            cancelled=row["cancelled"],
            endpoint=row["endpoint"],
            hook_id=row["hook_id"],
            credential_owner=row["credential_owner"] or "",
            package=Package(row["package"]) if row["package"] else None,
            labels=row["labels"],
            unproved=row.get("unproved", False),
        )

    # -- trying out --------------------------------------------------------------------------

    def begin_preflight(self, push: Push, lease: Lease) -> None:
        with transaction(self._engine) as c:
            plan.hold_push(c, push, lease)
            row = c.execute(USABLE, {"id": push.id}).one()
            check_usable(c, row, push)
            used = {"push": push.id, "preflight": True, "worker": lease.worker}
            append_events(c, push.id, lease.worker, [(Event.CREDENTIAL_USED, row.credential_id, used)])

    def record_preflight(self, push: Push, lease: Lease, report: Report) -> None:
        with transaction(self._engine) as c:
            plan.hold_push(c, push, lease)
            append_events(c, push.id, lease.worker, [preflights.record(c, push, report)])

    # -- planning ----------------------------------------------------------------------------

    def record_page(self, push: Push, lease: Lease, page: Page) -> None:
        with transaction(self._engine) as c:
            plan.hold_push(c, push, lease)
            events = plan.add_page(c, page)
            if events:
                append_events(c, push.id, lease.worker, events)

    def finish_plan(self, push: Push, lease: Lease, *, parts: int, files: int, bytes_: int) -> None:
        with transaction(self._engine) as c:
            _, planned = plan.finish(c, push, lease, parts=parts, files=files, bytes_=bytes_)
            append_events(c, push.id, lease.worker, [planned])

    def finish_plan_with(self, push: Push, lease: Lease, page: Page) -> None:
        part = page.part
        with transaction(self._engine) as c:
            row, planned = plan.finish(c, push, lease, parts=1, files=part.files, bytes_=part.bytes)
            check_usable(c, row, push)
            events = [planned, *plan.add_only_page(c, page, lease), use(row, push, part, lease)]
            append_events(c, push.id, lease.worker, events)

    def arrived(self, part: Part) -> Iterator[Arrived]:
        after = 0
        while True:
            span = {"id": part.push_id, "after": after, "first": part.first, "limit": ARRIVED_ROWS}
            with statement(self._engine) as c:
                rows = c.execute(ARRIVED, span).all()
            for seq, path, size, mtime_ns, state, sha256, code in rows:
                digest = bytes(sha256) if sha256 is not None else None
                yield Arrived(seq, path, size, mtime_ns, FileState(state), digest, code)
            if len(rows) < ARRIVED_ROWS:
                return
            after = rows[-1].seq

    def add_files(self, part: Part, lease: Lease, files: Sequence[PlannedFile]) -> None:
        with transaction(self._engine) as c:
            hold_part(c, part, lease)
            plan.add_files(c, part, files)

    def closing_due(self, push_id: UUID) -> int | None:
        with statement(self._engine) as c:
            number: int | None = c.execute(CLOSING_DUE, {"id": push_id}).scalar_one_or_none()
        return number

    def open_files(self, part: Part) -> Sequence[PlannedFile]:
        with transaction(self._engine) as c:
            return [PlannedFile(*row) for row in c.execute(OPEN_FILES, part_span(part))]

    # -- executing ---------------------------------------------------------------------------

    def record_credential_use(self, push: Push, part: Part, lease: Lease, *, ending: bool = False) -> None:
        with transaction(self._engine) as c:
            hold_part(c, part, lease)
            row = c.execute(USABLE, {"id": push.id}).one()
            if not ending:
                check_usable(c, row, push)
            append_events(c, push.id, lease.worker, [use(row, push, part, lease)])

    def record_files(self, part: Part, lease: Lease, results: Sequence[FileResult]) -> None:
        if not results:
            return
        with transaction(self._engine) as c:
            events = endings.record_files(c, part, lease, results)
            if events:
                append_events(c, part.push_id, lease.worker, events)

    def end_part(
        self, push: Push, part: Part, lease: Lease, verdict: Verdict, results: Sequence[FileResult] = ()
    ) -> State:
        with transaction(self._engine) as c:
            failures = endings.record_files(c, part, lease, results)
            match verdict.state:
                case State.QUEUED:
                    state, events = endings.schedule_part(c, part, lease, verdict)
                case State.AWAITING_CONSENT:
                    state, events = endings.pause_part(c, push, part, lease, verdict)
                case _:
                    if part.closing and push.package is not None:
                        # What was never made has its verdict, too.
                        hold_part(c, part, lease)
                        plan.add_files(c, part, unwritten(push.package, push.destination.prefix, part.first))
                    state, events = endings.end_part(c, part, lease, verdict)
            append_events(c, part.push_id, lease.worker, [*failures, *events])
        return state

    def end_push(self, push: Push, lease: Lease, verdict: Verdict) -> None:
        with transaction(self._engine) as c:
            if verdict.state is State.AWAITING_CONSENT:
                events = endings.pause_unplanned(c, push, lease, verdict)
            else:
                events = endings.end_attempt(c, push.id, lease, verdict)
            append_events(c, push.id, lease.worker, events)

    # -- the heartbeat -------------------------------------------------------------------------

    def extend(self, tokens: Iterable[UUID], seconds: float) -> Mapping[UUID, Wish]:
        params = {"tokens": list(tokens), "seconds": seconds}
        with transaction(self._engine) as c:
            # In this order: a lease that moves from a push to its only part meanwhile is met at least once.
            rows = [*c.execute(EXTEND_PUSHES, params), *c.execute(EXTEND_PARTS, params)]
        answer: dict[UUID, Wish] = {}
        for token, wish in rows:
            answer[token] = max(answer.get(token, Wish.GO_ON), Wish(wish))
        return answer

    def note_progress(self, moments: Mapping[UUID, Progress]) -> None:
        if not moments:
            return
        rows = [
            {"token": t, "bytes": p.bytes, "files": p.files, "speed": p.speed, "eta": p.eta} for t, p in moments.items()
        ]
        with transaction(self._engine) as c:
            c.execute(NOTE_PROGRESS, rows)
