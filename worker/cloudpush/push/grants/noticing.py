"""Noticing that a consent is needed anew, whoever says so.

A refresh that the provider refuses notes that itself. But a storage account or STS may refuse tokens that their provider
calls good: of another directory, of a session that an administrator ended. Only the grant's user can help, so the grant is to
say *reconnect*: its pushes wait, the page and the webhook tell, and nobody tries again every second.

Where access cannot be lent just now (STS out of order, the delegation key not to be had, our own issuer out of its reach),
nothing of the push was tried, so nothing counts against it: GRANT_UNAVAILABLE.
"""

from __future__ import annotations

from uuid import UUID

from cloudpush.errors import CloudPushError, Code, CredentialError, DestinationError
from cloudpush.logs import get_logger
from cloudpush.push.grants.model import Grant, GrantState, Pass
from cloudpush.push.grants.ports import GrantStore, Minter
from cloudpush.push.job import Push, Secret

log = get_logger(__name__)

#: Not a host without an address, or one where nothing listens: a user's answer may be part of its name.
_AWAY = frozenset({Code.PROVIDER_UNAVAILABLE, Code.THROTTLED, Code.NETWORK})


class NoticingMinter:
    """``push.grants.ports.Minter``: another one's, with its CONSENT_NEEDED written down and its outages called so. Thread-safe."""

    def __init__(self, minter: Minter, store: GrantStore, worker: str) -> None:
        self._minter = minter
        self._store = store
        self._worker = worker

    def mint(self, push: Push, refused: Secret | None = None) -> Pass:
        """See the port."""
        try:
            return self._minter.mint(push, refused)
        except CredentialError as e:
            self._note(push.credential_id, e)
            raise
        except CloudPushError as e:
            if e.code not in _AWAY:
                raise
            raise DestinationError(Code.GRANT_UNAVAILABLE, f"No access just now: {e.message}", detail=e.detail) from e

    def check(self, grant: Grant) -> None:
        """See the port."""
        try:
            self._minter.check(grant)
        except CredentialError as e:
            self._note(grant.id, e)
            raise

    def _note(self, grant_id: UUID, error: CredentialError) -> None:
        if error.code is not Code.CONSENT_NEEDED:
            return
        grant = self._store.get(grant_id)
        if grant is None or grant.state is not GrantState.ACTIVE:
            return  # known, or over
        # One that was reconnected since has another generation; of the two that meet here the worse is noted, and the user
        # who has just consented does so once more.
        log.warning("consent needed anew", grant=str(grant_id), error=error.message)
        self._store.need_reconnect(grant, error, self._worker)
