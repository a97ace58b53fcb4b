"""Consent: from *Connect* to a grant, by way of the provider.

::

    begin     who asks, what for → attempt (ten minutes, one use) → the provider's page
    complete  state → attempt, used up → what the provider answered → whose answer it is → code for tokens →
              who consented → was it enough → row → seal → active            (reconnect: lock → block → seal → current)

State, nonce and PKCE verifier follow from the browser's session (``proofs``), so a callback is worth something in the
browser that set out and nowhere else. Whatever goes wrong after tokens came ends with the tokens given back to the
provider; a crash ends with a ``sealing`` row that the sweep destroys. A new grant has the id of its attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID, uuid4

from cloudpush.errors import CloudPushError, Code, InputError, StoreError, VaultError
from cloudpush.logs import get_logger
from cloudpush.push.credential import Credential, CredentialState
from cloudpush.push.grants import proofs
from cloudpush.push.grants.judging import check_enough, check_way, code_of, differences
from cloudpush.push.grants.model import (
    OAUTH_GRANT,
    WEB_IDENTITY,
    Attempt,
    AttemptEnd,
    Chore,
    Flow,
    Grant,
    GrantState,
    Provider,
    Tokens,
)
from cloudpush.push.grants.ports import GrantStore, Providers, TokenSealer
from cloudpush.push.grants.questions import checked_answers, checked_name, names
from cloudpush.push.grants.refusals import Refused, fix_of
from cloudpush.push.grants.scopes import Judgement, judge
from cloudpush.push.ports import Clock

log = get_logger(__name__)

#: How long a user may take at the provider.
ATTEMPT_LIFE = timedelta(minutes=10)
#: Seconds that a reconnect waits for a refresh of the same grant that is under way.
LOCK_SECONDS = 20.0
GRANTED = "granted"
#: `identity_token` of a provider whose own identity tokens open the storage: only then is one kept.
THEIRS = "theirs"
#: An attempt that was used so long ago, and of which nobody said the end, has none.
FINISHING = timedelta(minutes=2)
#: States of a grant in which a reconnect makes sense.
_CONNECTABLE = (GrantState.ACTIVE, GrantState.RECONNECT)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who consented. ``subject``: as the provider names the account for good; ``account``: as people know it."""

    subject: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True)
class Asking:
    """One authorization request. ``provider`` is resolved; ``verifier`` is the PKCE verifier, its challenge is sent."""

    provider: Provider
    redirect_uri: str
    scopes: tuple[str, ...]
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)


