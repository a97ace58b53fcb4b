"""The composition root: the only place where concrete classes are chosen.

``build_*`` takes settings and returns services; nothing connects before its first use, so a command that
needs only Postgres works while Vault is down. What only a worker needs is imported when one is built: the command
line, started anew for every push, does not pay for it.
"""

from __future__ import annotations

import hashlib
import os
import random
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

import sqlalchemy as sa
from celery import Celery

from cloudpush.audit.broom import Broom
from cloudpush.audit.credentials import Credentials
from cloudpush.audit.database import make_engine
from cloudpush.audit.desk import Desk
from cloudpush.audit.grants import GrantBook
from cloudpush.audit.history import History
from cloudpush.audit.ledger import Ledger
from cloudpush.audit.sheets import Sheets
from cloudpush.broker import Announcer, make_celery
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.kinds import AccessKey
from cloudpush.credentials.providers import read_providers
from cloudpush.credentials.vault import Keeper, Safe, Sealer, TokenSafe, Vault
from cloudpush.push.couriers import GrantCourier, KeyCourier
from cloudpush.push.custody import CredentialState, Custody
from cloudpush.push.grants.desk import Grants
from cloudpush.push.grants.hands import HANDS, Hands
from cloudpush.push.grants.house import shred_superseded
from cloudpush.push.grants.model import GRANT_KINDS, NOTIFY_HOOK
from cloudpush.push.intake import Intake
from cloudpush.push.job import Destination, Profile
from cloudpush.push.leases import LeaseKeeper
from cloudpush.push.lifecycle import CloudPush
from cloudpush.push.planning import Limits
from cloudpush.push.retry import Policy
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.intake import SignedIntake
from cloudpush.push.signed.model import PROFILE, SIGNED_URLS
from cloudpush.push.signed.places import read_destination
from cloudpush.push.signed.rows import Rules, read_row
from cloudpush.push.signed.sets import Sets
from cloudpush.push.sweep import Sweep
from cloudpush.push.uris import parse_destination
from cloudpush.settings import Settings

if TYPE_CHECKING:
    from cloudpush.audit.sessions import Sessions
    from cloudpush.credentials.clients import Clients
    from cloudpush.credentials.issuer import PublicKeys
    from cloudpush.push.grants.consenting import Consenting
    from cloudpush.push.grants.keeping import GrantKeeping
    from cloudpush.push.grants.ports import Minter, Providers
    from cloudpush.push.grants.refresh import Refresher
    from cloudpush.push.ports import Inspector
    from cloudpush.push.signed.courier import UrlCourier
    from cloudpush.transfer.notify import HttpNotifier
    from cloudpush.transfer.rclone import Rclone


#: A worker asks Vault's KV store for the same ciphertext once in so many seconds.
ENVELOPE_SECONDS = 30.0
#: Connections to Postgres that the web pages keep: each request takes one for a moment.
WEB_CONNECTIONS = 8
#: A callback that says nothing for so long is not waited for.
HOOK_SECONDS = 30.0
#: Of one owner, newest first, that are looked through for webhooks.
MOST_CREDENTIALS = 1000


class SystemClock:
    """``push.ports.Clock``: the machine's own time and chance."""

    def now(self) -> datetime:
        """The present, aware, UTC."""
        return datetime.now(UTC)

    def jitter(self) -> float:
        """A number in [0, 1): spreads retries, guards nothing."""
        return random.random()  # noqa: S311 -- no secret depends on it


@dataclass(frozen=True, slots=True)
class Services:
    """What users, operators and auditors work with."""

    settings: Settings
    database: sa.Engine
    intake: Intake
    signed: SignedIntake
    custody: Custody
    history: History
    announcer: Announcer
    grants: Grants
    _closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Give connections back."""
        self._closing.close()


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What a worker executes with. ``start`` before the first push, ``close`` after the last."""

    name: str
    cloudpush: CloudPush
    hands: Hands
    celery: Celery
    announcer: Announcer
    leases: LeaseKeeper
    engine: Rclone
    _closing: ExitStack = field(repr=False)

    def start(self) -> None:
        """Start the engine, the heartbeat and the chores. Raises EngineError."""
        self.engine.start()
        self.leases.start()
        self.hands.start()

    def close(self) -> None:
        """Stop them and give connections back; pushes under way run out of their leases."""
        self._closing.close()


@dataclass(frozen=True, slots=True)
class SweeperServices:
    """What the sweeper works with."""

    sweep: Sweep
    _closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Give the leader's lock and connections back."""
        self._closing.close()


