"""What the sweeper works with."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta

from cloudpush.audit.broom import Broom
from cloudpush.audit.database import make_engine
from cloudpush.audit.grants import GrantBook
from cloudpush.broker import Announcer, make_celery
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.vault import Keeper
from cloudpush.push.grants.house import shred_superseded
from cloudpush.push.sweep import Sweep
from cloudpush.push.trust.notary import Inspector, Notary
from cloudpush.settings import Settings
from cloudpush.wiring.common import SystemClock, make_custody, trusting_profiles
from cloudpush.wiring.trust import make_notary


@dataclass(frozen=True, slots=True)
class SweeperServices:
    """What the sweeper works with."""

    sweep: Sweep
    notary: Notary
    inspector: Inspector
    _closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Give the leader's lock and connections back."""
        self._closing.close()


def build_sweeper(settings: Settings) -> SweeperServices:
    """Services of one sweeper process."""
    settings = trusting_profiles(settings)
    closing = ExitStack()
    database = make_engine(settings.database_url, pool_size=4)
    closing.callback(database.dispose)
    announcer = Announcer(make_celery(settings.redis_url), settings.redis_url)
    broom = Broom(database)
    closing.callback(broom.close)
    custody, _ = make_custody(settings, database, SystemClock(), closing)
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
    return SweeperServices(sweep, *make_notary(settings, database, closing), closing)
