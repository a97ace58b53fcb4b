"""What a worker executes with, and the scribe beside it."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING
from uuid import UUID

import sqlalchemy as sa
from celery import Celery

from cloudpush.audit.credentials import Credentials
from cloudpush.audit.database import make_engine
from cloudpush.audit.deliveries import Deliveries
from cloudpush.audit.grants import GrantBook
from cloudpush.audit.ledger import Ledger
from cloudpush.audit.preflights import Preflights
from cloudpush.audit.sheets import Sheets
from cloudpush.broker import Announcer, make_celery
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.kinds import AccessKey
from cloudpush.credentials.providers import read_providers
from cloudpush.credentials.vault import Safe, TokenSafe, Vault
from cloudpush.push.couriers import GrantCourier, KeyCourier
from cloudpush.push.credential import CredentialState
from cloudpush.push.grants.hands import HANDS, Hands
from cloudpush.push.grants.model import GRANT_KINDS, NOTIFY_HOOK
from cloudpush.push.leases import LeaseKeeper
from cloudpush.push.lifecycle import CloudPush
from cloudpush.push.notices import Notifying
from cloudpush.push.planning import Limits
from cloudpush.push.preflight import Preflight
from cloudpush.push.preflights import Trying
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.signed.rows import Rules, read_row
from cloudpush.settings import Settings

if TYPE_CHECKING:
    from cloudpush.push.access.submission import Submissions
    from cloudpush.push.grants.keeping import GrantKeeping
    from cloudpush.push.grants.ports import Minter
    from cloudpush.push.grants.refresh import Refresher
    from cloudpush.push.preflight import Looking, Opening
    from cloudpush.push.signed.courier import UrlCourier
    from cloudpush.transfer.notify import HttpNotifier
    from cloudpush.transfer.rclone import Rclone
from cloudpush.wiring.common import SystemClock, destinations, make_intake, policy, trusting_profiles

#: A worker asks Vault's KV store for the same ciphertext once in so many seconds.
ENVELOPE_SECONDS = 30.0
#: A callback that says nothing for so long is not waited for.
HOOK_SECONDS = 30.0
#: Of one owner, newest first, that are looked through for webhooks.
MOST_CREDENTIALS = 1000
#: Somebody waits for the answer to a preflight: they are looked for this often.
PREFLIGHT_SECONDS = 1.0
#: Webhooks are told within so many seconds how a push ended, and have so many to answer.
NOTICE_SECONDS = 2.0
ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What a worker executes with. ``start`` before the first push, ``close`` after the last."""

    name: str
    cloudpush: CloudPush
    hands: tuple[Hands, ...]
    celery: Celery
    announcer: Announcer
    leases: LeaseKeeper
    engine: Rclone
    submissions: Submissions | None  # from the broker; None: the operator takes none
    _closing: ExitStack = field(repr=False)

    def start(self) -> None:
        """Start the engine, the heartbeat and the chores. Raises EngineError."""
        self.engine.start()
        self.leases.start()
        for hands in self.hands:
            hands.start()

    def close(self) -> None:
        """Stop them and give connections back; pushes under way run out of their leases."""
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


