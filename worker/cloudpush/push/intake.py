"""Intake: check everything that can be checked now, store the request, commit, then announce.

A request that is wrong is refused with the field, the value and the fix, and nothing is stored. A
request that was stored goes out even when the broker is down at this moment: the sweep finds it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol
from uuid import UUID

from cloudpush.errors import BrokerError, CloudPushError, Code, InputError, SourceError, StoreError
from cloudpush.logs import get_logger
from cloudpush.push.admission import CredentialCard, check_card, check_share, demanded, profile_of, warnings_of
from cloudpush.push.endpoints import check_credential
from cloudpush.push.guard import check_endpoint
from cloudpush.push.job import Destination, PlannedFile, Refusal, Request
from cloudpush.push.packages import payload_of, without_tags
from cloudpush.push.patterns import compile_patterns
from cloudpush.push.ports import Announcer, Clock
from cloudpush.push.states import State, Strength
from cloudpush.push.walk import resolve_source, walk

log = get_logger(__name__)

LABEL = re.compile(r"[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?")
MAX_LABELS = 32
MAX_LABEL_VALUE = 256
MAX_PATTERNS = 100
MAX_KEY = 200


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
    """The push that an idempotency key stands for already, the credential that it named and the profile it went by."""

    push_id: UUID
    digest: bytes
    credential_id: UUID
    credential_name: str
    credential_owner: str = ""
    profile: str = ""


@dataclass(frozen=True, slots=True)
class ToStore:
    """A push that may be stored."""

    request: Request
    card: CredentialCard
    destination: Destination
    digest: bytes


class Desk(Protocol):
    """Where requests are stored. Every call is one transaction that appends its events."""

    def credential(self, reference: str, owner: str) -> CredentialCard | None:
        """The credential with this id, or with this name among ``owner``'s live ones.

        ``OWNER/NAME``, too: a live grant that is, or was, shared with ``owner``. Raises InputError where these are two.
        """

    def known(self, owner: str, idempotency_key: str) -> Known | None:
        """The push of ``owner``'s that has this idempotency key."""

    def store(
        self, request: Request, card: CredentialCard, destination: Destination, digest: bytes
    ) -> tuple[UUID, bool]:
        """Store a push; (its id, True), or (the id of the push that has this idempotency key already, False).

        Raises InputError IDEMPOTENCY_CONFLICT where that push was another request.
        """

    def retry(self, push_id: UUID, owner: str | None, actor: str) -> Request | State:
        """The request of a finished push that did not succeed, to be submitted anew.

        Of one that waits for its next attempt its state: the attempt is due now. ``owner`` None: an operator asks. Raises
        InputError UNKNOWN_PUSH, NOT_OWNER; BAD_INPUT where there is nothing to try again.
        """

    def known_many(self, keys: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], Known]:
        """As ``known``, for many owners and keys at once; those that are unknown are left out."""

    def store_many(self, wanted: Sequence[ToStore]) -> Sequence[tuple[UUID, bool] | InputError]:
        """As ``store``, for many in one transaction, in order: what each of them answers or raises."""

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
        request = replace(request, min_strength=demanded(request, destination))
        push_id, created = self._desk.store(request, card, destination, _digest(request, card.id))
        return Accepted(push_id, created, announce(self._announcer, push_id), warnings_of(card))

    def submit_many(self, requests: Sequence[Request]) -> list[Accepted | CloudPushError]:
        """As ``submit``, for many, in order; each stands alone: what one is refused with is in its place.

        Those that are fine are stored in one transaction, and announced in one go. Raises StoreError: none was stored.
        """
        outcomes: list[Accepted | CloudPushError | None] = [None] * len(requests)
        found = self._desk.known_many({(r.owner, r.idempotency_key) for r in requests if r.idempotency_key})
        checks = _Once(self)
        wanted: list[tuple[int, ToStore]] = []
        for number, request in enumerate(requests):
            try:
                check_words(request, "credential")
                known = found.get((request.owner, request.idempotency_key))
                if known is not None and (push_id := self._repeated(request, known)) is not None:
                    outcomes[number] = Accepted(push_id, created=False, announced=True)
                    continue
                card, destination = checks.check(request)
                asked = replace(request, min_strength=demanded(request, destination))
                wanted.append((number, ToStore(asked, card, destination, _digest(asked, card.id))))
            except StoreError:
                raise
            except CloudPushError as e:
                outcomes[number] = e
        stored = self._desk.store_many([w for _, w in wanted])
        ids = [s[0] for s in stored if not isinstance(s, InputError)]
        # Known ones are announced again, too, as a single submission's would be.
        ids += [o.push_id for o in outcomes if isinstance(o, Accepted)]
        announced = announce_many(self._announcer, ids)
        for (number, w), one in zip(wanted, stored, strict=True):
            outcomes[number] = (
                one if isinstance(one, InputError) else Accepted(one[0], one[1], announced, warnings_of(w.card))
            )
        return [replace(o, announced=announced) if isinstance(o, Accepted) else o for o in outcomes if o is not None]

    def preview(self, request: Request, *, show: int = 10) -> Preview:
        """Walk the source as a push would, and store nothing."""
        card, destination = self._check(request)
        payload = payload_of(destination, request.package)
        found: Iterable[PlannedFile | Refusal] = walk(
            Path(request.source), self._roots, payload, request.include, request.exclude
        )
        if request.package is not None:
            found = without_tags(found, destination, request.package)
        return replace(preview_of(found, destination, show), warnings=warnings_of(card))

    def retry(self, push_id: UUID, owner: str | None, actor: str) -> Accepted | State:
        """Try a push again: one that ended without success as a new push, which repeats answer with, too.

        One that waits for its next attempt is due now: its state. Raises InputError UNKNOWN_PUSH, NOT_OWNER, and BAD_INPUT
        where there is nothing to try again; and what ``submit`` raises.
        """
        again = self._desk.retry(push_id, owner, actor)
        if isinstance(again, Request):
            return self.submit(again)
        announce(self._announcer, push_id)  # where it is parts that wait, the sweep announces them
        return again

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
        return self._repeated(request, known) if known is not None else None

    def _repeated(self, request: Request, known: Known) -> UUID | None:
        name, owner = known.credential_name, known.credential_owner
        if request.credential not in {str(known.credential_id), name, f"{owner}/{name}"}:
            return None
        strength = Strength.CHECKSUM if request.min_strength is None else request.min_strength
        with suppress(InputError):  # where the destination's profile is gone, that default is all there is
            strength = demanded(request, self._parse(request.destination, known.profile))
        asked = replace(request, min_strength=strength)
        return known.push_id if known.digest == _digest(asked, known.credential_id) else None

    def _check(self, request: Request) -> tuple[CredentialCard, Destination]:
        check_words(request, "credential")
        return self.check_with(request, self.card(request.credential, request.owner))

    def card(self, reference: str, owner: str) -> CredentialCard:
        """The credential that ``reference`` names. Raises InputError."""
        card = self._desk.credential(reference, owner)
        if card is None:
            raise InputError(
                Code.UNKNOWN_CREDENTIAL,
                f"credential {reference!r} is not known for owner {owner!r}.",
                field="credential",
            )
        return card

    def check_with(
        self, request: Request, card: CredentialCard, resolve: Callable[[Path, tuple[Path, ...]], Path] = resolve_source
    ) -> tuple[CredentialCard, Destination]:
        """What can be said of a request once its credential is found. Raises InputError, SourceError, CredentialError."""
        now = self._clock.now()
        check_card(card, request, now)
        destination = self._parse(request.destination, profile_of(card, request))
        check_credential(destination, card.kind)
        check_share(card, request, destination, now)
        if card.endpoint:
            check_endpoint(card.endpoint, self._allowed)
        resolve(Path(request.source), self._roots)
        return card, destination


