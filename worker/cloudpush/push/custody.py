"""Custody: a credential's life, from the moment it is handed over until it is seen to be gone.

::

    add ──> sealing ──> active ──> purging ──> purged
               └────────────────────┘ seal failed, or nobody finished it

Postgres says what exists, Vault holds what is secret, and each step commits in Postgres before
Vault is touched. So a crash leaves a row that :meth:`Custody.purge_due` finds, never a secret that
nobody knows of. A row that is not ``active`` is never unsealed.

A set of signed URLs is a credential whose secret is many blocks; ``push.signed.sets`` seals it. So is the grant of a
consent, whose tokens are a further block with each refresh; ``push.grants`` tells its life, which ends with ``purged`` here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol
from uuid import UUID, uuid4

from cloudpush.errors import CloudPushError, Code, CredentialError, InputError
from cloudpush.logs import get_logger
from cloudpush.push.grants.model import GRANT_KINDS
from cloudpush.push.guard import check_endpoint
from cloudpush.push.job import Secret
from cloudpush.push.ports import Clock

log = get_logger(__name__)

#: Kept this long after it expired, so that its owner still finds it when asking why a push failed.
KEPT_AFTER_EXPIRY = timedelta(days=30)
#: No credential expires later. Postgres has years that Python has not: a row with one could never be read again.
LONGEST = timedelta(days=100 * 365)
#: Sealing takes four requests of at most 13 s each. A row that is `sealing` for longer was left by a crash.
SEALING_PATIENCE = timedelta(minutes=2)
#: A set is sealed while its manifest is read. Nothing was added for so long: whoever read it is gone.
SET_PATIENCE = timedelta(minutes=15)
#: A refresh, or a reconnect, that was begun before so long and did not end: whoever began it is gone.
REFRESH_PATIENCE = timedelta(hours=1)
#: Credentials that one call of a sweep deals with.
SWEEP_LIMIT = 100
#: Seconds after which a call of a sweep leaves the rest to the next: large sets take a moment each.
SWEEP_SECONDS = 10.0
#: Rows that a rotation reads at a time.
PAGE = 500
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,200}")


class CredentialState(StrEnum):
    """Where a credential stands."""

    SEALING = "sealing"  # the row is there, the secret on its way to Vault
    ACTIVE = "active"  # may be used, unless it expired
    PURGING = "purging"  # may not be used; on its way out of Vault
    PURGED = "purged"  # destroyed in Vault, and seen to be gone


CREDENTIAL_TRANSITIONS: dict[CredentialState, frozenset[CredentialState]] = {
    CredentialState.SEALING: frozenset({CredentialState.ACTIVE, CredentialState.PURGING}),
    CredentialState.ACTIVE: frozenset({CredentialState.PURGING}),
    CredentialState.PURGING: frozenset({CredentialState.PURGED}),
    CredentialState.PURGED: frozenset(),
}


class Reason(StrEnum):
    """Why a credential is destroyed."""

    REQUESTED = "requested"  # its owner or an operator asked
    DUE = "due"  # its purge time has come
    ABANDONED = "abandoned"  # sealing failed or was never finished
    UNFINISHED = "unfinished"  # an earlier attempt to destroy it did not get to its end
    UNUSED = "unused"  # sealed for a push that came to nothing, or was known already
    PUSH_ENDED = "push_ended"  # signed URLs: the push that they were handed over for is over
    URLS_EXPIRED = "urls_expired"  # signed URLs: the last of them has expired
    REVOKED = "revoked"  # a consent that was taken back


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. An operator may see and purge everybody's credentials; no one can read one."""

    name: str
    operator: bool = False

    def may(self, owner: str) -> bool:
        """Whether ``owner``'s credentials are this caller's business."""
        return self.operator or self.name == owner


#: What is to be destroyed, and why.
Due = tuple[UUID, Reason]

#: Who acts when nobody asks.
SWEEPER = Caller("sweeper", operator=True)


@dataclass(frozen=True, slots=True)
class Use:
    """How often a credential was unsealed (None: not counted, lists are short of time), and by what last."""

    count: int | None = None
    last_at: datetime | None = None
    last_push: UUID | None = None
    last_worker: str = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential's metadata: everything but the secret."""

    id: UUID
    owner: str
    kind: str
    name: str
    profile: str
    endpoint: str
    state: CredentialState
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    purge_after: datetime | None = None
    transit_key_version: int | None = None
    purged_at: datetime | None = None
    use: Use = field(default_factory=Use)


