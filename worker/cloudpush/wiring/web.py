"""What the web pages, and the API, work with."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from cloudpush.audit.credentials import Credentials
from cloudpush.audit.database import make_engine
from cloudpush.audit.desk import Desk
from cloudpush.audit.grants import GrantBook
from cloudpush.audit.history import History
from cloudpush.audit.needs import Row, needs_of
from cloudpush.audit.receipts import Receipts
from cloudpush.broker import Announcer, Buckets, make_celery
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.providers import read_providers
from cloudpush.errors import VaultError
from cloudpush.logs import get_logger
from cloudpush.push.custody import Custody
from cloudpush.push.grants.desk import Grants
from cloudpush.push.intake import Intake
from cloudpush.settings import Settings

if TYPE_CHECKING:
    from cloudpush.audit.auditing import Auditing
    from cloudpush.audit.findings import Witness
    from cloudpush.audit.sessions import Sessions
    from cloudpush.credentials.bearer import BearerTokens
    from cloudpush.credentials.clients import Clients
    from cloudpush.credentials.issuer import PublicKeys
    from cloudpush.credentials.notary import Signer
    from cloudpush.credentials.submission import SubmissionSigner
    from cloudpush.push.access.desk import TokenDesk
    from cloudpush.push.access.identity import Access
    from cloudpush.push.access.login import DeviceLogins
    from cloudpush.push.grants.consenting import Consenting
    from cloudpush.push.grants.ports import Providers
    from cloudpush.push.preflights import Preflights
    from cloudpush.push.signed.intake import SignedIntake
from cloudpush.wiring.common import SystemClock, destinations, make_intake, make_preflights, trusting_profiles

log = get_logger(__name__)

#: Connections to Postgres that the web pages keep: each request takes one for a moment.
WEB_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class WebServices:
    """What the web pages work with. Of Vault's roles it has ``web`` only, which can seal tokens and read none."""

    settings: Settings
    history: History
    auditing: Auditing
    credentials: Credentials
    intake: Intake
    announcer: Announcer
    grants: Grants
    sessions: Sessions
    providers: Providers
    consenting: Consenting
    public_keys: PublicKeys
    clients: Clients
    access: Access
    tokens: TokenDesk
    logins: DeviceLogins
    submission_signer: SubmissionSigner
    buckets: Buckets
    receipts: Receipts
    audit_keys: Signer  # of which it may ask for the public keys only
    witness: Callable[[], Witness]  # what Vault says about the record; one that says nothing while Vault is away
    preflights: Preflights
    custody: Custody
    signed: SignedIntake
    needs: Callable[[UUID, int], Iterator[Row]]
    _closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Give connections back."""
        self._closing.close()


def build_web(settings: Settings) -> WebServices:
    """Services of one process that serves the web pages."""
    from cloudpush.audit.access import AccessBook  # noqa: PLC0415 -- see the package's first lines
    from cloudpush.audit.auditing import Auditing  # noqa: PLC0415 -- likewise
    from cloudpush.audit.sessions import Sessions  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.clients import Clients  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.consent import AuthlibConsent  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.issuer import PublicKeys  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.notary import Signer  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.submission import SubmissionSigner  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.vault import Leaver, Sealer, TokenSealer  # noqa: PLC0415 -- likewise
    from cloudpush.push.access.desk import TokenDesk  # noqa: PLC0415 -- likewise
    from cloudpush.push.access.identity import Access  # noqa: PLC0415 -- likewise
    from cloudpush.push.access.login import DeviceLogins  # noqa: PLC0415 -- likewise
    from cloudpush.push.grants.consenting import Consenting  # noqa: PLC0415 -- likewise
    from cloudpush.push.signed.hosts import Styles  # noqa: PLC0415 -- likewise
    from cloudpush.push.signed.intake import SignedIntake  # noqa: PLC0415 -- likewise
    from cloudpush.push.signed.sets import Sets  # noqa: PLC0415 -- likewise

    settings = trusting_profiles(settings)
    closing = ExitStack()
    database = make_engine(settings.database_url, pool_size=WEB_CONNECTIONS)
    closing.callback(database.dispose)
    announcer = Announcer(make_celery(settings.redis_url), settings.redis_url)
    connection = VaultConnection(settings, "web")
    closing.callback(connection.close)
    clock, store, providers, clients = SystemClock(), GrantBook(database), read_providers(settings), Clients(connection)
    book = AccessBook(database)
    intake = make_intake(settings, database, announcer, clock)
    sealer = Sealer(connection)
    # It destroys nothing: what came to nothing, and what is to be purged, is left to the sweeper.
    custody = Custody(Credentials(database), sealer, Leaver(), clock, allowed=settings.allowed_endpoints)
    signed = SignedIntake(
        desk=Desk(database),
        sets=Sets(Credentials(database), sealer, custody, clock),
        announcer=announcer,
        clock=clock,
        roots=settings.source_roots,
        styles=Styles.of(settings.allowed_endpoints),
    )
    return WebServices(
        settings=settings,
        history=History(database),
        auditing=Auditing(database),
        credentials=Credentials(database),
        intake=intake,
        announcer=announcer,
        grants=Grants(store=store, clock=clock, providers=providers, parse=destinations(settings)),
        sessions=Sessions(database),
        providers=providers,
        consenting=Consenting(
            store,
            providers,
            AuthlibConsent(clients),
            TokenSealer(connection),
            clock,
            f"{settings.web_url.rstrip('/')}/consent/callback",
        ),
        public_keys=PublicKeys(connection),
        clients=clients,
        access=Access(book, _bearer_tokens(settings)),
        tokens=TokenDesk(book, settings.api_token_days),
        logins=DeviceLogins(book, settings.api_token_days),
        submission_signer=SubmissionSigner(connection, settings.vault_submission_key, settings.web_url),
        buckets=Buckets(settings.redis_url),
        receipts=Receipts(database),
        audit_keys=Signer(connection, settings.vault_audit_key),
        witness=lambda: _witness(settings, connection),
        preflights=make_preflights(settings, database, clock),
        custody=custody,
        signed=signed,
        needs=lambda push_id, after: needs_of(database, push_id, after),
        _closing=closing,
    )


def _witness(settings: Settings, connection: VaultConnection) -> Witness:
    from cloudpush.audit.findings import Witness  # noqa: PLC0415 -- see the package's first lines
    from cloudpush.wiring.trust import witness_of  # noqa: PLC0415 -- likewise

    try:
        return witness_of(settings, connection)
    except VaultError as e:
        log.warning("vault says nothing about the record", code=e.code, error=e.message)
        return Witness()  # reports say what was not looked at


def _bearer_tokens(settings: Settings) -> BearerTokens | None:
    """Whose JWTs are taken beside our own tokens. Raises SettingsError."""
    from cloudpush.credentials.bearer import BearerTokens  # noqa: PLC0415 -- see the package's first lines

    if not settings.api_oidc_issuer:
        return None
    return BearerTokens(
        issuer=settings.api_oidc_issuer,
        audience=settings.api_oidc_audience,
        owner_claim=settings.api_oidc_owner_claim,
        roles_claim=settings.api_oidc_roles_claim,
    )


def sign_in_link(settings: Settings, owner: str, seconds: float) -> str:
    """A link that signs ``owner`` in to the web pages, once, within so many seconds. Raises StoreError.

    Postgres has the digest of its token only.
    """
    from cloudpush.audit.sessions import Sessions  # noqa: PLC0415 -- see the package's first lines

    database = make_engine(settings.database_url, pool_size=1)
    try:
        token = secrets.token_urlsafe(32)
        Sessions(database).add_link(hashlib.sha256(token.encode()).digest(), owner=owner, seconds=seconds)
    finally:
        database.dispose()
    return f"{settings.web_url.rstrip('/')}/sign-in/link?token={token}"