class _Once:
    """The checks of a batch: each credential is looked up, and each source looked at, once."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._card = cache(intake.card)
        self._resolve = cache(resolve_source)
        self._failed: dict[tuple[str, str], InputError] = {}

    def check(self, request: Request) -> tuple[CredentialCard, Destination]:
        """See ``Intake.check_with``."""
        key = request.credential, request.owner
        if key in self._failed:
            raise self._failed[key]
        try:
            card = self._card(*key)
        except InputError as e:
            self._failed[key] = e
            raise
        return self._intake.check_with(request, card, self._resolve)


def announce_many(announcer: Announcer, push_ids: Sequence[UUID]) -> bool:
    """Whether the broker took all of the messages."""
    if not push_ids:
        return True
    try:
        announcer.push_many(push_ids)
    except BrokerError as e:
        log.warning("pushes stored but not announced, the sweep will", pushes=len(push_ids), error=str(e))
        return False
    return True


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
        "min_strength": request.min_strength.word if request.min_strength is not None else "",
        "overwrite": request.overwrite.value,
        "include": request.include,
        "exclude": request.exclude,
        "labels": dict(sorted(request.labels.items())),
        # Only where they are asked for, so that what was stored before there were any keeps its digest.
        **({"package": request.package.value} if request.package is not None else {}),
        **({"retry_of": str(request.retry_of)} if request.retry_of is not None else {}),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
