"""What grants need from the outside world. Each docstring is a contract."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol
from uuid import UUID

from cloudpush.errors import CloudPushError
from cloudpush.push.credential import Credential
from cloudpush.push.grants.model import Attempt, AttemptEnd, Chore, Grant, Pass, Provider, Share, Tokens
from cloudpush.push.job import Push, Secret


class Providers(Protocol):
    """The operator's list. Read once."""

    def get(self, name: str) -> Provider:
        """Raises InputError UNKNOWN_PROVIDER."""

    def all(self) -> Sequence[Provider]:
        """In the order of the file, those that are not offered included."""

    def resolve(self, provider: Provider) -> Provider:
        """``provider`` with what its metadata tells, where the operator's table is silent; the same where it has none.

        Asks the network at most once in a while, ``get`` and ``all`` never do. Raises CloudPushError NETWORK, TLS_FAILED,
        ENDPOINT_*, PROVIDER_UNAVAILABLE (no metadata, or somebody else's).
        """


class TokenEndpoint(Protocol):
    """A provider's token and revocation endpoints. No redirects are followed; answers are bounded and redacted."""

    def refresh(self, provider: Provider, refresh_token: str) -> Tokens:
        """Spend ``refresh_token``. ``refresh_token`` of the answer is the old one where the provider sent no new one.

        Raises CredentialError CONSENT_NEEDED (``invalid_grant``: the token is dead for good); CloudPushError
        CLIENT_REJECTED (``invalid_client``, ``unauthorized_client``), PROVIDER_UNAVAILABLE, THROTTLED, NETWORK
        (it may or may not have been spent), TLS_FAILED, ENDPOINT_*.
        """

    def revoke(self, provider: Provider, tokens: Tokens) -> bool:
        """End the grant at the provider (RFC 7009); False where the provider offers no way. Repeatable.

        A token that is dead already is True. Raises as ``refresh`` does, CONSENT_NEEDED aside.
        """


class Pen(Protocol):
    """A block that is ready to be written: its data key is here and Vault has just taken a block."""

    def write(self, plaintext: bytes) -> int:
        """Seal and store it; the version of the key that wraps it. One request. Raises VaultError.

        Repeatable while it raises VAULT_UNREACHABLE: writing the same block again after it got there returns normally.
        """


class TokenSafe(Protocol):
    """The hand in Vault that opens and adds generations; a block is never overwritten."""

    def open_tokens(self, grant_id: UUID, owner: str, number: int) -> bytes:
        """The plaintext of one block. Raises VaultError, CredentialError (purged, corrupt)."""

    def find_tokens(self, grant_id: UUID, owner: str, number: int) -> tuple[bytes, int] | None:
        """A block that may not be there: its plaintext and the version of the key that wraps it. Raises VaultError.

        For what a refresh left behind that nobody said the end of. None: nothing there, or nothing that opens.
        """

    def prepare(self, grant_id: UUID, owner: str, marker: int, number: int) -> Pen:
        """Prove that Vault takes blocks of this grant by storing an empty one under ``marker``; fetch ``number``'s key.

        Raises VaultError: then nothing may be spent.
        """


class TokenSealer(Protocol):
    """The web application's hand in Vault: adds generations, can read none."""

    def seal_tokens(self, grant_id: UUID, owner: str, number: int, plaintext: bytes) -> int:
        """Seal one block; the version of the key that wraps it. Raises VaultError, also where one is there."""


