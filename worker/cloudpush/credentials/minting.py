"""Makes passes from grants: what a push is opened with for about an hour, for no more than its bucket or prefix.

::

    bearer                the access token itself (Google)
    user_delegation_sas   a signature for one container or directory, see mint_azure
    web_identity          keys of a role, narrowed to one bucket and prefix, see mint_aws

A pass is kept until it is due, so that the parts of a push share it; whoever asks meanwhile for one that is being made waits
for that one. Nothing is kept across a reconnect: it may be another account's.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar
from uuid import UUID, uuid4

from cloudpush.credentials.mint_aws import OURS, IdentityOverError, Keys, Role, assume, session_policy
from cloudpush.credentials.mint_azure import Account, DelegationKey, fetch_key, sign
from cloudpush.errors import CloudPushError, Code, ConsentRevoked, CredentialError, InputError
from cloudpush.logs import get_logger
from cloudpush.push.credential import CredentialState
from cloudpush.push.grants.model import Bearer, Grant, GrantState, Pass, Provider, Tokens, Use, renew_at
from cloudpush.push.grants.policies import NOTHING, compact
from cloudpush.push.grants.ports import GrantStore, IdentityTokens, Providers
from cloudpush.push.job import Push, Secret
from cloudpush.push.ports import Clock
from cloudpush.push.states import Overwrite

#: Life of an identity token: long enough for one request.
IDENTITY_SECONDS = 300
#: A pass that could not be renewed, and lives, is used on; the next try comes after half of its rest, within these limits.
AGAIN_LEAST, AGAIN_MOST = timedelta(seconds=1), timedelta(seconds=30)
#: What is about to end is not handed out.
ENDING = timedelta(seconds=1)

log = get_logger(__name__)

T = TypeVar("T")


class AccessTokens(Protocol):
    """Where tokens come from: ``push.grants.access.Access``."""

    def tokens(self, grant_id: UUID, *, beyond: int = 0) -> tuple[Grant, Tokens]:
        """A grant and its tokens, renewed where they are due. ``beyond``: a generation that was refused: a later one is given."""


@dataclass(slots=True)
class _Slot(Generic[T]):
    """Something that is kept until it ends, and the lock under which it is made. ``users``: who is at it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    value: T | None = None
    ends_at: datetime | None = None  # None: never
    users: int = 0

    def is_over(self, now: datetime) -> bool:
        """Whether nobody misses it."""
        return not self.users and (self.value is None or (self.ends_at is not None and self.ends_at <= now))