@dataclass(frozen=True, slots=True)
class RefresherServices:
    """What the scribe works with. Implements ``push.grants.ports.Renewing``."""

    refresher: Refresher
    _closing: ExitStack = field(repr=False)

    def refresh(self, grant_id: UUID, seen: int) -> None:
        """See :meth:`push.grants.refresh.Refresher.refresh`."""
        self.refresher.refresh(grant_id, seen)

    def close(self) -> None:
        """Give connections back."""
        self._closing.close()


@dataclass(frozen=True, slots=True)
class WebServices:
    """What the web pages work with. Of Vault's roles it has ``web`` only, which can seal tokens and read none."""

    settings: Settings
    history: History
    credentials: Credentials
    intake: Intake
    announcer: Announcer
    grants: Grants
    sessions: Sessions
    providers: Providers
    consenting: Consenting
    public_keys: PublicKeys
    clients: Clients
    _closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Give connections back."""
        self._closing.close()


def destinations(settings: Settings) -> Callable[[str, str], Destination]:
    """(URI, profile name) → Destination, with the operator's profiles. Raises SettingsError."""
    profiles = {
        name: Profile(name, p.dialect, p.endpoint, p.region, path_style=p.path_style, trusted=bool(p.endpoint))
        for name, p in settings.profiles().items()
    }
    return lambda uri, name: read_destination(uri) if name == PROFILE else parse_destination(uri, profiles, name)


def trusting_profiles(settings: Settings) -> Settings:
    """Endpoints of the operator's own profiles may be private too, whoever names them."""
    profiles = (urlsplit(p.endpoint).netloc for p in settings.profiles().values() if p.endpoint)
    return settings.model_copy(update={"allowed_endpoints": (*settings.allowed_endpoints, *profiles)})


def build(settings: Settings) -> Services:
    """Services for the command line and, later, the web."""
    settings = trusting_profiles(settings)
    closing = ExitStack()
    database = make_engine(settings.database_url, pool_size=2)
    closing.callback(database.dispose)
    announcer = Announcer(make_celery(settings.redis_url), settings.redis_url)
    clock = SystemClock()
    desk = Desk(database)
    intake = Intake(
        desk=desk,
        announcer=announcer,
        clock=clock,
        parse=destinations(settings),
        roots=settings.source_roots,
        allowed_endpoints=settings.allowed_endpoints,
    )
    custody, sets = _custody(settings, database, clock, closing)
    signed = SignedIntake(
        desk=desk,
        sets=sets,
        announcer=announcer,
        clock=clock,
        roots=settings.source_roots,
        styles=Styles.of(settings.allowed_endpoints),
    )
    grants = Grants(
        store=GrantBook(database),
        clock=clock,
        providers=read_providers(settings),
        parse=destinations(settings),
    )
    return Services(settings, database, intake, signed, custody, History(database), announcer, grants, closing)


def build_worker(settings: Settings) -> WorkerServices:
    """Services of one worker process."""
    from cloudpush.transfer.rclone import Rclone  # noqa: PLC0415 -- see the module's first lines

    settings = trusting_profiles(settings)
    closing = ExitStack()
    name = f"{socket.gethostname()}:{os.getpid()}"
    # Every thread may hold one connection, the heartbeat one more, and so may the chores.
    database = make_engine(settings.database_url, pool_size=settings.concurrency * 2 + 2 + HANDS)
    closing.callback(database.dispose)
    celery = make_celery(settings.redis_url)
    announcer = Announcer(celery, settings.redis_url)
    store = Ledger(database, destinations(settings))
    clock = SystemClock()
    connection = VaultConnection(settings, "worker")
    closing.callback(connection.close)
    vault = Vault(connection, remember=ENVELOPE_SECONDS)
    engine = Rclone(settings)
    closing.callback(engine.stop)
    leases = LeaseKeeper(
        store, announcer, worker=name, seconds=settings.lease_seconds, heartbeat=settings.heartbeat_seconds
    )
    closing.callback(leases.stop)
    inspector = _inspector(settings, closing)
    by_grant, keeping = _with_grants(settings, name, database, connection, vault, clock, closing)
    hands = Hands(store=GrantBook(database), keeping=keeping, every=settings.heartbeat_seconds)
    closing.callback(hands.stop)
    grant_courier = GrantCourier(
        minter=by_grant, engine=engine, inspector=inspector, clock=clock, roots=settings.source_roots
    )
    cloudpush = CloudPush(
        store=store,
        announcer=announcer,
        couriers={
            AccessKey.KIND: KeyCourier(
                vault=vault, engine=engine, inspector=inspector, clock=clock, roots=settings.source_roots
            ),
            **dict.fromkeys(GRANT_KINDS, grant_courier),
            SIGNED_URLS: _url_courier(settings, database, store, vault, Safe(connection), clock, closing),
        },
        leases=leases,
        clock=clock,
        policy=policy(settings),
        limits=Limits(settings.part_files, settings.part_bytes),
    )
    return WorkerServices(name, cloudpush, hands, celery, announcer, leases, engine, closing)