class GrantStore(Protocol):
    """Postgres. Every call is one transaction that appends its events. Raises StoreError."""

    # -- reading
    def get(self, grant_id: UUID) -> Grant | None:
        """One grant."""

    def find(self, owner: str | None, *, ended: bool = False) -> Sequence[Grant]:
        """Grants of ``owner`` (None: of all), newest first; revoked ones on demand."""

    def shared_with(self, principal: str) -> Sequence[tuple[Grant, Share]]:
        """Grants of others that ``principal`` may push with now."""

    def shares(self, grant_id: UUID) -> Sequence[Share]:
        """All shares of a grant, ended ones too, newest first."""

    # -- consent (the web application)
    def begin(self, attempt: Attempt, actor: str) -> None:
        """Store an attempt; appends ``grant.asked`` where it is a reconnect (a new grant has no stream yet)."""

    def take(self, attempt_id: UUID, session: bytes) -> Attempt | None:
        """Use an attempt up: returned once, to the session that began it, before it expires; None otherwise."""

    def end_attempt(self, attempt: Attempt, outcome: str, message: str) -> None:
        """Note how it ended: ``granted`` or the code of an error.

        An error appends ``grant.refused``: to the stream of the grant that was to be reconnected, or of the attempt's own id.
        """

    def attempt(self, attempt_id: UUID, session: bytes) -> AttemptEnd | None:
        """How an attempt stands, for the page that tells it: to the session that began it, used or not; else None."""

    def add(self, credential: Credential, grant: Grant, attempt: Attempt | None, actor: str) -> None:
        """Insert a ``sealing`` credential, its grant and, with ``generation`` 1, its first block's row.

        Appends ``grant.asked`` and ``credential.sealing``. Raises InputError where the owner has a live one of that name.
        """

    def activate(self, grant_id: UUID, version: int | None, actor: str) -> None:
        """``sealing`` → ``active``: its first generation is in Vault, or it has none (``version`` None).

        Appends ``credential.created`` and ``grant.granted`` {scopes, subject}. Raises CredentialError (purged meanwhile).
        """

    def reserve(self, grant_id: UUID) -> int:
        """Insert the row of a further block and return its number; the caller holds ``lock``. Raises CredentialError."""

    def reconnect(
        self, grant_id: UUID, number: int, version: int, tokens: Tokens, granted: Sequence[str], actor: str
    ) -> int:
        """Block ``number`` is the current generation; the grant is ``active``, trouble forgotten, what waited goes on.

        Appends ``grant.reconnected``; returns how many pushes go on. Raises CredentialError where it was revoked.
        """

    # -- keeping it alive (workers)
    def lock(self, grant_id: UUID, seconds: float) -> AbstractContextManager[None]:
        """The grant's advisory lock, on a connection of its own: freed when its holder dies, too.

        Raises StoreError where it was not to be had in ``seconds``.
        """

    def note_opened(self, grant: Grant, worker: str, *, ending: bool = False) -> None:
        """Append ``grant.opened`` {generation, worker}. Raises ConsentRevoked, CredentialError CONSENT_NEEDED.

        ``ending``: to tell its provider that it is over, which is allowed until its credential is being purged.
        """

    def start_refresh(self, grant: Grant, worker: str) -> tuple[int, int]:
        """Write ahead: rows of two further blocks (marker, tokens), ``pending_at`` and ``pending``, the number of the second.

        Appends ``grant.refreshing``. Raises ConsentRevoked, CredentialError CONSENT_NEEDED (somebody found out meanwhile).
        """

    def finish_refresh(self, grant: Grant, number: int, version: int | None, tokens: Tokens, worker: str) -> None:
        """Block ``number`` is the current generation. Also where it was revoked meanwhile: what is sealed is purged then.

        ``version`` None: it was found sealed, and nobody knows by which version of the key. Where a newer generation is
        there already, it is only noted as sealed. Repeatable.
        """

    def fail_refresh(self, grant: Grant, error: CloudPushError, worker: str) -> None:
        """The refresh brought nothing. CONSENT_NEEDED: the grant is ``reconnect`` and its owner's webhook is due.

        Unless it has another generation than ``grant`` by now: then somebody brought tokens, and all is well.
        """

    def need_reconnect(self, grant: Grant, error: CloudPushError, worker: str) -> None:
        """Somebody but its provider refuses its tokens, and only its user can help: it is ``reconnect`` then.

        As with ``fail_refresh``; a refresh that is under way goes on.
        """

    # -- taking it back, sharing it, trying it out
    def revoke(self, grant_id: UUID, actor: str) -> None:
        """→ ``revoking``, ``revoked_at`` now; from its commit on nobody may use it. Pushes that wait for it go on, to their end. Repeatable."""

    def end_revocation(self, grant_id: UUID, told: bool, error: CloudPushError | None, actor: str) -> None:
        """``revoking`` → ``revoked``; its credential is due for purge now."""

    def share(self, share: Share, actor: str) -> None:
        """Insert. Raises InputError where the grant is over."""

    def unshare(self, share_id: UUID, owner: str | None, actor: str) -> Share:
        """End a share: pushes that use it stop, those that wait too. Repeatable. Raises InputError UNKNOWN_GRANT, NOT_OWNER.

        ``owner`` None: an operator asks.
        """

    def want(self, grant_id: UUID, chore: Chore, actor: str) -> None:
        """A worker is to do this soon. Repeatable."""

    def chores(self, limit: int, taken_before: float) -> Sequence[UUID]:
        """Grants with chores that are due and that nobody took up in so many seconds; they are taken up now."""

    def due_chores(self, grant_id: UUID) -> Mapping[Chore, datetime]:
        """What is due for this grant now, and since when somebody has wanted it."""

    def end_chore(self, grant_id: UUID, chore: Chore, error: CloudPushError | None, retry_in: float | None) -> None:
        """It was done, or is to be tried again in so many seconds.

        CHECK stores what came of it, and tells. NOTIFY tells when it is over, with the error that it ended with.
        """

    def waiting(self, grant_id: UUID) -> Sequence[UUID]:
        """Pushes that are ``awaiting_consent`` for it."""

    # -- housekeeping (the sweep, as keeper)
    def superseded(self, limit: int) -> Sequence[tuple[UUID, Sequence[int]]]:
        """Blocks that are not the current generation and in Vault still, where no refresh is under way.

        Those after it (of a refresh or a reconnect that came to nothing) an hour after they were begun.
        """

    def note_superseded(self, grant_id: UUID, numbers: Iterable[int]) -> None:
        """They are destroyed. Appends ``grant.superseded``."""


