"""The store of pushes in Postgres: every step one transaction, every state change guarded and recorded.

Two guards stand in every statement that changes something: the state it may leave, and the lease
token of whoever changes it. A statement that finds no row has lost its lease: nothing of its transaction stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import sqlalchemy as sa

from cloudpush.audit import endings, plan
from cloudpush.audit.database import append_events, statement, transaction
from cloudpush.audit.endings import hold_part
from cloudpush.audit.rows import lease_params, part_of, part_span
from cloudpush.audit.statements import (
    CLAIM_PART,
    CLAIM_PUSH,
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
from cloudpush.push.states import Event, Overwrite, State, Strength, Wish


class Ledger:
    """``push.ports.Store`` on Postgres.

    ``destination`` turns a stored URI and profile name into a Destination.
    """

    def __init__(self, engine: sa.Engine, destination: Callable[[str, str], Destination]) -> None:
        self._engine = engine
        self._destination = destination

    # -- claiming ----------------------------------------------------------------------------

    def claim_push(self, push_id: UUID, lease: Lease) -> Push | None:
        with statement(self._engine) as c:
            row = c.execute(CLAIM_PUSH, {"id": push_id, **lease_params(lease)}).mappings().one_or_none()
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
            append_events(
                c, push_id, lease.worker, [(Event.PART_CLAIMED, None, {"part": number, "attempt": part.attempt})]
            )
        try:
            return self._push(row), part
        except InputError as e:
            with transaction(self._engine) as c:
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
        )

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