@dataclass(frozen=True, slots=True)
class Block:
    """A sealed block of a set or a grant. ``version``: of the key that wraps it; None where nobody told.

    ``kind``: the credential's.
    """

    credential_id: UUID
    owner: str
    number: int
    version: int | None
    sealed_at: datetime
    kind: str


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did: ``rewrapped`` counts data keys, each block of a set has one. ``failed`` keep the old key version alive until they are dealt with."""

    version: int  # of the Transit key now
    rewrapped: int
    failed: tuple[UUID, ...]
    retired: bool  # older key versions unwrap nothing any more


class Sealer(Protocol):
    """Puts secrets into Vault; cannot read them back."""

    def seal(self, credential_id: UUID, owner: str, secret: Secret) -> int:
        """Seal ``secret`` and return the version of the key that wraps its data key.

        Raises VaultError, also where something is sealed under this id already.
        """


class Keeper(Protocol):
    """Destroys and rewraps what is in Vault; cannot decrypt it."""

    def purge(self, credential_id: UUID) -> None:
        """Destroy every version and see that it is gone. Repeatable. Raises VaultError."""

    def purge_sheets(self, credential_id: UUID, numbers: Iterable[int]) -> None:
        """Destroy these blocks of a set or a grant and see that they are gone. Repeatable. Raises VaultError."""

    def rotate(self) -> int:
        """Add a version to the Transit key and return its number. Raises VaultError."""

    def newest(self) -> int:
        """The newest version of the Transit key. Raises VaultError."""

    def rewrap(self, credential_id: UUID, owner: str, kind: str, version: int) -> int:
        """Wrap the data key by the newest key version, unless it is by ``version`` or later already.

        Returns the version that wraps it now; no older wrapping is left behind. Repeatable.
        Raises VaultError, CredentialError (purged, corrupt).
        """

    def rewrap_sheet(self, credential_id: UUID, owner: str, number: int, version: int, kind: str) -> int:
        """As ``rewrap``, for one block of a credential of this ``kind``: a set's, or a grant's."""

    def retire(self, version: int) -> None:
        """Key versions before ``version`` unwrap nothing any more. Repeatable. Raises VaultError."""


class CredentialStore(Protocol):
    """Postgres. Every call is one transaction that appends its events. Raises StoreError."""

    def add(self, credential: Credential, actor: str) -> None:
        """Insert a row that is ``sealing``. Raises InputError where the owner has a live one of that name."""

    def activate(self, credential_id: UUID, key_version: int, actor: str) -> None:
        """``sealing`` → ``active``. Raises CredentialError where the row is not ``sealing`` any more."""

    def get(self, credential_id: UUID) -> Credential | None:
        """One credential with its use, counted; None where there is no such row."""

    def find(self, owner: str | None, *, purged: bool, limit: int) -> Sequence[Credential]:
        """Credentials of ``owner`` (None: of all), newest first, with their last use; ``purged`` ones on demand."""

    def start_purge(self, credential_id: UUID, reason: Reason, actor: str) -> None:
        """Any live state → ``purging``; nothing where it is ``purging`` or ``purged`` already."""

    def end_purge(self, credential_id: UUID, actor: str, unsettled_since: datetime | None) -> bool:
        """``purging`` → ``purged``; nothing where it is ``purged`` already.

        False, and ``purging`` still, where a block of it was begun after ``unsettled_since`` and nobody told that it was
        sealed: it may come yet. So it may where a refresh is under way that began less than REFRESH_PATIENCE before.
        """

    def due(self, now: datetime, sealing_before: datetime, sets_before: datetime, limit: int) -> Sequence[Due]:
        """What is to be destroyed: due, half destroyed, or ``sealing`` since before ``sealing_before``.

        A set is given up when nothing was added to it since ``sets_before`` and no push has it. What ``end_purge``
        would refuse for the sake of a block begun since ``sealing_before`` is left out.
        """

    def blocks(self, credential_id: UUID, after: int, limit: int) -> Sequence[int]:
        """Numbers of a set's or a grant's blocks, in order, from after ``after``; none for any other credential.

        Those of a grant that are destroyed already are left out.
        """

    def expire(self, now: datetime, limit: int, actor: str) -> Sequence[UUID]:
        """Append ``credential.expired``, once each, for what has expired; return whose."""

    def wrapped_before(self, version: int, after: UUID | None, limit: int) -> Sequence[Credential]:
        """``active`` credentials whose data key an older key version wraps, by id, from after ``after``."""

    def rewrapped(self, credential_id: UUID, version: int, actor: str) -> None:
        """Note that key ``version`` wraps the data key now."""

    def blocks_wrapped_before(self, version: int, after: tuple[UUID, int] | None, limit: int) -> Sequence[Block]:
        """Blocks of ``active`` sets whose data key an older key version wraps, or nobody knows which; in order.

        Of an ``active`` grant only the block of its current generation: the others are on their way out, or in.
        """

    def blocks_rewrapped(self, credential_id: UUID, numbers: Sequence[int], version: int, actor: str) -> None:
        """Note that key ``version`` wraps the data keys of these blocks now."""

    def wraps_only(self, version: int) -> bool:
        """Whether nothing is ``sealing``, and nothing ``active`` is wrapped by a key before ``version``: in one look.

        A block whose version nobody knows counts as wrapped by an older one. Of a grant's blocks its current
        generation counts, and what was begun less than REFRESH_PATIENCE ago and may come yet.
        """

    def note_rotation(self, version: int, actor: str) -> None:
        """Append that the Transit key has a new version."""

    def note_retirement(self, version: int, actor: str) -> None:
        """Append that key versions before ``version`` are retired."""


class Custody:
    """The one place that tells a credential's life. ``allowed``: endpoints that the operator listed."""

    def __init__(
        self,
        store: CredentialStore,
        sealer: Sealer,
        keeper: Keeper,
        clock: Clock,
        *,
        allowed: Collection[str] = (),
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._keeper = keeper
        self._clock = clock
        self._allowed = allowed
        self._new_id = new_id

    def add(
        self,
        caller: Caller,
        secret: Secret,
        *,
        name: str,
        owner: str = "",
        profile: str = "",
        expires_at: datetime | None = None,
        purge_after: datetime | None = None,
    ) -> Credential:
        """Take a secret into custody and return its metadata; ``owner`` is the caller unless an operator says else.

        Without ``purge_after`` it is destroyed 30 days after it expires; one without expiry is kept until
        somebody purges it. Raises InputError, StoreError, VaultError: what was begun is destroyed then, at once
        or by the sweep. (A connection to Postgres that breaks while the last commit is answered may leave it active.)
        """
        now = self._clock.now()
        credential = Credential(
            id=self._new_id(),
            owner=_permitted(caller, owner or caller.name),
            kind=secret.kind,
            name=_checked_name("name", name),
            profile=_checked_name("profile", profile) if profile else "",
            endpoint=self._checked_endpoint(secret),
            state=CredentialState.SEALING,
            created_at=now,
            created_by=caller.name,
            expires_at=_future("expires", expires_at, now),
            purge_after=_purge_time(expires_at, _future("purge_after", purge_after, now)),
        )
        self._store.add(credential, caller.name)
        try:
            version = self._sealer.seal(credential.id, credential.owner, secret)
            self._store.activate(credential.id, version, caller.name)
        except CloudPushError as e:
            self._abandon(credential.id, caller, e)
            raise
        return replace(credential, state=CredentialState.ACTIVE, transit_key_version=version)

    def list(
        self, caller: Caller, *, everyone: bool = False, purged: bool = False, limit: int = 1000
    ) -> Sequence[Credential]:
        """The caller's credentials, newest first; ``everyone``'s for an operator. Raises InputError, StoreError."""
        if everyone and not caller.operator:
            raise InputError(Code.NOT_OWNER, "Only an operator may list everyone's credentials.", field="everyone")
        return self._store.find(None if everyone else caller.name, purged=purged, limit=limit)

    def show(self, caller: Caller, credential_id: UUID) -> Credential:
        """One credential's metadata. Raises InputError (unknown, not the caller's), StoreError."""
        credential = self._store.get(credential_id)
        if credential is None:
            raise InputError(Code.UNKNOWN_CREDENTIAL, f"credential={credential_id} does not exist.", field="credential")
        _permitted(caller, credential.owner)
        return credential

    def purge(self, caller: Caller, credential_id: UUID) -> Credential:
        """Destroy the secret now; the metadata stays. Repeatable.

        From the first commit on nothing can unseal it. Raises InputError (unknown, not the caller's, a consent that was
        not revoked), StoreError,
        VaultError: then the sweep goes on destroying it.
        """
        self._may_purge(self.show(caller, credential_id))
        self._destroy(credential_id, Reason.REQUESTED, caller)
        return self.show(caller, credential_id)

    def start_purge(self, caller: Caller, credential_id: UUID) -> Credential:
        """As :meth:`purge`, for whoever may destroy nothing in Vault: the sweep does, within seconds. Repeatable."""
        self._may_purge(self.show(caller, credential_id))
        self._store.start_purge(credential_id, Reason.REQUESTED, caller.name)
        return self.show(caller, credential_id)

    def purge_due(self, caller: Caller = SWEEPER, *, limit: int = SWEEP_LIMIT) -> int:
        """Destroy what is due, half destroyed or abandoned, and note what expired; for the sweep. Repeatable.

        Returns how many were destroyed. That one expired is only noted here: claiming a push compares the time
        itself. Raises StoreError, VaultError: what was not reached is found again.
        """
        now, until = self._clock.now(), time.monotonic() + SWEEP_SECONDS
        self._store.expire(now, limit, caller.name)
        destroyed = 0
        for credential_id, reason in self._store.due(now, now - SEALING_PATIENCE, now - SET_PATIENCE, limit):
            if self._destroy(credential_id, reason, caller):
                log.info("credential.purged", credential=str(credential_id), reason=str(reason))
                destroyed += 1
            if time.monotonic() > until:
                break
        return destroyed

    def rotate(self, caller: Caller, *, resume: bool = False) -> Rotation:
        """Give the Transit key a new version, rewrap every data key with it, then retire the older versions.

        No plaintext is touched and work goes on meanwhile. Interrupted, it is repeated with ``resume``, which
        adds no further version. A credential that cannot be rewrapped is reported; nothing is retired
        then, nor while somebody adds a credential. Raises InputError (not an operator), StoreError, VaultError.
        """
        if not caller.operator:
            raise InputError(Code.NOT_OWNER, "Only an operator may rotate the key.", field="operator")
        version = self._keeper.newest() if resume else self._keeper.rotate()
        if not resume:
            self._store.note_rotation(version, caller.name)
        rewrapped, failed = self._rewrap_all(version, caller)
        blocks, damaged = self._rewrap_sets(version, caller)
        rewrapped, failed = rewrapped + blocks, [*failed, *damaged]
        retired = not failed and self._store.wraps_only(version)
        if retired:
            self._keeper.retire(version)
            self._store.note_retirement(version, caller.name)
        return Rotation(version, rewrapped, tuple(failed), retired)

    def _rewrap_all(self, version: int, caller: Caller) -> tuple[int, Sequence[UUID]]:
        rewrapped, failed, after = 0, [], None
        while page := self._store.wrapped_before(version, after, PAGE):
            for credential in page:
                try:
                    now_by = self._keeper.rewrap(credential.id, credential.owner, credential.kind, version)
                except CredentialError as e:
                    log.warning("credential.not_rewrapped", credential=str(credential.id), code=str(e.code))
                    failed.append(credential.id)
                else:
                    self._store.rewrapped(credential.id, now_by, caller.name)
                    rewrapped += 1
            after = page[-1].id
        return rewrapped, failed

    def _rewrap_sets(self, version: int, caller: Caller) -> tuple[int, Sequence[UUID]]:
        """As for credentials, block by block; a set is named once, however many of its blocks are damaged."""
        rewrapped, failed, after = 0, dict[UUID, None](), None
        while page := self._store.blocks_wrapped_before(version, after, PAGE):
            noted: dict[tuple[UUID, int], list[int]] = {}
            for block in page:
                try:
                    now_by = self._keeper.rewrap_sheet(
                        block.credential_id, block.owner, block.number, version, block.kind
                    )
                    rewrapped += 1
                except CredentialError as e:
                    if e.code is not Code.CREDENTIAL_PURGED or block.version is not None:
                        log.warning("credential.not_rewrapped", credential=str(block.credential_id), code=str(e.code))
                        failed[block.credential_id] = None
                        continue
                    if block.sealed_at >= self._clock.now() - SEALING_PATIENCE:
                        continue  # on its way to Vault, perhaps under the older key: nothing is retired for now
                    now_by = version  # a worker reserved it and did not come to seal it: there is nothing to rewrap
                noted.setdefault((block.credential_id, now_by), []).append(block.number)
            for (credential_id, now_by), numbers in noted.items():
                self._store.blocks_rewrapped(credential_id, numbers, now_by, caller.name)
            after = (page[-1].credential_id, page[-1].number)
        return rewrapped, tuple(failed)

    def _destroy(self, credential_id: UUID, reason: Reason, caller: Caller, *, settled: bool = False) -> bool:
        """Whether it is gone for good. Otherwise a block may still be on its way to Vault, and the sweep comes again.

        ``settled``: nothing can be on its way; whoever sealed says so.
        """
        self._store.start_purge(credential_id, reason, caller.name)
        after = 0
        while numbers := self._store.blocks(credential_id, after, PAGE):
            self._keeper.purge_sheets(credential_id, numbers)
            after = numbers[-1]
        if not after:
            self._keeper.purge(credential_id)
        since = None if settled else self._clock.now() - SEALING_PATIENCE
        return self._store.end_purge(credential_id, caller.name, since)

    def _may_purge(self, credential: Credential) -> None:
        """Raise InputError for a consent that was not revoked."""
        consent = credential.kind in GRANT_KINDS and credential.state is CredentialState.ACTIVE
        if consent and credential.purge_after is None:  # which its revocation sets
            raise InputError(
                Code.BAD_INPUT,
                f"credential {credential.name!r} is a consent: its provider is to be told, too. "
                f"Revoke it with `cloudpush grant revoke {credential.id}`; it is purged then.",
                field="credential",
            )

    def discard(self, caller: Caller, credential_id: UUID, reason: Reason = Reason.UNUSED) -> None:
        """Destroy what its sealer has finished with and no push will use.

        Never raises: what cannot be done now, the sweep finds by the row.
        """
        try:
            self._destroy(credential_id, reason, caller, settled=True)
        except CloudPushError as e:
            log.warning("credential.left_to_the_sweep", credential=str(credential_id), code=str(e.code))

    def _abandon(self, credential_id: UUID, caller: Caller, cause: CloudPushError) -> None:
        """Give up a credential that did not get as far as active; what Vault may hold of it is destroyed.

        The error that led here is the one to report. What cannot be done now, the sweep finds by the row.
        """
        log.warning("credential.abandoned", credential=str(credential_id), code=str(cause.code))
        self.discard(caller, credential_id, Reason.ABANDONED)

    def _checked_endpoint(self, secret: Secret) -> str:
        return check_endpoint(secret.endpoint, self._allowed) if secret.endpoint else ""


def _permitted(caller: Caller, owner: str) -> str:
    if not caller.may(owner):
        raise InputError(Code.NOT_OWNER, f"The credential belongs to {owner!r}, not to {caller.name!r}.", field="owner")
    return owner


def _checked_name(field_name: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(
            Code.BAD_INPUT,
            f"{field_name} must have 1 to 200 characters, all of them printable Unicode.",
            field=field_name,
        )
    return name


def _future(field_name: str, moment: datetime | None, now: datetime) -> datetime | None:
    if moment is not None and moment <= now:
        raise InputError(
            Code.BAD_INPUT, f"{field_name}={moment.isoformat()} is over; name a time to come.", field=field_name
        )
    if moment is not None and moment > now + LONGEST:
        raise InputError(
            Code.BAD_INPUT,
            f"{field_name}={moment.isoformat()} is too far away: leave it out where there is no end.",
            field=field_name,
        )
    return moment


def _purge_time(expires_at: datetime | None, purge_after: datetime | None) -> datetime | None:
    return purge_after or (expires_at + KEPT_AFTER_EXPIRY if expires_at else None)