class ConsentClient(Protocol):
    """Speaks OAuth with a provider that was resolved. No message holds a code, a token or a verifier."""

    def authorization_url(self, asking: Asking) -> str:
        """Where to send the browser: response type ``code``, PKCE S256, the provider's own parameters. No request."""

    def exchange(self, provider: Provider, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """Spend ``code``. ``scope`` is empty where the provider says that it granted what was asked.

        Raises CloudPushError CONSENT_FAILED (``invalid_grant``: used, expired, or not for this verifier or redirect
        URI), CLIENT_REJECTED, PROVIDER_UNAVAILABLE, THROTTLED, NETWORK, TLS_FAILED, ENDPOINT_*.
        """

    def identify(self, provider: Provider, tokens: Tokens, nonce: str) -> Identity:
        """Who the identity token speaks of: signature, ``iss``, ``aud``, ``exp`` and ``nonce`` are checked.

        Raises CloudPushError CONSENT_FAILED, and what passes as ``exchange`` does (its keys are fetched).
        """

    def revoke(self, provider: Provider, tokens: Tokens) -> bool:
        """As ``TokenEndpoint.revoke``."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where the browser goes next. The URL carries the state: it is for this browser only."""

    attempt_id: UUID
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a way to the provider ended: a grant, or a code with the reason. ``resumed``: pushes that go on."""

    code: str  # `granted`, a Code, or empty: nobody knows yet
    message: str
    fix: str = ""
    attempt: Attempt | None = None
    grant_id: UUID | None = None
    resumed: int = 0

    @property
    def granted(self) -> bool:
        """Whether there is a connection now."""
        return self.code == GRANTED


#: A callback that does not belong to this browser: forged, from another session, or from before a new sign-in.
STRANGER = Outcome(
    Code.CONSENT_FAILED,
    "This answer does not belong to anything that you began in this browser.",
    fix_of(Code.CONSENT_FAILED),
)

#: An error that says no attempt: some providers leave ``state`` out when users refuse. Anybody may have written it, so
#: nothing of it is repeated, and no attempt is used up.
UNNAMED = Outcome(
    Code.CONSENT_FAILED,
    "The provider sent you back without a permission: you said no there, or it did for you.",
    fix_of(Code.CONSENT_FAILED),
)


class Consenting:
    """The one place that tells how consent becomes a grant. ``session_token``: the browser's, in memory only."""

    def __init__(
        self,
        store: GrantStore,
        providers: Providers,
        client: ConsentClient,
        sealer: TokenSealer,
        clock: Clock,
        callback: str,
        new_id: Callable[[], UUID] = uuid4,
    ) -> None:
        """``callback``: a provider's redirect URI is this, a slash and its name."""
        self._store = store
        self._providers = providers
        self._client = client
        self._sealer = sealer
        self._clock = clock
        self._callback = callback
        self._new_id = new_id

    # -- setting out -------------------------------------------------------------------------

    def begin(
        self,
        session_token: str,
        owner: str,
        provider_name: str,
        name: str = "",
        answers: Mapping[str, str] | None = None,
        reconnect: UUID | None = None,
    ) -> Beginning:
        """Note an attempt and say where the browser goes. ``reconnect``: the owner's grant that is to live again.

        Raises InputError (unknown provider, name, answers, not a grant of the owner's), StoreError, and
        CloudPushError where the provider's metadata cannot be had.
        """
        provider = self._providers.resolve(self._offered(provider_name, Flow.CODE))
        old = None if reconnect is None else self._connectable(reconnect, owner, provider_name)
        now = self._clock.now()
        attempt = Attempt(
            id=self._new_id(),
            session=proofs.session_hash(session_token),
            owner=owner,
            provider=provider.name,
            name=old.name if old else self._free_name(owner, checked_name(name)),
            settings=old.settings if old else checked_answers(provider, answers or {}),
            asked=provider.scopes,
            grant_id=reconnect,
            created_at=now,
            expires_at=now + ATTEMPT_LIFE,
        )
        asking = Asking(
            provider=provider,
            redirect_uri=self._redirect_uri(provider),
            scopes=provider.scopes,
            state=proofs.state_of(session_token, attempt.id),
            nonce=proofs.nonce_of(session_token, attempt.id),
            verifier=proofs.verifier_of(session_token, attempt.id),
        )
        url = self._client.authorization_url(asking)
        self._store.begin(attempt, owner)
        return Beginning(attempt.id, url)

    def register(self, owner: str, provider_name: str, name: str, answers: Mapping[str, str]) -> Grant:
        """A grant without a secret: the user's account trusts our identity tokens about it. It is tried out soon.

        Raises InputError, StoreError.
        """
        provider = self._offered(provider_name, Flow.WEB_IDENTITY)
        wanted, settings, now = (
            self._free_name(owner, checked_name(name)),
            checked_answers(provider, answers),
            self._clock.now(),
        )
        grant = Grant(
            id=self._new_id(),
            owner=owner,
            name="",
            kind=WEB_IDENTITY,
            provider=provider.name,
            state=GrantState.ACTIVE,
            credential_state=CredentialState.SEALING,
            settings=settings,
            created_at=now,
            granted_at=now,
        )
        grant = self._add(provider, grant, wanted, "", None, now)
        self._store.activate(grant.id, None, owner)
        self._store.want(grant.id, Chore.CHECK, owner)
        return replace(grant, credential_state=CredentialState.ACTIVE)

    # -- coming back ------------------------------------------------------------------------

    def complete(self, session_token: str, came_to: str, params: Mapping[str, str]) -> Outcome:
        """What the provider's answer comes to: ``params``, the query of the redirect URI of the provider named ``came_to``.

        Never raises what is the user's to know.
        An answer that was seen before changes nothing: it is told how it ended then. Raises StoreError.
        """
        attempt_id = proofs.attempt_of(session_token, params.get("state", ""))
        if attempt_id is None:
            return UNNAMED if "error" in params and not params.get("state") else STRANGER
        attempt = self._store.take(attempt_id, proofs.session_hash(session_token))
        if attempt is None:
            return self.outcome(session_token, attempt_id)
        try:
            outcome = self._finish(session_token, attempt, came_to, params)
        except CloudPushError as e:
            log.info("consent.refused", attempt=str(attempt.id), provider=attempt.provider, code=str(e.code))
            outcome = Outcome(str(e.code), e.message, fix_of(e.code), attempt)
        try:
            self._store.end_attempt(attempt, outcome.code, outcome.message)
        except StoreError as e:
            log.warning("consent.end_not_noted", attempt=str(attempt.id), code=str(e.code))
        return outcome

    def outcome(self, session_token: str, attempt_id: UUID) -> Outcome:
        """How an attempt of this session ended, as it was told then. Changes nothing. Raises StoreError."""
        found = self._store.attempt(attempt_id, proofs.session_hash(session_token))
        return STRANGER if found is None else _told(found, self._clock.now())

    def _finish(self, session_token: str, attempt: Attempt, came_to: str, params: Mapping[str, str]) -> Outcome:
        check_way(attempt, self._providers.get(attempt.provider), came_to)
        provider = self._providers.resolve(self._providers.get(attempt.provider))
        code = code_of(provider, params)
        verifier = proofs.verifier_of(session_token, attempt.id)
        tokens = self._client.exchange(provider, code, verifier, self._redirect_uri(provider))
        who = Identity()
        try:
            who = self._identify(provider, attempt, tokens, proofs.nonce_of(session_token, attempt.id))
            judged = judge(provider, attempt.asked, tokens.scope)
            check_enough(provider, attempt, tokens, judged)
            kept = replace(tokens, id_token=tokens.id_token if provider.identity_token == THEIRS else "")
            if attempt.grant_id is None:
                return self._connect(provider, attempt, kept, who, judged)
            return self._reconnect(provider, attempt, attempt.grant_id, kept, who, judged)
        except Exception as e:
            told = self._give_back(provider, attempt, tokens, who)
            if isinstance(e, CloudPushError):
                raise Refused(e.code, f"{_public(e)} {told}") from e
            raise

    def _identify(self, provider: Provider, attempt: Attempt, tokens: Tokens, nonce: str) -> Identity:
        """Who consented; nobody in particular where no identity was asked for."""
        if "openid" not in attempt.asked and provider.identity_token != THEIRS:
            return Identity()
        return self._client.identify(provider, tokens, nonce)

    def _connect(
        self, provider: Provider, attempt: Attempt, tokens: Tokens, who: Identity, judged: Judgement
    ) -> Outcome:
        now = self._clock.now()
        grant = Grant(
            id=attempt.id,
            owner=attempt.owner,
            name="",
            kind=OAUTH_GRANT,
            provider=provider.name,
            state=GrantState.ACTIVE,
            credential_state=CredentialState.SEALING,
            subject=who.subject,
            asked=attempt.asked,
            granted=judged.granted,
            settings=attempt.settings,
            generation=1,
            access_expires_at=tokens.expires_at,
            created_at=now,
            granted_at=now,
        )
        grant = self._add(provider, grant, attempt.name, who.account, attempt, now)
        version = self._sealer.seal_tokens(grant.id, grant.owner, 1, tokens.dump())
        self._store.activate(grant.id, version, grant.owner)
        account = f"You said yes as {who.account}. " if who.account and who.account not in grant.name else ""
        message = f"{account}Pipelines push with it as {grant.name!r}.{differences(provider, judged)}"
        return Outcome(GRANTED, message, attempt=attempt, grant_id=grant.id)

    def _reconnect(
        self, provider: Provider, attempt: Attempt, grant_id: UUID, tokens: Tokens, who: Identity, judged: Judgement
    ) -> Outcome:
        grant = self._store.get(grant_id)
        if grant is None or grant.owner != attempt.owner or grant.state not in _CONNECTABLE:
            raise Refused(Code.CONSENT_REVOKED, f"The connection {attempt.name!r} was revoked meanwhile.")
        if grant.subject and not proofs.same(grant.subject, who.subject):
            named = f" as {who.account}" if who.account else ""
            raise Refused(
                Code.CONSENT_FAILED,
                f"You signed in at {provider.title}{named}, which is not the account that {grant.name!r} was connected "
                "with. Its pushes would have gone to another account's storage. Sign in there with the account of "
                "this connection, or connect the other account as a connection of its own.",
            )
        with self._store.lock(grant_id, LOCK_SECONDS):
            number = self._store.reserve(grant_id)
            version = self._sealer.seal_tokens(grant_id, grant.owner, number, tokens.dump())
            resumed = self._store.reconnect(grant_id, number, version, tokens, judged.granted, attempt.owner)
        going = {0: "No push was waiting for it.", 1: "One push goes on where it stopped."}
        message = f"{going.get(resumed, f'{resumed} pushes go on where they stopped.')}{differences(provider, judged)}"
        return Outcome(GRANTED, message, attempt=attempt, grant_id=grant_id, resumed=resumed)

    # -- steps ----------------------------------------------------------------------------------

    def _redirect_uri(self, provider: Provider) -> str:
        """Each provider's own: one that sends a browser on to another's page cannot have its answer come to us as its own."""
        return f"{self._callback}/{provider.name}"

    def _add(
        self, provider: Provider, grant: Grant, wanted: str, account: str, attempt: Attempt | None, now: datetime
    ) -> Grant:
        """Insert the ``sealing`` row under the first of the names that is free. Raises InputError, StoreError."""
        taken: InputError | None = None
        for name in names(provider, wanted, account):
            credential = Credential(
                id=grant.id,
                owner=grant.owner,
                kind=grant.kind,
                name=name,
                profile=provider.profile,
                endpoint="",
                state=CredentialState.SEALING,
                created_at=now,
                created_by=grant.owner,
            )
            named = replace(grant, name=name)
            try:
                self._store.add(credential, named, attempt, grant.owner)
            except InputError as e:
                if e.field != "name":
                    raise
                taken = e
            else:
                return named
        raise taken or AssertionError("there is always a name to try")

    def _give_back(self, provider: Provider, attempt: Attempt, tokens: Tokens, who: Identity) -> str:
        """End what the provider just gave, as well as that goes, and say in a sentence how it went. Never raises.

        Revoking one token ends everything that the account allowed us (Google, and others with one grant a client). So
        it is left to end by itself while another connection of the same account works.
        """
        try:
            others = self._store.find(attempt.owner)
            if any(
                g.provider == provider.name and g.state is GrantState.ACTIVE and g.subject == who.subject
                for g in others
            ):
                return "What was granted was dropped; your other connection of this account works on."
            if self._client.revoke(provider, tokens):
                return "What was granted was taken back at once."
        except CloudPushError as e:
            log.warning("consent.not_given_back", attempt=str(attempt.id), provider=provider.name, code=str(e.code))
        except Exception as e:  # noqa: BLE001 -- on the way out of another error, which is the one to report
            log.warning(
                "consent.not_given_back", attempt=str(attempt.id), provider=provider.name, error=type(e).__name__
            )
        where = f" at {provider.manage_url}" if provider.manage_url else ""
        return f"What was granted was dropped unused; you can remove it{where}."

    def _offered(self, name: str, flow: Flow) -> Provider:
        provider = self._providers.get(name)
        if not provider.offered or provider.flow is not flow:
            why = "is connected in another way" if provider.offered else "is not set up here yet: ask the operator"
            raise InputError(Code.UNKNOWN_PROVIDER, f"{provider.title} {why}.", field="provider")
        return provider

    def _free_name(self, owner: str, name: str) -> str:
        """``name``, unless the owner has a live connection of that name: told before the trip, not after."""
        if name and any(g.name == name for g in self._store.find(owner)):
            raise InputError(
                Code.BAD_INPUT, f"You have a connection named {name!r} already: choose another name.", field="name"
            )
        return name

    def _connectable(self, grant_id: UUID, owner: str, provider_name: str) -> Grant:
        grant = self._store.get(grant_id)
        if grant is None or grant.owner != owner or grant.provider != provider_name:
            raise InputError(Code.UNKNOWN_GRANT, f"connection {str(grant_id)!r} is not known.", field="grant")
        if grant.state not in _CONNECTABLE:
            raise InputError(
                Code.CONSENT_REVOKED,
                f"The connection {grant.name!r} is {grant.state}: connect the account anew.",
                field="grant",
            )
        return grant


def _public(error: CloudPushError) -> str:
    """The error in words that tell a user nothing of our servers."""
    if isinstance(error, VaultError | StoreError):
        return "What was granted could not be stored safely just now."
    return error.message


def _told(found: AttemptEnd, now: datetime) -> Outcome:
    attempt = found.attempt
    if found.outcome == GRANTED:
        return Outcome(GRANTED, found.message, attempt=attempt, grant_id=attempt.grant_id or attempt.id)
    if found.outcome:
        return Outcome(found.outcome, found.message, fix_of(found.outcome), attempt)
    if found.used_at is None and now >= attempt.expires_at:
        minutes = int(ATTEMPT_LIFE.total_seconds()) // 60
        message = f"It took longer than {minutes} minutes, so that the answer is not accepted any more."
        return Outcome(Code.CONSENT_FAILED, message, fix_of(Code.CONSENT_FAILED), attempt)
    if found.used_at is None:
        return Outcome("", "This consent is under way in another tab or window.", "Finish it there.", attempt)
    if now < found.used_at + FINISHING:
        return Outcome("", "The answer is being worked on.", "Look again in a moment.", attempt)
    return Outcome(Code.CONSENT_FAILED, "It was interrupted.", fix_of(Code.CONSENT_FAILED), attempt)
