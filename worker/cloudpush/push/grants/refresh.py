"""Refreshing: the one place that spends a refresh token.

::

    lock     the grant's advisory lock: one spender among all workers; the revoke chore and reconnects take the same one
    look     was somebody quicker? was one killed after its tokens got to Vault? then they are the current ones, and done
    open     the current generation (an event: the ledger knows of each)
    begin    Postgres: rows for two further blocks, and which of them is being filled
    prepare  Vault: an empty block is stored, the data key of the next fetched: so Vault takes writes, and is not full,
             sealed, read-only or out of reach. Where it is, nothing was spent
    spend    the provider: the refresh token goes out, tokens come back
    write    Vault: one request. For a minute again and again, since what is in hand may be the only copy
    finish   Postgres: the new block is the current generation

A process may be killed anywhere. What the next one finds, and what becomes of the grant:

==================  =====================  ==============  ============  ==================================================
killed between      the provider has       in Vault        in Postgres   the next refresh
==================  =====================  ==============  ============  ==================================================
look and begin      seen nothing           —               —             is the first
begin and prepare   seen nothing           —               pending       spends the old token, which nobody has
prepare and spend   seen nothing           an empty block  pending       likewise
spend and write     answered, maybe        an empty block  pending       spends the old token once more. ``never``, ``keeps_old``:
                                                                         it works. ``single_use``: the provider takes it for
                                                                         stolen and ends the grant: *Reconnect*
write and finish    answered               the tokens      pending       finds them, finishes; spends nothing
finish and return   answered               the tokens      the new ones  has nothing to do
==================  =====================  ==============  ============  ==================================================

So the one place where a grant can be lost is between spend and write, with a provider that rotates. That is why refreshes run
in a process of their own (``credentials.scribe``) that nobody kills with a worker; how long the place is: docs/oauth.md.

Postgres may restart in the middle: then the lock is gone while its holder goes on. Whoever gets the lock next sees that a
refresh is pending, and with a provider that rotates waits until its tokens are there, or until it cannot be waiting for an
answer any more (:data:`SETTLED`). For that, a spender who was held up before the spend does not begin (:data:`READY_SECONDS`).

Whoever asks while the access token is good is not kept waiting: a passing error, and he goes on with what he has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

from cloudpush.errors import CloudPushError, Code, ConsentRevoked, CredentialError, StoreError, VaultError
from cloudpush.logs import get_logger
from cloudpush.push.grants.model import Grant, GrantState, Provider, Rotation, Tokens
from cloudpush.push.grants.ports import GrantStore, Pen, Providers, TokenEndpoint, TokenSafe
from cloudpush.push.ports import Clock

log = get_logger(__name__)

#: Longer than any holder needs while Vault answers; then a passing error.
LOCK_SECONDS = 60.0
#: The same while the access token is good.
LOCK_SECONDS_AHEAD = 5.0
#: From the beginning until the client secret is asked for, which takes Vault at most half a minute; an answer of the provider
#: takes as much (``credentials.wire``).
READY_SECONDS = 15.0
#: A refresh that began before so long, whose tokens did not come, is not waiting for the provider any more.
SETTLED = timedelta(seconds=90)
#: Between two looks whether it ended.
LOOK_SECONDS = 0.5
#: How long tokens in hand are offered to a Vault that does not take them. All in all a refresh is over before custody's
#: REFRESH_PATIENCE is.
WRITE_SECONDS = 60.0
#: How long a Postgres that is away is told that they are in Vault; afterwards the next refresh finds them.
FINISH_SECONDS = 15.0
_PAUSE, _PAUSE_MOST = 0.1, 2.0


def usable(store: GrantStore, grant_id: UUID) -> Grant:
    """The grant as it stands now. Raises StoreError, ConsentRevoked, CredentialError CONSENT_NEEDED."""
    grant = store.get(grant_id)
    if grant is None or grant.credential_state != "active" or grant.state in (GrantState.REVOKING, GrantState.REVOKED):
        raise ConsentRevoked
    if grant.state is GrantState.RECONNECT:
        raise CredentialError(Code.CONSENT_NEEDED, grant.trouble_message or f"{grant.name!r} must be reconnected.")
    return grant


class Refresher:
    """Implements ``push.grants.ports.Renewing`` in this process. Thread-safe."""

    def __init__(
        self,
        *,
        store: GrantStore,
        safe: TokenSafe,
        endpoint: TokenEndpoint,
        providers: Providers,
        clock: Clock,
        worker: str,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._safe = safe
        self._endpoint = endpoint
        self._providers = providers
        self._clock = clock
        self._worker = worker
        self._sleep = sleep
        self._monotonic = monotonic

    def refresh(self, grant_id: UUID, seen: int) -> None:
        """Make a generation after ``seen`` the current one, unless somebody has by now. Blocks.

        Raises CredentialError CONSENT_NEEDED, ConsentRevoked, VaultError, StoreError, CloudPushError of the provider, and
        WORKER_LOST: a refresh is pending whose process may be gone, and the access token is good still.
        """
        while True:
            ahead = self._is_good(usable(self._store, grant_id))
            with self._store.lock(grant_id, LOCK_SECONDS_AHEAD if ahead else LOCK_SECONDS):
                grant = usable(self._store, grant_id)
                if grant.generation > seen:
                    return
                provider = self._providers.resolve(self._providers.get(grant.provider))
                if self._recovered(grant):
                    return
                if not self._is_waiting(grant, provider):
                    self._renew(grant, provider)
                    return
            if ahead:
                raise CloudPushError(
                    Code.WORKER_LOST, f"A refresh of {grant.name!r} that began at {grant.pending_at} has not ended yet."
                )
            self._sleep(LOOK_SECONDS)

    def _is_good(self, grant: Grant) -> bool:
        """Whether its access token is good for longer than the next look takes."""
        ends = grant.access_expires_at
        return ends is None or self._clock.now() + timedelta(seconds=LOCK_SECONDS_AHEAD + 1) < ends

    def _recovered(self, grant: Grant) -> bool:
        """Whether a refresh that nobody said the end of got its tokens to Vault: they are the current ones now."""
        if not grant.pending:
            return False
        found = self._safe.find_tokens(grant.id, grant.owner, grant.pending)
        if found is None:
            return False
        plaintext, version = found
        self._store.finish_refresh(grant, grant.pending, version, Tokens.load(plaintext), self._worker)
        log.info("grant.refresh_recovered", grant=str(grant.id), generation=grant.pending)
        return True

    def _is_waiting(self, grant: Grant, provider: Provider) -> bool:
        """Whether somebody who lost the lock may have the next tokens in hand, and spending would end the grant."""
        if provider.rotation is not Rotation.SINGLE_USE or grant.pending_at is None:
            return False
        return self._clock.now() - grant.pending_at < SETTLED

    def _renew(self, grant: Grant, provider: Provider) -> None:
        self._store.note_opened(grant, self._worker)
        tokens = Tokens.load(self._safe.open_tokens(grant.id, grant.owner, grant.generation))
        if not tokens.refresh_token:
            dead = CredentialError(
                Code.CONSENT_NEEDED, f"{provider.title} lent access for a time, without leave to go on, and it is over."
            )
            self._fail(grant, dead)
            raise dead
        began = self._monotonic()
        marker, number = self._store.start_refresh(grant, self._worker)
        try:
            pen = self._safe.prepare(grant.id, grant.owner, marker, number)
            if self._monotonic() - began > READY_SECONDS:
                raise VaultError(Code.VAULT_UNREACHABLE, "Vault answers too slowly to refresh a token.")
            fresh = self._endpoint.refresh(provider, tokens.refresh_token)
        except CloudPushError as e:
            self._fail(grant, e)
            raise
        version = self._write(grant, pen, fresh.dump())
        self._finish(grant, number, version, fresh)
        log.info("grant.refreshed", grant=str(grant.id), generation=number)

    def _write(self, grant: Grant, pen: Pen, plaintext: bytes) -> int:
        """Get the only copy to Vault. Raises VaultError after :data:`WRITE_SECONDS`; it may have got there."""
        until, pause = self._monotonic() + WRITE_SECONDS, _PAUSE
        while True:
            try:
                return pen.write(plaintext)
            except VaultError as e:
                log.warning("grant.tokens_not_sealed_yet", grant=str(grant.id), code=str(e.code))
                if self._monotonic() > until:
                    self._note_failure(grant, e)  # a VaultError: the block is still being waited for
                    raise
            self._sleep(pause)
            pause = min(pause * 2, _PAUSE_MOST)

    def _finish(self, grant: Grant, number: int, version: int, tokens: Tokens) -> None:
        """Say that they are there. Raises StoreError after :data:`FINISH_SECONDS`: the next refresh finds them."""
        until, pause = self._monotonic() + FINISH_SECONDS, _PAUSE
        while True:
            try:
                self._store.finish_refresh(grant, number, version, tokens, self._worker)
            except StoreError as e:
                log.warning("grant.refresh_not_noted_yet", grant=str(grant.id), code=str(e.code))
                if self._monotonic() > until:
                    raise
            else:
                return
            self._sleep(pause)
            pause = min(pause * 2, _PAUSE_MOST)

    def _fail(self, grant: Grant, error: CloudPushError) -> None:
        """No tokens came, and none will: nobody need wait for the block that was begun."""
        if isinstance(error, VaultError):  # before the spend; to the store a VaultError is one after it
            error = CloudPushError(error.code, error.message, detail=error.detail)
        self._note_failure(grant, error)

    def _note_failure(self, grant: Grant, error: CloudPushError) -> None:
        try:
            self._store.fail_refresh(grant, error, self._worker)
        except StoreError as e:
            log.warning("grant.failure_not_noted", grant=str(grant.id), code=str(e.code))