def _inspector(settings: Settings, closing: ExitStack) -> Inspector:
    from cloudpush.verify.cloud import CloudInspector  # noqa: PLC0415 -- see the module's first lines

    inspector = CloudInspector(allowed_endpoints=settings.allowed_endpoints)
    closing.callback(inspector.close)
    return inspector


def _with_grants(
    settings: Settings,
    name: str,
    database: sa.Engine,
    connection: VaultConnection,
    vault: Vault,
    clock: SystemClock,
    closing: ExitStack,
) -> tuple[Minter, GrantKeeping]:
    """What makes passes from grants, and who does the chores about them."""
    from cloudpush.credentials.clients import Clients  # noqa: PLC0415 -- see the module's first lines
    from cloudpush.credentials.issuer import Issuer  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.minting import Mint  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.oauth import HttpTokenEndpoint  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.scribe import Scribe  # noqa: PLC0415 -- likewise
    from cloudpush.push.grants.access import Access  # noqa: PLC0415 -- likewise
    from cloudpush.push.grants.keeping import GrantKeeping  # noqa: PLC0415 -- likewise
    from cloudpush.push.grants.noticing import NoticingMinter  # noqa: PLC0415 -- likewise

    book, providers, safe = GrantBook(database), read_providers(settings), TokenSafe(connection)
    scribe = Scribe(settings)
    closing.callback(scribe.close)
    mint = Mint(
        access=Access(store=book, safe=safe, renewing=scribe, clock=clock, worker=name),
        store=book,
        providers=providers,
        identity=Issuer(connection, settings.web_url),
        clock=clock,
        allowed=settings.allowed_endpoints,
    )
    minter = NoticingMinter(mint, book, name)
    keeping = GrantKeeping(
        store=book,
        providers=providers,
        safe=safe,
        endpoint=HttpTokenEndpoint(Clients(connection)),
        minter=minter,
        notifier=_notifier(settings, database, vault, closing),
        clock=clock,
        worker=name,
    )
    return minter, keeping


def _notifier(settings: Settings, database: sa.Engine, vault: Vault, closing: ExitStack) -> HttpNotifier:
    from cloudpush.net import Pool  # noqa: PLC0415 -- see the module's first lines
    from cloudpush.transfer.notify import HttpNotifier  # noqa: PLC0415 -- likewise
    from cloudpush.transfer.signed.wire import timeouts  # noqa: PLC0415 -- likewise

    pool, credentials = Pool("notices", timeouts(HOOK_SECONDS)), Credentials(database)
    closing.callback(pool.close)

    def hooks(owner: str) -> list[UUID]:
        found = credentials.find(owner, purged=False, limit=MOST_CREDENTIALS)
        return [c.id for c in found if c.kind == NOTIFY_HOOK and c.state is CredentialState.ACTIVE]

    page = f"{settings.web_url}/connections" if settings.web_url else ""
    return HttpNotifier(pool, settings.allowed_endpoints, vault, hooks, page=page)


def _url_courier(
    settings: Settings,
    database: sa.Engine,
    store: Ledger,
    vault: Vault,
    safe: Safe,
    clock: SystemClock,
    closing: ExitStack,
) -> UrlCourier:
    from cloudpush.net import Pool  # noqa: PLC0415 -- likewise
    from cloudpush.push.signed.courier import UrlCourier  # noqa: PLC0415 -- likewise
    from cloudpush.push.signed.delivery import Kit  # noqa: PLC0415 -- see the module's first lines
    from cloudpush.push.signed.renewal import Callback  # noqa: PLC0415 -- likewise
    from cloudpush.transfer.hook import HttpHook  # noqa: PLC0415 -- likewise
    from cloudpush.transfer.signed.uploader import SignedUploader  # noqa: PLC0415 -- likewise
    from cloudpush.transfer.signed.wire import timeouts  # noqa: PLC0415 -- likewise

    allowed, styles = settings.allowed_endpoints, Styles.of(settings.allowed_endpoints)
    uploader = SignedUploader(allowed_endpoints=allowed, transfers=settings.transfers)
    closing.callback(uploader.close)
    hooks = Pool("hooks", timeouts(HOOK_SECONDS))
    closing.callback(hooks.close)
    sheets = Sheets(database)
    callback = Callback(
        hook=HttpHook(hooks, allowed),
        vault=vault,
        store=sheets,
        clock=clock,
        read=lambda row: read_row(row, Rules(styles, clock.now())),
    )
    return UrlCourier(Kit(store, sheets, safe, uploader, callback, clock, settings.source_roots))


