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
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from cloudpush.errors import CloudPushError, Code, CredentialError, InputError
from cloudpush.logs import get_logger
from cloudpush.push.credential import (
    SWEEPER,
    Caller,
    Credential,
    CredentialState,
    CredentialStore,
    Keeper,
    Reason,
    Rotation,
    Sealer,
)
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
