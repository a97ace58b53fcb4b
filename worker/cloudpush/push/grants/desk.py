"""A grant, seen by its user: look at it, share it, try it out, take it back.

What only a worker can do (unseal, sign) is noted as a chore, which a worker takes up within seconds. Who
may ask is decided here, by the row's owner: the doors bring a :class:`~cloudpush.push.credential.Caller` and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from cloudpush.errors import Code, InputError
from cloudpush.push.credential import Caller
from cloudpush.push.grants.model import Chore, Grant, GrantState, Share
from cloudpush.push.grants.ports import GrantStore, Providers
from cloudpush.push.job import Destination
from cloudpush.push.ports import Clock

#: A share is a promise that somebody has to remember: it ends by itself after so long at the latest.
LONGEST_SHARE = timedelta(days=366)
_PRINCIPAL = re.compile(r"[^\s\x00-\x1f\x7f-\x9f\ud800-\udfff](?:[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{0,198}\S)?")


class Grants:
    """The user's side of grants. Raises InputError UNKNOWN_GRANT and NOT_OWNER, and StoreError, throughout.

    ``parse``: (URI, profile name) → Destination, as intake has it.
    """

    def __init__(
        self,
        *,
        store: GrantStore,
        clock: Clock,
        providers: Providers,
        parse: Callable[[str, str], Destination],
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._store = store
        self._clock = clock
        self._providers = providers
        self._parse = parse
        self._new_id = new_id

    # -- looking ---------------------------------------------------------------------------

    def list(self, caller: Caller, *, everyone: bool = False, ended: bool = False) -> Sequence[Grant]:
        """The caller's grants, newest first; ``everyone``'s for an operator; revoked ones on demand."""
        if everyone and not caller.operator:
            raise InputError(Code.NOT_OWNER, "Only an operator may list everyone's connections.", field="everyone")
        return self._store.find(None if everyone else caller.name, ended=ended)

    def shared_with(self, caller: Caller) -> Sequence[tuple[Grant, Share]]:
        """Grants of others that the caller may push with now."""
        return self._store.shared_with(caller.name)

    def show(self, caller: Caller, grant_id: UUID) -> Grant:
        """One grant's metadata."""
        grant = self._store.get(grant_id)
        if grant is None:
            raise _unknown(str(grant_id))
        if not caller.may(grant.owner):
            raise InputError(Code.NOT_OWNER, f"connection {str(grant_id)!r} belongs to another owner.", field="grant")
        return grant

    def find(self, caller: Caller, reference: str) -> Grant:
        """The grant with this id, or with this name among the caller's live ones."""
        try:
            return self.show(caller, UUID(reference))
        except ValueError:
            pass  # it is a name
        found = next((g for g in self._store.find(caller.name) if g.name == reference), None)
        if found is None:
            raise _unknown(reference)
        return found

    def shares(self, caller: Caller, grant_id: UUID) -> Sequence[Share]:
        """All shares of a grant, ended ones too, newest first."""
        self.show(caller, grant_id)
        return self._store.shares(grant_id)

    def waiting(self, caller: Caller, grant_id: UUID) -> Sequence[UUID]:
        """Pushes that wait until the grant is reconnected."""
        self.show(caller, grant_id)
        return self._store.waiting(grant_id)

    # -- acting ------------------------------------------------------------------------------

    def revoke(self, caller: Caller, grant_id: UUID) -> Grant:
        """Take it back: from now on nobody may use it, and what runs with it stops. Repeatable.

        A worker then tells the provider, and the sweep destroys its tokens.
        """
        grant = self.show(caller, grant_id)
        if grant.state not in (GrantState.REVOKING, GrantState.REVOKED):
            self._store.revoke(grant_id, caller.name)
        return self.show(caller, grant_id)

    def share(self, caller: Caller, grant_id: UUID, *, principal: str, uri: str, until: datetime) -> Share:
        """Let ``principal`` push with it below ``uri``, SCHEME://BUCKET[/PREFIX], until then."""
        grant = self.show(caller, grant_id)
        now = self._clock.now()
        share = Share(
            id=self._new_id(),
            grant_id=grant_id,
            principal=_principal(principal, grant.owner),
            uri=self._prefix(grant, uri),
            until=_until(until, now),
            created_at=now,
            created_by=caller.name,
        )
        self._store.share(share, caller.name)
        return share

    def unshare(self, caller: Caller, share_id: UUID) -> Share:
        """End a share: what is pushed by it stops. Repeatable."""
        return self._store.unshare(share_id, None if caller.operator else caller.name, caller.name)

    def check(self, caller: Caller, grant_id: UUID) -> Grant:
        """Have a worker try it out; what came of it is in ``checked_at`` and ``check_*`` soon. Repeatable."""
        grant = self.show(caller, grant_id)
        if grant.state in (GrantState.REVOKING, GrantState.REVOKED):
            raise InputError(Code.CONSENT_REVOKED, f"connection {grant.name!r} is {grant.state}.", field="grant")
        self._store.want(grant_id, Chore.CHECK, caller.name)
        return grant

    def checking(self, caller: Caller, grant_id: UUID) -> bool:
        """Whether a check was asked for that no worker has made yet."""
        self.show(caller, grant_id)
        return Chore.CHECK in self._store.due_chores(grant_id)

    def _prefix(self, grant: Grant, uri: str) -> str:
        """``uri`` as pushes write it. Raises InputError where no push with the grant could go there."""
        profile = self._providers.get(grant.provider).profile
        try:
            return self._parse(uri, profile).uri
        except InputError as e:
            raise InputError(e.code, f"What {grant.name!r} is shared for: {e.message}", field="uri") from e


def _principal(text: str, owner: str) -> str:
    name = text.strip()
    if not _PRINCIPAL.fullmatch(name):
        raise InputError(
            Code.BAD_INPUT,
            f"principal {text[:200]!r} is no name: write the owner of the pushes, 1 to 200 printable characters.",
            field="principal",
        )
    if name == owner:
        raise InputError(Code.BAD_INPUT, f"principal {name!r} is its owner and needs no share.", field="principal")
    return name


def _until(until: datetime, now: datetime) -> datetime:
    if until <= now:
        raise InputError(Code.BAD_INPUT, f"until {until:%Y-%m-%d %H:%M} UTC is over already.", field="until")
    if until > now + LONGEST_SHARE:
        raise InputError(
            Code.BAD_INPUT,
            f"until {until:%Y-%m-%d} is too far away: a share lasts {LONGEST_SHARE.days} days at most, and can be renewed.",
            field="until",
        )
    return until


def _unknown(reference: str) -> InputError:
    return InputError(Code.UNKNOWN_GRANT, f"connection {reference[:200]!r} is not known.", field="grant")