def build_refresher(settings: Settings) -> RefresherServices:
    """What the scribe refreshes tokens with: as the worker whose child it is."""
    from cloudpush.credentials.clients import Clients  # noqa: PLC0415 -- see the module's first lines
    from cloudpush.credentials.oauth import HttpTokenEndpoint  # noqa: PLC0415 -- likewise
    from cloudpush.push.grants.refresh import Refresher  # noqa: PLC0415 -- likewise

    closing = ExitStack()
    database = make_engine(settings.database_url, pool_size=4)
    closing.callback(database.dispose)
    connection = VaultConnection(settings, "worker")
    closing.callback(connection.close)
    refresher = Refresher(
        store=GrantBook(database),
        safe=TokenSafe(connection),
        endpoint=HttpTokenEndpoint(Clients(connection)),
        providers=read_providers(settings),
        clock=SystemClock(),
        worker=f"{socket.gethostname()}:{os.getppid()}",
    )
    return RefresherServices(refresher, closing)


def build_web(settings: Settings) -> WebServices:
    """Services of one process that serves the web pages."""
    from cloudpush.audit.sessions import Sessions  # noqa: PLC0415 -- see the module's first lines
    from cloudpush.credentials.clients import Clients  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.consent import AuthlibConsent  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.issuer import PublicKeys  # noqa: PLC0415 -- likewise
    from cloudpush.credentials.vault import TokenSealer  # noqa: PLC0415 -- likewise
    from cloudpush.push.grants.consenting import Consenting  # noqa: PLC0415 -- likewise

    settings = trusting_profiles(settings)
    closing = ExitStack()
    database = make_engine(settings.database_url, pool_size=WEB_CONNECTIONS)
    closing.callback(database.dispose)
    announcer = Announcer(make_celery(settings.redis_url), settings.redis_url)
    connection = VaultConnection(settings, "web")
    closing.callback(connection.close)
    clock, store, providers, clients = SystemClock(), GrantBook(database), read_providers(settings), Clients(connection)
    intake = Intake(
        desk=Desk(database),
        announcer=announcer,
        clock=clock,
        parse=destinations(settings),
        roots=settings.source_roots,
        allowed_endpoints=settings.allowed_endpoints,
    )
    return WebServices(
        settings=settings,
        history=History(database),
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
        _closing=closing,
    )


def sign_in_link(settings: Settings, owner: str, seconds: float) -> str:
    """A link that signs ``owner`` in to the web pages, once, within so many seconds. Raises StoreError.

    Postgres has the digest of its token only.
    """
    from cloudpush.audit.sessions import Sessions  # noqa: PLC0415 -- see the module's first lines

    database = make_engine(settings.database_url, pool_size=1)
    try:
        token = secrets.token_urlsafe(32)
        Sessions(database).add_link(hashlib.sha256(token.encode()).digest(), owner=owner, seconds=seconds)
    finally:
        database.dispose()
    return f"{settings.web_url.rstrip('/')}/sign-in/link?token={token}"


def build_sweeper(settings: Settings) -> SweeperServices:
    """Services of one sweeper process."""
    settings = trusting_profiles(settings)
    closing = ExitStack()
    database = make_engine(settings.database_url, pool_size=2)
    closing.callback(database.dispose)
    announcer = Announcer(make_celery(settings.redis_url), settings.redis_url)
    broom = Broom(database)
    closing.callback(broom.close)
    custody, _ = _custody(settings, database, SystemClock(), closing)
    book, connection = GrantBook(database), VaultConnection(settings, "keeper")
    closing.callback(connection.close)
    keeper = Keeper(connection)
    sweep = Sweep(
        broom=broom,
        announcer=announcer,
        queue=announcer,
        keep_house=lambda: custody.purge_due() + shred_superseded(book, keeper),
        max_strikes=settings.max_attempts,
        patience=timedelta(hours=settings.outage_patience_hours),
    )
    return SweeperServices(sweep, closing)


def policy(settings: Settings) -> Policy:
    """How patient pushes are."""
    return Policy(
        strikes=settings.max_attempts,
        base=settings.retry_base_seconds,
        cap=settings.retry_cap_seconds,
        patience=timedelta(hours=settings.outage_patience_hours),
    )


def _custody(settings: Settings, database: sa.Engine, clock: SystemClock, closing: ExitStack) -> tuple[Custody, Sets]:
    intake, keeper = VaultConnection(settings, "intake"), VaultConnection(settings, "keeper")
    closing.callback(intake.close)
    closing.callback(keeper.close)
    store, sealer = Credentials(database), Sealer(intake)
    custody = Custody(store, sealer, Keeper(keeper), clock, allowed=settings.allowed_endpoints)
    return custody, Sets(store, sealer, custody, clock)
