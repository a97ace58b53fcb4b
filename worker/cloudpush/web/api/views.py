"""The things that the API shows, as it shows them: what OpenAPI says of them, and rows made into them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from cloudpush.web.api.paging import Paged

Row = Mapping[str, Any]
Count = Annotated[int, Field(ge=0)]


class Push(BaseModel):
    """A push and where it stands. Sizes in bytes."""

    id: UUID
    owner: str
    actor: Annotated[str, Field(description="Who submitted it.")]
    source: str
    uri: str
    bucket: str
    prefix: str
    profile: str
    credential_id: UUID
    credential_kind: str
    min_strength: Annotated[str, Field(description="The proof that is demanded of every file.")]
    overwrite: str
    include: list[str]
    exclude: list[str]
    labels: dict[str, str]
    package: Annotated[str | None, Field(description="What is written beside the data: bagit, ro-crate.")]
    retry_of: UUID | None
    state: Annotated[
        str,
        Field(description="queued, running, awaiting_consent; over: succeeded, unverified, failed, cancelled."),
    ]
    created_at: datetime
    started_at: datetime | None
    planned_at: Annotated[datetime | None, Field(description="Since when its files are listed.")]
    finished_at: datetime | None
    uploaded_at: datetime | None
    cancel_requested_at: datetime | None
    next_attempt_at: datetime | None
    attempt: Count
    parts_total: Count
    parts_done: Count
    parts_paused: Count
    files_total: Count
    files_verified: Count
    files_skipped: Count
    files_unverified: Count
    files_failed: Count
    bytes_total: Count
    bytes_verified: Count
    strength: Annotated[str | None, Field(description="The weakest proof of its files.")]
    error_code: str | None
    error_message: str | None
    hook_id: UUID | None
    manifest_sha256: Annotated[str | None, Field(description="Of the paths and keys of signed URLs; hex.")]


class Urls(BaseModel):
    """The signed URLs that a push uses now: never the URLs themselves."""

    credential_id: UUID
    state: str
    expires_at: datetime | None
    origin: str


class Renewal(BaseModel):
    """Fresh signed URLs that were handed over."""

    push_id: UUID
    number: int
    credential_id: UUID
    at: datetime
    actor: str
    files: int


class OnePush(Push):
    """One push, with what its running parts have sent."""

    sent_bytes: Annotated[Count, Field(description="By parts that run now; not yet verified.")]
    sent_files: Count
    speed: Annotated[float | None, Field(description="Bytes per second.")]
    eta_seconds: float | None
    urls: Annotated[Urls | None, Field(description="With signed URLs only.")] = None
    renewals: Annotated[list[Renewal] | None, Field(description="With signed URLs only.")] = None


class Part(BaseModel):
    """A slice of a push that one worker executes at a time."""

    number: int
    first_seq: int
    last_seq: int
    files: Count
    bytes: Count
    state: str
    attempt: Count
    next_attempt_at: datetime | None
    worker: str | None
    started_at: datetime | None
    finished_at: datetime | None
    sent_bytes: Count
    sent_files: Count
    speed: float | None
    eta_seconds: float | None
    error_code: str | None
    error_message: str | None


class File(BaseModel):
    """A file of a push and its verdict."""

    seq: int
    path: str
    key: str
    size: Count
    mtime_ns: int
    state: Annotated[str, Field(description="planned, verified, skipped, unverified, failed, cancelled.")]
    strength: str | None
    sha256: str | None
    expected: str | None
    etag: str | None
    version_id: str | None
    uploaded_at: datetime | None
    error_code: str | None
    error_message: str | None


class Event(BaseModel):
    """Something that happened. Its hash covers the one before it."""

    seq: int
    at: datetime
    kind: str
    actor: str
    credential_id: UUID | None
    data: dict[str, Any]
    hash: str


class Need(BaseModel):
    """A file that is not there yet, and what arrived of it."""

    seq: int
    path: str
    key: str
    size: Count
    error_code: str | None
    arrived: Annotated[list[int], Field(description="Parts that need not be sent again.")]


class PushPage(Paged):
    """Pushes, newest first."""

    items: list[Push]


class PartPage(Paged):
    """Parts, in order."""

    items: list[Part]


class FilePage(Paged):
    """Files, in the order of their paths."""

    items: list[File]


class EventPage(Paged):
    """Events, newest first."""

    items: list[Event]


class NeedPage(Paged):
    """What fresh URLs are needed for, in order."""

    state: str
    planned: Annotated[bool, Field(description="False: a URL for every file is needed.")]
    items: list[Need]


class Accepted(BaseModel):
    """The answer to a submission."""

    push: UUID
    created: Annotated[bool, Field(description="False: the idempotency key was known, and this is its push.")]
    announced: Annotated[bool, Field(description="False: the broker is away; the push goes out by itself.")]
    warnings: list[str]


class Refused(BaseModel):
    """A file that would not be pushed."""

    path: str
    code: str
    message: str


class Planned(BaseModel):
    """A file that would be pushed."""

    path: str
    key: str
    size: Count


class Preview(BaseModel):
    """What a push would do."""

    destination: str
    files: Count
    bytes: Count
    refusals: Count
    warnings: list[str]
    refused: Annotated[list[Refused], Field(description="The first few.")]
    first: Annotated[list[Planned], Field(description="The first few.")]


class Standing(BaseModel):
    """Where a push stands now."""

    push: UUID
    state: str


class Resigned(Standing):
    """What came of fresh URLs."""

    accepted: Count
    ignored: Annotated[Count, Field(description="Rows about files that are there already, or are none of the push's.")]
    missing: Annotated[int | None, Field(description="Files that still need one; null before the push is planned.")]


def _names(model: type[BaseModel]) -> tuple[str, ...]:
    return tuple(model.model_fields)


_PUSH, _LIVE = _names(Push), ("sent_bytes", "sent_files", "speed", "eta_seconds")


def push_view(row: Row) -> dict[str, Any]:
    """A row of ``History.pushes`` or ``History.push``."""
    shown = {name: row[name] for name in _PUSH}
    shown["package"] = row["package"] or None
    if "sent_bytes" in row:
        shown |= {name: row[name] for name in _LIVE}
        shown["eta_seconds"] = row["eta_seconds"]
    if "urls" in row:
        shown |= {"urls": row["urls"], "renewals": row["renewals"]}
    return shown


def part_view(row: Row) -> dict[str, Any]:
    """A row of ``History.parts``."""
    return {name: row[name] for name in _names(Part)}


def file_view(row: Row) -> dict[str, Any]:
    """A row of ``History.files``."""
    return {name: row[name] for name in _names(File)}


def event_view(row: Row) -> dict[str, Any]:
    """A row of ``History.events``."""
    return {name: row[name] for name in _names(Event)}
