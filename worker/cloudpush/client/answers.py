"""What the API answers, as frozen values. A field that a newer server adds is in ``raw`` and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints
from uuid import UUID

from cloudpush.errors import CloudPushError, Code, ServerError
from cloudpush.push.states import State

T = TypeVar("T")


class PushFailed(CloudPushError):
    """A push did not end as succeeded. ``push``: how it did end."""

    def __init__(self, push: Push) -> None:
        code = _code(push.error_code) or (Code.CANCELLED if push.state == State.CANCELLED else Code.INTERNAL)
        super().__init__(code, f"push {push.id} is {push.state}: {push.error_message or 'no reason is given.'}")
        self.push = push


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Where a push stands. ``state``: one of ``cloudpush.push.states.State``; sizes in bytes."""

    id: UUID
    owner: str
    state: str
    actor: str = ""
    source: str = ""
    uri: str = ""
    bucket: str = ""
    prefix: str = ""
    profile: str = ""
    credential_id: UUID | None = None
    credential_kind: str = ""
    min_strength: str = ""
    overwrite: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    package: str | None = None
    retry_of: UUID | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    planned_at: datetime | None = None
    finished_at: datetime | None = None
    uploaded_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    next_attempt_at: datetime | None = None
    attempt: int = 0
    parts_total: int = 0
    parts_done: int = 0
    parts_paused: int = 0
    files_total: int = 0
    files_verified: int = 0
    files_skipped: int = 0
    files_unverified: int = 0
    files_failed: int = 0
    bytes_total: int = 0
    bytes_verified: int = 0
    sent_bytes: int = 0
    sent_files: int = 0
    speed: float | None = None
    eta_seconds: float | None = None
    strength: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    manifest_sha256: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def final(self) -> bool:
        """Whether it has its verdict."""
        return self.state in _FINAL

    @property
    def succeeded(self) -> bool:
        """Every file is there, and proved at least as strongly as was demanded. Nothing else is a success."""
        return self.state == State.SUCCEEDED

    @property
    def paused(self) -> bool:
        """Whether it waits for somebody to act, and goes on then."""
        return self.state == State.AWAITING_CONSENT

    def check(self) -> Push:
        """Itself where it succeeded; else raises PushFailed with its code."""
        if not self.succeeded:
            raise PushFailed(self)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How a push gets on. ``bytes``: verified or on their way; ``speed`` in bytes per second, ``eta`` in seconds."""

    state: str
    bytes: int = 0
    files: int = 0
    bytes_total: int = 0
    files_total: int = 0
    speed: float | None = None
    eta: float | None = None

    @property
    def fraction(self) -> float:
        """From 0 to 1; 0 while nobody knows how much it is."""
        return min(1.0, self.bytes / self.bytes_total) if self.bytes_total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a push and its verdict."""

    path: str
    state: str
    seq: int = 0
    key: str = ""
    size: int = 0
    strength: str | None = None
    sha256: str | None = None
    etag: str | None = None
    version_id: str | None = None
    uploaded_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a push."""

    seq: int
    at: datetime
    kind: str
    actor: str
    data: Mapping[str, Any] = field(default_factory=dict)
    credential_id: UUID | None = None
    hash: str = ""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """Metadata of a sealed secret."""

    id: UUID
    owner: str
    name: str
    kind: str
    state: str
    profile: str = ""
    endpoint: str = ""
    created_at: datetime | None = None
    created_by: str = ""
    expires_at: datetime | None = None
    purge_after: datetime | None = None
    purged_at: datetime | None = None
    last_used_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What a tiny probe object showed about a destination and a credential."""

    id: UUID
    state: str
    destination: str = ""
    checks: tuple[Mapping[str, Any], ...] = ()
    finished_at: datetime | None = None
    error_code: str | None = None
    error_message: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def over(self) -> bool:
        """Whether it has its answer, which ``error_code`` is where it is a no."""
        return self.finished_at is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """Who the API takes us for, and what we may."""

    name: str
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    rights: tuple[str, ...] = ()
    via: str = ""
    token_id: UUID | None = None
    expires_at: datetime | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resigned:
    """What came of fresh URLs."""

    state: str
    accepted: int = 0
    ignored: int = 0
    missing: int | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)


def read(kind: type[T], document: Any) -> T:
    """A document of the API as a value. Raises ServerError where it is not one."""
    try:
        values = {
            name: _converted(document[name], wanted, none=none)
            for name, wanted, none in _shape(kind)  # type: ignore[arg-type]
            if name in document and (none or document[name] is not None)
        }
        if any(f.name == "raw" for f in fields(kind)):  # type: ignore[arg-type]
            values["raw"] = document
        return kind(**values)
    except (TypeError, ValueError, KeyError, AttributeError) as e:
        raise ServerError(
            Code.SERVER_UNREACHABLE, f"The server's answer is no {kind.__name__.lower()}: is this CloudPush?"
        ) from e


def moment(text: str) -> datetime:
    """A time of the API. Raises ValueError."""
    return datetime.fromisoformat(text)


@cache
def _shape(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    """(field, its type, whether it may be None) of each field that an answer may have."""
    hints = get_type_hints(kind)
    found = []
    for f in fields(kind):
        if f.name == "raw":
            continue
        wanted = hints[f.name]
        options = get_args(wanted) if get_origin(wanted) in (Union, UnionType) else (wanted,)
        main = next(o for o in options if o is not type(None))
        found.append((f.name, get_origin(main) or main, type(None) in options))
    return tuple(found)


def _converted(value: Any, wanted: Any, *, none: bool) -> Any:
    if value is None and none:
        return None
    if wanted is UUID:
        return UUID(value)
    if wanted is datetime:
        return moment(value)
    if wanted is tuple:
        return tuple(value)
    if wanted in (int, float) and isinstance(value, int | float):
        return wanted(value)
    return value


def _code(name: str | None) -> Code | None:
    return Code(name) if name in set(Code) else None


_FINAL = frozenset(state.value for state in State if state.final)