def build_worker(settings: Settings) -> WorkerServices:
    """Services of one worker process."""
    from cloudpush.transfer.rclone import Rclone  # noqa: PLC0415 -- see the package's first lines

    settings = trusting_profiles(settings)
    closing = ExitStack()
    name = f"{socket.gethostname()}:{os.getpid()}"
    # Every thread may hold one connection, the heartbeat one more, and so may the chores.
    database = make_engine(settings.database_url, pool_size=settings.concurrency * 2 + 2 + 3 * HANDS)
    closing.callback(database.dispose)
    celery = make_celery(settings.redis_url)
    announcer = Announcer(celery, settings.redis_url)
    own_version = version("cloudpush")
    engine = Rclone(settings)
    closing.callback(engine.stop)
    store = Ledger(
        database,
        destinations(settings),
        proved_days=settings.preflight_days,
        software=lambda: {"cloudpush": own_version, "rclone": engine.version},
    )
    clock = SystemClock()
    connection = VaultConnection(settings, "worker")
    closing.callback(connection.close)
    vault = Vault(connection, remember=ENVELOPE_SECONDS)
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
    key_courier = KeyCourier(vault=vault, engine=engine, inspector=inspector, clock=clock, roots=settings.source_roots)
    opening: dict[str, Opening] = {
        AccessKey.KIND: key_courier.visit,
        **dict.fromkeys(GRANT_KINDS, grant_courier.visit),
    }
    preflight = Preflight(inspector, opening)
    asked = Preflights(database)
    trying = Trying(store=asked, preflight=preflight, parse=destinations(settings), worker=name)
    preflight_hands = Hands(store=asked, keeping=trying, every=min(settings.heartbeat_seconds, PREFLIGHT_SECONDS))
    closing.callback(preflight_hands.stop)
    deliveries, notifying = _with_notices(settings, database, vault, clock, closing)
    notice_hands = Hands(store=deliveries, keeping=notifying, every=min(settings.heartbeat_seconds, NOTICE_SECONDS))
    closing.callback(notice_hands.stop)
    cloudpush = CloudPush(
        store=store,
        announcer=announcer,
        couriers={
            AccessKey.KIND: key_courier,
            **dict.fromkeys(GRANT_KINDS, grant_courier),
            SIGNED_URLS: _url_courier(settings, database, store, vault, Safe(connection), clock, closing),
        },
        leases=leases,
        clock=clock,
        policy=policy(settings),
        limits=Limits(settings.part_files, settings.part_bytes),
        preflight=preflight if settings.preflight == "new" else None,
    )
    submissions = _submissions(settings, database, announcer, clock, connection) if settings.celery_submit else None
    return WorkerServices(
        name,
        cloudpush,
        (hands, preflight_hands, notice_hands),
        celery,
        announcer,
        leases,
        engine,
        submissions,
        closing,
    )


def _submissions(
    settings: Settings, database: sa.Engine, announcer: Announcer, clock: SystemClock, connection: VaultConnection
) -> Submissions:
    """What takes pushes from the broker."""
    from cloudpush.audit.access import AccessBook  # noqa: PLC0415 -- see the package's first lines
    from cloudpush.credentials.submission import SubmissionVerifier  # noqa: PLC0415 -- likewise
    from cloudpush.push.access.identity import Access  # noqa: PLC0415 -- likewise
    from cloudpush.push.access.submission import Submissions  # noqa: PLC0415 -- likewise

    intake = make_intake(settings, database, announcer, clock)
    verifier = SubmissionVerifier(connection, settings.vault_submission_key, settings.web_url)
    return Submissions(verifier, Access(AccessBook(database)), intake)


def _inspector(settings: Settings, closing: ExitStack) -> Looking:
    from cloudpush.verify.cloud import CloudInspector  # noqa: PLC0415 -- see the package's first lines

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
    from cloudpush.credentials.clients import Clients  # noqa: PLC0415 -- see the package's first lines
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
    from cloudpush.net import Pool  # noqa: PLC0415 -- see the package's first lines
    from cloudpush.transfer.notify import HttpNotifier  # noqa: PLC0415 -- likewise
    from cloudpush.transfer.signed.wire import timeouts  # noqa: PLC0415 -- likewise

    pool, credentials = Pool("notices", timeouts(HOOK_SECONDS)), Credentials(database)
    closing.callback(pool.close)

    def hooks(owner: str) -> list[UUID]:
        found = credentials.find(owner, purged=False, limit=MOST_CREDENTIALS)
        return [c.id for c in found if c.kind == NOTIFY_HOOK and c.state is CredentialState.ACTIVE]

    page = f"{settings.web_url}/connections" if settings.web_url else ""
    return HttpNotifier(pool, settings.allowed_endpoints, vault, hooks, page=page)


def _with_notices(
    settings: Settings, database: sa.Engine, vault: Vault, clock: SystemClock, closing: ExitStack
) -> tuple[Deliveries, Notifying]:
    """Verdicts that webhooks are owed, and who tells them."""
    from cloudpush.net import Pool  # noqa: PLC0415 -- see the package's first lines
    from cloudpush.transfer.signed.wire import timeouts  # noqa: PLC0415 -- likewise
    from cloudpush.transfer.telling import HttpTeller  # noqa: PLC0415 -- likewise

    pool = Pool("verdicts", timeouts(ANSWER_SECONDS))
    closing.callback(pool.close)
    deliveries = Deliveries(database)
    teller = HttpTeller(pool, settings.allowed_endpoints, vault, seconds=ANSWER_SECONDS)
    return deliveries, Notifying(store=deliveries, teller=teller, clock=clock, web_url=settings.web_url)


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
    from cloudpush.push.signed.delivery import Kit  # noqa: PLC0415 -- see the package's first lines
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
    from cloudpush.credentials.clients import Clients  # noqa: PLC0415 -- see the package's first lines
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
