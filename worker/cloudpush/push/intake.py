"""Intake: check everything that can be checked now, store the request, commit, then announce.

A request that is wrong is refused with the field, the value and the fix, and nothing is stored. A
request that was stored goes out even when the broker is down at this moment: the sweep finds it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from uuid import UUID

from cloudpush.errors import BrokerError, Code, CredentialError, InputError, SourceError
from cloudpush.logs import get_logger
from cloudpush.push.guard import check_endpoint
from cloudpush.push.job import Destination, PlannedFile, Refusal, Request
from cloudpush.push.patterns import compile_patterns
from cloudpush.push.ports import Announcer, Clock
from cloudpush.push.signed.model import PROFILE, RESIGN_HOOK, SIGNED_URLS
from cloudpush.push.states import State
from cloudpush.push.walk import resolve_source, walk

log = get_logger(__name__)

LABEL = re.compile(r"[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?")
MAX_LABELS = 32
MAX_LABEL_VALUE = 256
MAX_PATTERNS = 100
MAX_KEY = 200
#: Kinds of credentials that belong to pushes with signed URLs: a set is its own push's alone.
_NO_KEYS = frozenset({SIGNED_URLS, RESIGN_HOOK})


@dataclass(frozen=True, slots=True)
class CredentialCard:
    """What intake may know of a credential: metadata, never the secret."""

    id: UUID
    owner: str
    kind: str
    state: str
    expires_at: datetime | None
    profile: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to a submission. ``created`` is False where the idempotency key was known already.

    ``warnings``: what may go wrong, in sentences; it was accepted all the same.
    """

    push_id: UUID
    created: bool
    announced: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """What a push would do, from a dry run. ``refused`` holds the first few refusals."""

    destination: str
    files: int
    bytes: int
    refused: tuple[Refusal, ...]
    refusals: int
    first: tuple[PlannedFile, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """The push that an idempotency key stands for already, and the credential that it named."""

    push_id: UUID
    digest: bytes
    credential_id: UUID
    credential_name: str


class Desk(Protocol):
    """Where requests are stored. Every call is one transaction that appends its events."""

    def credential(self, reference: str, owner: str) -> CredentialCard | None:
        """The credential with this id, or with this name among ``owner``'s live ones."""

    def known(self, owner: str, idempotency_key: str) -> Known | None:
        """The push of ``owner``'s that has this idempotency key."""

    def store(
        self, request: Request, card: CredentialCard, destination: Destination, digest: bytes
    ) -> tuple[UUID, bool]:
        """Store a push; (its id, True), or (the id of the push that has this idempotency key already, False).

        Raises InputError IDEMPOTENCY_CONFLICT where that push was another request.
        """

    def cancel(self, push_id: UUID, owner: str | None, actor: str) -> State:
        """Ask a push to stop; returns its state now. ``owner`` None: an operator asks. Repeatable.

        Raises InputError UNKNOWN_PUSH or NOT_OWNER.
        """


class Intake:
    """The door's other side: submit, preview, cancel."""

    def __init__(
        self,
        *,
        desk: Desk,
        announcer: Announcer,
        clock: Clock,
        parse: Callable[[str, str], Destination],
        roots: tuple[Path, ...],
        allowed_endpoints: Collection[str],
    ) -> None:
        self._desk = desk
        self._announcer = announcer
        self._clock = clock
        self._parse = parse
        self._roots = roots
        self._allowed = allowed_endpoints

    def submit(self, request: Request) -> Accepted:
        """Store ``request`` and announce it.

        One that was stored before, under the same idempotency key, is answered with its push, whatever became of its
        source and credential since. Raises InputError, SourceError or CredentialError before anything is stored; StoreError.
        """
        if request.idempotency_key and (known := self._known(request)) is not None:
            return Accepted(known, created=False, announced=announce(self._announcer, known))
        card, destination = self._check(request)
        push_id, created = self._desk.store(request, card, destination, _digest(request, card.id))
        return Accepted(push_id, created, announced=announce(self._announcer, push_id))

    def preview(self, request: Request, *, show: int = 10) -> Preview:
        """Walk the source as a push would, and store nothing."""
        _, destination = self._check(request)
        found = walk(Path(request.source), self._roots, destination, request.include, request.exclude)
        return preview_of(found, destination, show)

    def cancel(self, push_id: UUID, owner: str | None, actor: str) -> State:
        """Ask a push to stop. Takes effect within seconds, in mid-file too."""
        state = self._desk.cancel(push_id, owner, actor)
        if state.final:
            self._announcer.ended(push_id, state)
        return state

    def _known(self, request: Request) -> UUID | None:
        """The push that ``request`` is a repetition of; another request under its key is the desk's to refuse."""
        check_words(request, "credential")
        known = self._desk.known(request.owner, request.idempotency_key)
        if known is None or request.credential not in {str(known.credential_id), known.credential_name}:
            return None
        return known.push_id if known.digest == _digest(request, known.credential_id) else None

    def _check(self, request: Request) -> tuple[CredentialCard, Destination]:
        check_words(request, "credential")
        card = self._desk.credential(request.credential, request.owner)
        if card is None:
            raise InputError(
                Code.UNKNOWN_CREDENTIAL,
                f"credential {request.credential!r} is not known for owner {request.owner!r}.",
                field="credential",
            )
        if card.owner != request.owner:
            raise InputError(
                Code.NOT_OWNER, f"credential {request.credential!r} belongs to another owner.", field="credential"
            )
        if card.kind in _NO_KEYS:
            raise InputError(
                Code.BAD_INPUT,
                f"credential {request.credential!r} is of kind {card.kind}: it is no key to a bucket. "
                "Signed URLs are handed over with --signed-url or --manifest.",
                field="credential",
            )
        if card.state != "active":
            raise CredentialError(
                Code.CREDENTIAL_PURGED, f"credential {request.credential!r} is {card.state}.", field="credential"
            )
        if card.expires_at is not None and card.expires_at <= self._clock.now():
            raise CredentialError(
                Code.CREDENTIAL_EXPIRED,
                f"credential {request.credential!r} expired at {card.expires_at:%Y-%m-%d %H:%M:%S} UTC.",
                field="credential",
            )
        profile = request.profile or card.profile
        if profile == PROFILE:
            # What it stands for is read from signed URLs; a user's own words must not pass for that.
            raise InputError(
                Code.BAD_INPUT, f"profile {profile!r} is that of signed URLs; name another.", field="profile"
            )
        destination = self._parse(request.destination, profile)
        if card.endpoint:
            check_endpoint(card.endpoint, self._allowed)
        resolve_source(Path(request.source), self._roots)
        return card, destination


def announce(announcer: Announcer, push_id: UUID) -> bool:
    """Whether the broker took the message. What is stored goes out by itself later."""
    try:
        announcer.push(push_id)
    except BrokerError as e:
        log.warning("push stored but not announced, the sweep will", push=str(push_id), error=str(e))
        return False
    return True


def preview_of(found: Iterable[PlannedFile | Refusal], destination: Destination, show: int) -> Preview:
    """Count ``found``; up to ``show`` of each sort are kept."""
    files = size = refusals = 0
    refused: list[Refusal] = []
    first: list[PlannedFile] = []
    for item in found:
        if isinstance(item, Refusal):
            refusals += 1
            refused += [item] if len(refused) < show else []
            continue
        files += 1
        size += item.size
        first += [item] if len(first) < show else []
    return Preview(destination.uri, files, size, tuple(refused), refusals, tuple(first))


def check_words(request: Request, *required: str) -> None:
    """Everything about a request that needs nobody else to check. ``required``: further fields that must be there."""
    for field in ("owner", "actor", "source", *required):
        value: str = getattr(request, field)
        if not value or not _is_text(value):
            raise InputError(Code.BAD_INPUT, f"{field} {value!r} is empty, or is no text: {_NO_TEXT}.", field=field)
    if not Path(request.source).is_absolute():
        raise SourceError(
            Code.SOURCE_MISSING,
            f"source {request.source!r} is not an absolute path; workers have no other.",
            field="source",
        )
    if len(request.idempotency_key) > MAX_KEY or not _is_text(request.idempotency_key):
        raise InputError(
            Code.BAD_INPUT,
            f"idempotency key {request.idempotency_key[:MAX_KEY]!r} is longer than {MAX_KEY} characters, or is no text: {_NO_TEXT}.",
            field="idempotency_key",
        )
    _check_labels(request.labels)
    patterns = (*request.include, *request.exclude)
    if len(patterns) > MAX_PATTERNS or any(not p or not _is_text(p) for p in patterns):
        raise InputError(
            Code.BAD_INPUT,
            f"include and exclude take up to {MAX_PATTERNS} patterns, none of them empty.",
            field="include",
        )
    compile_patterns(request.include, "include")
    compile_patterns(request.exclude, "exclude")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InputError(Code.BAD_INPUT, f"{len(labels)} labels are too many: at most {MAX_LABELS}.", field="label")
    for key, value in labels.items():
        if not LABEL.fullmatch(key):
            raise InputError(
                Code.BAD_INPUT,
                f"label {key!r}: use 1 to 63 of a-z, 0-9, '.', '_', '-', '/', beginning and ending with a letter or digit.",
                field="label",
            )
        if len(value) > MAX_LABEL_VALUE or not _is_text(value):
            raise InputError(
                Code.BAD_INPUT,
                f"label {key!r}: its value is longer than {MAX_LABEL_VALUE} characters, or is no text: {_NO_TEXT}.",
                field="label",
            )


_NO_TEXT = "it holds a NUL character or bytes that are not UTF-8"


def _is_text(value: str) -> bool:
    """Whether Postgres can store it. What the shell gave us may hold bytes that are no UTF-8, as surrogates."""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _digest(request: Request, credential_id: UUID) -> bytes:
    """Identifies what was asked for, so that one idempotency key cannot stand for two requests."""
    asked = {
        "source": request.source,
        "destination": request.destination,
        "credential": str(credential_id),
        "profile": request.profile,
        "min_strength": request.min_strength.word,
        "overwrite": request.overwrite.value,
        "include": request.include,
        "exclude": request.exclude,
        "labels": dict(sorted(request.labels.items())),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