class _Shelf(Generic[T]):
    """Keeps one value for each key. Thread-safe; a value is made once, however many ask for it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._slots: dict[Hashable, _Slot[T]] = {}

    @contextmanager
    def slot(self, key: Hashable) -> Iterator[_Slot[T]]:
        """The place for ``key``, for us alone meanwhile. What is over is dropped when a new place is made."""
        with self._lock:
            if key not in self._slots:
                now = self._clock.now()
                self._slots = {known: slot for known, slot in self._slots.items() if not slot.is_over(now)}
            slot = self._slots.setdefault(key, _Slot())
            slot.users += 1
        try:
            with slot.lock:
                yield slot
        finally:
            with self._lock:
                slot.users -= 1


class Mint:
    """``push.grants.ports.Minter``. One for a process; thread-safe."""

    def __init__(
        self,
        *,
        access: AccessTokens,
        store: GrantStore,
        providers: Providers,
        identity: IdentityTokens,
        clock: Clock,
        allowed: Collection[str] = (),
    ) -> None:
        """``allowed``: the operator's listed hosts; only to these an identity token goes by plain http."""
        self._access = access
        self._store = store
        self._providers = providers
        self._identity = identity
        self._clock = clock
        self._allowed = frozenset(allowed)
        self._passes: _Shelf[Pass] = _Shelf(clock)
        self._keys: _Shelf[DelegationKey] = _Shelf(clock)
        self._given: dict[
            UUID, tuple[bytes, int]
        ] = {}  # of the access token that was handed out last: digest, generation

    def mint(self, push: Push, refused: Secret | None = None) -> Pass:
        """See the port."""
        grant, provider = self._known(push.credential_id)
        if grant.owner != push.sealed_for:
            raise CredentialError(Code.NOT_OWNER, f"The connection {grant.name!r} is not {push.sealed_for!r}'s.")
        if push.destination.profile.name != provider.profile:
            raise InputError(
                Code.BAD_INPUT,
                f"profile {push.destination.profile.name!r} is not where {provider.title} is: a push with the connection "
                f"{grant.name!r} goes to the profile {provider.profile!r}.",
                field="profile",
            )
        match provider.use:
            case Use.BEARER:
                return self._bearer(grant, provider, refused)
            case Use.USER_DELEGATION_SAS:
                return self._sas(grant, provider, push, refused)
            case Use.WEB_IDENTITY:
                return self._keys_of_role(grant, provider, push, refused)

    def check(self, grant: Grant) -> None:
        """See the port. Leaves nothing behind, neither here nor at the provider."""
        grant, provider = self._known(grant.id)
        match provider.use:
            case Use.BEARER:
                self._access.tokens(grant.id)
            case Use.USER_DELEGATION_SAS:
                self._fetched(grant, provider, Account.of(provider, grant))
            case Use.WEB_IDENTITY:
                self._check_role(grant, provider)

    # -- what a push uses ------------------------------------------------------------------------

    def _bearer(self, grant: Grant, provider: Provider, refused: Secret | None) -> Pass:
        """Access keeps tokens itself: whether further ones are due is its decision."""
        given, generation = self._given.get(grant.id, (b"", 0))
        over = refused is not None and _digest(refused.reveal().get("access_token", "")) == given
        found, tokens = self._access.tokens(grant.id, beyond=generation if over else 0)
        self._given[grant.id] = (_digest(tokens.access_token), found.generation)
        now, ends_at = self._clock.now(), tokens.expires_at
        where = {"endpoint": provider.endpoint, "ca_file": provider.ca_file}
        if ends_at is None:
            return Pass(Bearer(tokens.access_token, None, None, **where), None, None)
        due_at = renew_at(tokens.issued_at or grant.refreshed_at or grant.granted_at or now, ends_at)
        if due_at <= now:  # the refresh brought nothing, and this one lives
            due_at = _later(now, ends_at)
        return Pass(Bearer(tokens.access_token, ends_at, due_at, **where), ends_at, due_at)

    def _sas(self, grant: Grant, provider: Provider, push: Push, refused: Secret | None) -> Pass:
        account = Account.of(provider, grant)
        destination = push.destination
        whose = (grant.id, grant.granted_at, account)
        prefix = destination.prefix if account.hierarchical else ""

        def make(now: datetime) -> Pass:
            key = self._key(whose, grant, provider, account, anew=refused is not None)
            ends_at = now + timedelta(seconds=provider.session_seconds)
            sas = sign(account, key, destination.bucket, prefix, ends_at, probe=push.probe)
            return Pass(sas, sas.expires_at, renew_at(now, sas.expires_at))

        return self._kept((*whose, destination.bucket, prefix, push.probe), make, refused)

    def _key(self, whose: Hashable, grant: Grant, provider: Provider, account: Account, *, anew: bool) -> DelegationKey:
        """A key that signs for long enough. ``anew``: what the last one signed was refused."""
        with self._keys.slot(whose) as slot:
            now = self._clock.now()
            if slot.value is not None and now < slot.value.fresh_until and not anew:
                return slot.value
            slot.value = self._fetched(grant, provider, account)
            slot.ends_at = slot.value.expires_at
            return slot.value

    def _fetched(self, grant: Grant, provider: Provider, account: Account) -> DelegationKey:
        found, tokens = self._access.tokens(grant.id)
        try:
            return fetch_key(provider, account, tokens.access_token, self._clock.now())
        except CloudPushError as e:
            if e.code not in {Code.CONSENT_NEEDED, Code.CLOCK_SKEW}:
                raise
            log.info("mint.token_refused", grant=str(grant.id), code=str(e.code))
        # It is the token that is refused. A further one may do; if it does not, only its user can help.
        _, tokens = self._access.tokens(grant.id, beyond=found.generation)
        return fetch_key(provider, account, tokens.access_token, self._clock.now())

    def _keys_of_role(self, grant: Grant, provider: Provider, push: Push, refused: Secret | None) -> Pass:
        role = Role.of(provider, grant, self._allowed)
        policy = session_policy(
            push.destination, role.arn, listing=push.overwrite is not Overwrite.ALWAYS, probe=push.probe
        )

        def make(now: datetime) -> Pass:
            keys = self._assumed(grant, provider, role, name=f"cloudpush-{push.id}", policy=policy)
            return Pass(keys.secret, keys.expires_at, renew_at(now, keys.expires_at))

        # The push is part of it: the session bears its name, and the account's own log should not tell of another one.
        return self._kept((grant.id, grant.granted_at, role, policy, push.id), make, refused)

    def _assumed(self, grant: Grant, provider: Provider, role: Role, *, name: str, policy: str) -> Keys:
        if provider.identity_token == OURS:
            identity = self._identity.issue(grant, provider.audience, IDENTITY_SECONDS)
            return assume(provider, role, identity, name=name, policy=policy)
        found, tokens = self._access.tokens(grant.id)
        try:
            return assume(provider, role, _identity_in(tokens, provider), name=name, policy=policy)
        except IdentityOverError:
            # It may end before the access token, whose end is what a refresh goes by.
            _, tokens = self._access.tokens(grant.id, beyond=found.generation)
        return assume(provider, role, _identity_in(tokens, provider), name=name, policy=policy)

    def _kept(self, key: Hashable, make: Callable[[datetime], Pass], refused: Secret | None) -> Pass:
        """The pass under ``key`` while it is not due, else another one."""
        with self._passes.slot(key) as slot:
            now, held = self._clock.now(), slot.value
            if held is not None and refused is not None and _same(held.secret, refused):
                held = slot.value = None
            if held is not None and (held.renew_at is None or now < held.renew_at):
                return held
            try:
                made = _paced(make(now), now)
            except CloudPushError as e:
                lives = held is not None and held.expires_at is not None and now < held.expires_at - ENDING
                if held is None or held.expires_at is None or not lives or not e.code.retryable:
                    raise
                log.warning("mint.kept", code=str(e.code), error=e.message)
                made = replace(held, renew_at=_later(now, held.expires_at))
            slot.value, slot.ends_at = made, made.expires_at
            return made

    # -- whether it may be used, and works ---------------------------------------------------------

    def _known(self, grant_id: UUID) -> tuple[Grant, Provider]:
        """The grant as it stands now. Raises ConsentRevoked, CredentialError, InputError."""
        grant = self._store.get(grant_id)
        if grant is None:
            raise CredentialError(Code.UNKNOWN_GRANT, f"There is no connection {grant_id}.")
        if grant.state in {GrantState.REVOKING, GrantState.REVOKED}:
            raise ConsentRevoked(f"The connection {grant.name!r} was revoked.")
        if grant.credential_state != CredentialState.ACTIVE:
            raise CredentialError(Code.CREDENTIAL_PURGED, f"The connection {grant.name!r} was purged.")
        if grant.state is GrantState.RECONNECT:
            raise CredentialError(
                Code.CONSENT_NEEDED, f"The connection {grant.name!r} is not valid any more: its user must reconnect."
            )
        return grant, self._providers.get(grant.provider)

    def _check_role(self, grant: Grant, provider: Provider) -> None:
        """Assume the role for nothing; then see that it refuses whom it does not know."""
        role, nothing = Role.of(provider, grant, self._allowed), compact([NOTHING])
        name = f"cloudpush-check-{grant.id.hex[:12]}"
        self._assumed(grant, provider, role, name=name, policy=nothing)
        if provider.identity_token != OURS or not role.pins_subjects:
            return
        stranger = replace(grant, id=uuid4())
        try:
            identity = self._identity.issue(stranger, provider.audience, IDENTITY_SECONDS)
            assume(provider, role, identity, name=name, policy=nothing)
        except CloudPushError as e:
            if e.code is Code.ACCESS_DENIED:
                return
            raise
        raise InputError(
            Code.BAD_INPUT,
            f"role_arn: the role {role.arn} accepts every connection of CloudPush, those of other users too: its trust policy must "
            f"demand that `sub` is {grant.id}, as the page of the connection shows.",
            field="role_arn",
        )


def _identity_in(tokens: Tokens, provider: Provider) -> str:
    if not tokens.id_token:
        raise CredentialError(
            Code.CONSENT_NEEDED,
            f"{provider.title} gave no identity token: reconnect, and have the operator ask for the scope openid.",
        )
    return tokens.id_token


def _paced(made: Pass, now: datetime) -> Pass:
    """``made``, due a little later at least: where clocks disagree it seems over, and would be asked for without pause."""
    if made.renew_at is None or made.expires_at is None or made.renew_at > now:
        return made
    return replace(made, renew_at=_later(now, made.expires_at))


def _later(now: datetime, ends_at: datetime) -> datetime:
    """When to try again to renew what could not be renewed and lives until ``ends_at``."""
    return now + min(max((ends_at - now) / 2, AGAIN_LEAST), AGAIN_MOST)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _same(one: Secret, other: Secret) -> bool:
    """Whether both open the same thing."""
    return one.kind == other.kind and dict(one.reveal()) == dict(other.reveal())
