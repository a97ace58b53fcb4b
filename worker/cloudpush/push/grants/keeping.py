"""The worker's side of grants: what only who may unseal and sign can do about one.

::

    check     try it out, without a push                        once: a failure is an answer, too
    notify    tell the owner's webhooks: reconnect              tried again for a day
    revoke    tell the provider, then have Vault purged         tried again for a day, then purged all the same

Each is a chore in Postgres, which the hands of some worker take up. Whoever does it twice does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING
from uuid import UUID

from cloudpush.errors import CloudPushError, Code, CredentialError
from cloudpush.logs import get_logger, traceback_of
from cloudpush.push.grants.model import WEB_IDENTITY, Chore, Grant, GrantState, Tokens
from cloudpush.push.ports import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudpush.push.grants.ports import GrantStore, Minter, Notifier, Providers, TokenEndpoint, TokenSafe

log = get_logger(__name__)

#: A provider that cannot be told, a webhook that does not answer: given up after so long.
PATIENCE = timedelta(hours=24)
#: Seconds until a chore is tried again: a tenth of how long it has been due, within these.
SOONEST, LATEST = 5.0, 900.0
#: Seconds to wait for a refresh that is under way: it would make tokens that nobody revokes.
LOCK_SECONDS = 30.0


class GrantKeeping:
    """Does chores. One instance a worker process; safe to use from several threads."""

    def __init__(
        self,
        *,
        store: GrantStore,
        providers: Providers,
        safe: TokenSafe,
        endpoint: TokenEndpoint,
        minter: Minter,
        notifier: Notifier,
        clock: Clock,
        worker: str,
    ) -> None:
        self._store = store
        self._providers = providers
        self._safe = safe
        self._endpoint = endpoint
        self._minter = minter
        self._notifier = notifier
        self._clock = clock
        self._worker = worker
        self._doing: Mapping[Chore, Callable[[Grant], None]] = MappingProxyType(
            {Chore.REVOKE: self._revoke, Chore.NOTIFY: self._notify, Chore.CHECK: self._check}
        )

    def attend(self, grant_id: UUID) -> int:
        """Do what is due for a grant; how many chores. Raises StoreError: it is taken up again."""
        due = self._store.due_chores(grant_id)
        for chore, do in self._doing.items():
            grant = self._store.get(grant_id) if chore in due else None
            if grant is None:
                continue
            try:
                do(grant)
            except CloudPushError as e:
                self._failed(grant, chore, due[chore], e)
            except Exception as e:  # noqa: BLE001 -- a chore that is never ended would be announced for ever
                log.error("defect", grant=str(grant_id), chore=chore.value, traceback=traceback_of(e))  # noqa: TRY400 -- it would show local variables
                self._failed(
                    grant, chore, due[chore], CloudPushError(Code.INTERNAL, f"{type(e).__name__} inside CloudPush.")
                )
        return len(due)

    # -- the chores ----------------------------------------------------------------------------

    def _check(self, grant: Grant) -> None:
        if grant.state is GrantState.RECONNECT:
            raise CredentialError(Code.CONSENT_NEEDED, grant.trouble_message or "Its provider no longer accepts it.")
        if grant.state is GrantState.ACTIVE:
            self._minter.check(grant)
        self._store.end_chore(grant.id, Chore.CHECK, None, None)

    def _notify(self, grant: Grant) -> None:
        told = grant.state is GrantState.RECONNECT and self._notifier.reconnect_needed(
            grant, self._store.waiting(grant.id)
        )
        # Reconnected or revoked meanwhile, or no webhook to tell: that is what the ledger says.
        nobody = (
            None if told else CloudPushError(Code.UNKNOWN_CREDENTIAL, "There is no webhook to tell, or no need to.")
        )
        self._store.end_chore(grant.id, Chore.NOTIFY, nobody, None)

    def _revoke(self, grant: Grant) -> None:
        with self._store.lock(grant.id, LOCK_SECONDS):
            now = self._store.get(grant.id)
            if now is None or now.state is not GrantState.REVOKING:
                self._store.end_chore(grant.id, Chore.REVOKE, None, None)  # somebody else was quicker
                return
            told, why = self._tell_provider(now)
            self._end_revocation(now, told, why)

    def _tell_provider(self, grant: Grant) -> tuple[bool, CloudPushError | None]:
        """Whether the provider knows now, and why it does not. Raises CloudPushError where that may pass."""
        if grant.kind == WEB_IDENTITY or grant.generation == 0:
            return False, self._untold(grant, "CloudPush holds nothing of it that a provider could revoke")
        self._store.note_opened(grant, self._worker, ending=True)
        try:
            tokens = self._newest(grant)
        except CredentialError as e:
            return False, self._untold(grant, f"its tokens cannot be read any more ({e.code})")
        provider = self._providers.resolve(self._providers.get(grant.provider))
        if self._endpoint.revoke(provider, tokens):
            return True, None
        return False, self._untold(grant, "the provider offers no way to revoke it from here")

    def _newest(self, grant: Grant) -> Tokens:
        """Its tokens: those of a refresh that nobody said the end of, where they got to Vault."""
        # A provider that rotates may take a spent token for an unknown one, and revoke nothing.
        found = self._safe.find_tokens(grant.id, grant.owner, grant.pending) if grant.pending else None
        return Tokens.load(found[0] if found else self._safe.open_tokens(grant.id, grant.owner, grant.generation))

    # -- how they end --------------------------------------------------------------------------

    def _failed(self, grant: Grant, chore: Chore, since: datetime, error: CloudPushError) -> None:
        log.warning("chore not done", grant=str(grant.id), chore=chore.value, code=error.code, error=error.message)
        over = self._clock.now() - since > PATIENCE
        if chore is Chore.REVOKE and (over or not error.code.retryable):
            self._end_revocation(grant, False, self._untold(grant, f"the provider could not be told ({error})"))
        elif chore is Chore.CHECK or over or not error.code.retryable:
            # Of a check the failure is the answer.
            self._store.end_chore(grant.id, chore, error, None)
        else:
            self._store.end_chore(grant.id, chore, error, self._pause(since))

    def _end_revocation(self, grant: Grant, told: bool, error: CloudPushError | None) -> None:
        self._store.end_revocation(grant.id, told, error, self._worker)
        self._store.end_chore(grant.id, Chore.REVOKE, error, None)
        log.info("grant revoked", grant=str(grant.id), told=told)

    def _pause(self, since: datetime) -> float:
        waited = (self._clock.now() - since).total_seconds()
        return min(max(waited / 10, SOONEST), LATEST) * (0.5 + 0.5 * self._clock.jitter())

    def _untold(self, grant: Grant, why: str) -> CloudPushError:
        """Words for the ledger and for the user, who alone can end it at the provider."""
        where = grant.provider
        with suppress(CloudPushError):  # the operator took it away; what is sealed has to be destroyed all the same
            provider = self._providers.get(grant.provider)
            where = provider.manage_url or provider.title
        return CloudPushError(
            Code.PROVIDER_REFUSED, f"CloudPush has given it up, but {why}: remove its access yourself at {where}."
        )