class Renewing(Protocol):
    """Makes a further generation, wherever that happens: in this process, or in one that outlives it."""

    def refresh(self, grant_id: UUID, seen: int) -> None:
        """Make a generation after ``seen`` the current one, unless somebody has by now. Blocks.

        Raises CredentialError CONSENT_NEEDED, ConsentRevoked, and what passes: VaultError, StoreError,
        CloudPushError of the provider.
        """


class Minter(Protocol):
    """Makes passes from grants."""

    def mint(self, push: Push, refused: Secret | None = None) -> Pass:
        """What ``push`` is to be opened with now: made anew, or one that is not due for renewal yet. Thread-safe.

        ``refused``: a secret that it gave and that the destination calls expired before its time; another is made, from
        further tokens, unless that has happened by now.

        Raises CredentialError CONSENT_NEEDED, ConsentRevoked, VaultError, StoreError, DestinationError (refused by the
        provider: ACCESS_DENIED, BAD_INPUT of a setting), GRANT_UNAVAILABLE (tokens cannot be had just now), and what passes.
        """

    def check(self, grant: Grant) -> None:
        """Try ``grant`` out as far as can be without a push. Raises as ``mint`` does."""


class IdentityTokens(Protocol):
    """Signs identity tokens as the issuer that CloudPush is. The key lies in Vault Transit."""

    def issue(self, grant: Grant, audience: str, seconds: int) -> str:
        """A signed JWT about ``grant`` (``sub`` = its id) for ``audience``. Raises VaultError."""


class Notifier(Protocol):
    """Webhooks."""

    def reconnect_needed(self, grant: Grant, waiting: Sequence[UUID]) -> bool:
        """Tell each webhook of the grant's owner; False where there is none. Raises CloudPushError."""
