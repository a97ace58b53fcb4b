"""The composition root: the only place where concrete classes are chosen.

``build_*`` takes settings and returns services; nothing connects before its first use, so a command that
needs only Postgres works while Vault is down. What only a worker needs is imported when one is built: the command
line, started anew for every push, does not pay for it.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import sqlalchemy as sa
from celery import Celery

from cloudpush.audit.broom import Broom
from cloudpush.audit.credentials import Credentials
from cloudpush.audit.database import make_engine
from cloudpush.audit.desk import Desk
from cloudpush.audit.history import History
from cloudpush.audit.ledger import Ledger
from cloudpush.audit.sheets import Sheets
from cloudpush.broker import Announcer, make_celery
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.kinds import AccessKey
from cloudpush.credentials.vault import Keeper, Safe, Sealer, Vault
from cloudpush.push.couriers import KeyCourier
from cloudpush.push.custody import Custody
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
    from cloudpush.push.signed.courier import UrlCourier
    from cloudpush.transfer.rclone import Rclone


#: A worker asks Vault's KV store for the same ciphertext once in so many seconds.
ENVELOPE_SECONDS = 30.0
#: A callback that says nothing for so long is not waited for.
HOOK_SECONDS = 30.0


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
    _closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Give connections back."""
        self._closing.close()


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What a worker executes with. ``start`` before the first push, ``close`` after the last."""

    name: str
    cloudpush: CloudPush
    celery: Celery
    announcer: Announcer
    leases: LeaseKeeper
    engine: Rclone
    _closing: ExitStack = field(repr=False)

    def start(self) -> None:
        """Start the engine and the heartbeat. Raises EngineError."""
        self.engine.start()
        self.leases.start()

    def close(self) -> None:
        """Stop both and give connections back; pushes under way run out of their leases."""
        self._closing.close()


@dataclass(frozen=True, slots=True)
class SweeperServices:
    """What the sweeper works with."""

    sweep: Sweep
    _closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Give the leader's lock and connections back."""
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
    return Services(settings, database, intake, signed, custody, History(database), announcer, closing)


def build_worker(settings: Settings) -> WorkerServices:
    """Services of one worker process."""
    from cloudpush.transfer.rclone import Rclone  # noqa: PLC0415 -- see the module's first lines

    settings = trusting_profiles(settings)
    closing = ExitStack()
    name = f"{socket.gethostname()}:{os.getpid()}"
    # Every thread may hold one connection, and the heartbeat one more.
    database = make_engine(settings.database_url, pool_size=settings.concurrency * 2 + 1)
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
    cloudpush = CloudPush(
        store=store,
        announcer=announcer,
        couriers={
            AccessKey.KIND: _key_courier(settings, vault, engine, clock, closing),
            SIGNED_URLS: _url_courier(settings, database, store, vault, Safe(connection), clock, closing),
        },
        leases=leases,
        clock=clock,
        policy=policy(settings),
        limits=Limits(settings.part_files, settings.part_bytes),
    )
    return WorkerServices(name, cloudpush, celery, announcer, leases, engine, closing)


def _key_courier(
    settings: Settings, vault: Vault, engine: Rclone, clock: SystemClock, closing: ExitStack
) -> KeyCourier:
    from cloudpush.verify.heads import S3Inspector  # noqa: PLC0415 -- see the module's first lines

    inspector = S3Inspector(allowed_endpoints=settings.allowed_endpoints)
    closing.callback(inspector.close)
    return KeyCourier(vault=vault, engine=engine, inspector=inspector, clock=clock, roots=settings.source_roots)


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
    sweep = Sweep(
        broom=broom,
        announcer=announcer,
        queue=announcer,
        keep_house=custody.purge_due,
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
