"""The record as a whole: tables as files, whether it is sound, and what it is sealed with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import anyio
from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from cloudpush.audit.export import Format, Wanted
from cloudpush.errors import Code, InputError
from cloudpush.push.access.model import Right
from cloudpush.push.states import State, Strength
from cloudpush.web.api.auth import Asker
from cloudpush.web.api.documents import NOT_MODIFIED, problems
from cloudpush.web.api.listing import which
from cloudpush.web.api.paging import Cursor, IfNoneMatch, Limit, Paged, Strict, answer, decode, encode, page
from cloudpush.web.api.reading import LAST_NUMBER
from cloudpush.web.api.turns import Busy, Hurried, exports, turns_of

if TYPE_CHECKING:
    from cloudpush.wiring import WebServices

Table = Literal["pushes", "files", "parts", "events", "credentials", "ledger", "checkpoints"]
#: Faults that one answer lists.
FAULTS = 1_000


class Checkpoint(BaseModel):
    """A seal over all events since the one before."""

    number: int
    first_id: int
    last_id: int
    events: int
    root: Annotated[str, Field(description="RFC 9162 Merkle root, hex.")]
    made_at: AwareDatetime
    statement: Annotated[str, Field(description="Canonical JSON: what is signed.")]
    signature: Annotated[str, Field(description="Ed25519, hex.")]
    key_version: int


class Checkpoints(Paged):
    """The newest first."""

    items: list[Checkpoint]


class Inspection(BaseModel):
    """How a look at the whole record went."""

    id: int
    started_at: AwareDatetime
    finished_at: AwareDatetime
    by: str
    sound: bool
    report: dict[str, Any]


class MonthPutAway(BaseModel):
    """A month of the record that was archived, or dropped."""

    month: Annotated[str, Field(description="Such as 2026-01.")]
    events: int
    files: int
    archive_sha256: Annotated[str, Field(description="Of the archive's manifest.json, hex.")]
    archived_at: AwareDatetime | None
    archived_by: Annotated[str | None, Field(description="Null where the event that told so is in an archive itself.")]
    dropped_at: Annotated[AwareDatetime | None, Field(description="Null while the month is in the database.")]
    dropped_by: str | None


class Integrity(BaseModel):
    """What is known of the record as a whole."""

    inspection: Annotated[Inspection | None, Field(description="The last one; null before the first.")]
    checkpoint: Annotated[Checkpoint | None, Field(description="The newest one; null before the first.")]
    unsealed: Annotated[int, Field(description="Events since the newest checkpoint.")]
    unsealed_more: Annotated[bool, Field(description="There are more: counting ended there.")]
    months: Annotated[list[MonthPutAway], Field(description="Those that were archived or dropped, oldest first.")]
    pseudonyms: Annotated[int, Field(description="People whose names were replaced.")]


class Verify(Strict):
    """Which push."""

    push: Annotated[UUID, Field(strict=False)]


class Fault(BaseModel):
    """Something that is not as it was written."""

    stream: UUID | None
    seq: int | None
    what: str


class Verified(BaseModel):
    """What was checked, and what was found."""

    sound: bool
    chains: int
    events: int
    parts: int
    files: int
    faults: list[Fault]
    unchecked: Annotated[list[str], Field(description="What could not be looked at, such as while Vault is away.")]


def router() -> APIRouter:
    """Routes."""
    made = APIRouter(prefix="/audit", tags=["audit"])
    made.add_api_route(
        "/exports/{table}",
        export,
        methods=["GET"],
        operation_id="exportTable",
        summary="A whole table as a file",
        description="Streamed from one snapshot. That somebody took a copy is an event of the record, too.",
        response_class=Response,
        responses={
            200: {"description": "The file.", "content": {f.media_type.partition(";")[0]: {} for f in Format}},
            **problems(404),
        },
    )
    for path, endpoint, name, summary, model in (
        ("/integrity", integrity, "getIntegrity", "Whether the record is sound, as far as is known", Integrity),
        ("/checkpoints", checkpoints, "listCheckpoints", "Checkpoints, newest first", Checkpoints),
    ):
        made.add_api_route(
            path,
            endpoint,
            methods=["GET"],
            operation_id=name,
            summary=summary,
            response_model=model,
            openapi_extra=IfNoneMatch,
            responses=NOT_MODIFIED,
        )
    made.add_api_route(
        "/verify",
        verify,
        methods=["POST"],
        operation_id="verifyPush",
        summary="Recompute the hash chain and the file digests of one push",
        description="Of the whole record: `cloudpush audit verify`.",
        response_model=Verified,
        responses=problems(404),
    )
    return made


def export(
    request: Request,
    asked_by: Asker,
    table: Table,
    form: Annotated[Format, Query(alias="format")] = Format.CSV,
    owner: Annotated[str, Query(max_length=500)] = "",
    bucket: Annotated[str, Query(max_length=500)] = "",
    prefix: Annotated[str, Query(max_length=2_000)] = "",
    state: State | None = None,
    strength: Annotated[str, Query(max_length=20)] = "",
    kind: Annotated[str, Query(max_length=100)] = "",
    code: Code | None = None,
    since: AwareDatetime | None = None,
    until: AwareDatetime | None = None,
    label: Annotated[list[str], Query(max_length=32, description="KEY=VALUE; all of them.")] = [],  # noqa: B006 -- FastAPI copies it
    q: Annotated[str, Query(max_length=500, description="Words of the paths.")] = "",
    credential: UUID | None = None,
    push: Annotated[UUID | None, Query(description="One push: itself, its files or its events.")] = None,
) -> Response:
    """A file. Errors come before its first byte, or cut it short."""
    asked_by.need(Right.EXPORT)
    services: WebServices = request.app.state.services
    wanted = which(
        owner=owner,
        bucket=bucket,
        prefix=prefix,
        state=state,
        strength=_strength(strength),
        credential_kind=kind,
        error_code=code.value if code else "",
        since=since,
        until=until,
        labels=label,
        text=q,
        credential_id=credential,
    )
    if push is not None:
        services.history.push(push)
    chunks = services.history.export(Wanted(table, form, wanted, push), asked_by.actor)
    if not exports.acquire(blocking=False):
        raise Busy
    chunks = _while_it_is_our_turn(chunks)
    # What fails at once is a problem and no file.
    first = next(chunks, b"")
    return Hurried(
        _unhurried(first, chunks),
        media_type=form.media_type,
        headers={
            "content-disposition": f'attachment; filename="{table}.{form}"',
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
        },
    )


def integrity(request: Request, asked_by: Asker) -> Response:
    """The last inspection, the newest checkpoint, and how much is not sealed yet."""
    asked_by.need(Right.READ_ALL)
    services: WebServices = request.app.state.services
    return answer(request, services.history.integrity())


def checkpoints(request: Request, asked_by: Asker, limit: Limit = 50, cursor: Cursor = "") -> Response:
    """A page."""
    asked_by.need(Right.READ_ALL)
    services: WebServices = request.app.state.services
    given = decode(cursor, int)
    before = max(0, min(given[0], LAST_NUMBER)) if given else None
    rows = services.history.checkpoints(limit=limit + 1, before=before)
    rest = encode(rows[limit - 1]["number"]) if len(rows) > limit else None
    return page(request, rows[:limit], rest)


def verify(request: Request, asked_by: Asker, body: Verify) -> Response:
    """What was checked and found."""
    asked_by.need(Right.READ_ALL)
    services: WebServices = request.app.state.services
    services.history.push(body.push)
    with turns_of(request).one(asked_by):
        report = services.history.verify(body.push, services.witness())
    faults = [{"stream": f.stream, "seq": f.seq, "what": f.what} for f in report.faults[:FAULTS]]
    counts = {"chains": report.streams, "events": report.events, "parts": report.parts, "files": report.files}
    found = {"sound": report.sound, **counts, "faults": faults, "unchecked": report.unchecked}
    return answer(request, found)


def _strength(word: str) -> str:
    try:
        return Strength.of(word).word if word else ""
    except KeyError:
        words = ", ".join(s.word for s in Strength)
        raise InputError(Code.BAD_INPUT, f"strength is none of {words}.", field="strength") from None


def _while_it_is_our_turn(chunks: Generator[bytes]) -> Generator[bytes]:
    try:
        with closing(chunks):
            yield from chunks
    finally:
        exports.release()


async def _unhurried(first: bytes, chunks: Generator[bytes]) -> AsyncIterator[bytes]:
    """The file, as its reader takes it; closed when the reader goes, so that the event is written then."""
    try:
        yield first
        while chunk := await run_in_threadpool(next, chunks, b""):
            yield chunk
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(chunks.close)
