"""What more than one composition needs."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import sqlalchemy as sa

from cloudpush.audit.credentials import Credentials
from cloudpush.audit.desk import Desk
from cloudpush.audit.preflights import Preflights as PreflightBook
from cloudpush.broker import Announcer
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.vault import Keeper, Sealer
from cloudpush.push.custody import Custody
from cloudpush.push.intake import Intake
from cloudpush.push.job import Destination, Profile
from cloudpush.push.preflights import Preflights
from cloudpush.push.retry import Policy
from cloudpush.push.signed.model import PROFILE
from cloudpush.push.signed.places import read_destination
from cloudpush.push.signed.sets import Sets
from cloudpush.push.uris import parse_destination
from cloudpush.settings import Settings


class SystemClock:
    """``push.ports.Clock``: the machine's own time and chance."""

    def now(self) -> datetime:
        """The present, aware, UTC."""
        return datetime.now(UTC)

    def jitter(self) -> float:
        """A number in [0, 1): spreads retries, guards nothing."""
        return random.random()  # noqa: S311 -- no secret depends on it


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


def policy(settings: Settings) -> Policy:
    """How patient pushes are."""
    return Policy(
        strikes=settings.max_attempts,
        base=settings.retry_base_seconds,
        cap=settings.retry_cap_seconds,
        patience=timedelta(hours=settings.outage_patience_hours),
    )


def make_intake(settings: Settings, database: sa.Engine, announcer: Announcer, clock: SystemClock) -> Intake:
    """Where pushes are submitted, cancelled and tried again."""
    return Intake(
        desk=Desk(database),
        announcer=announcer,
        clock=clock,
        parse=destinations(settings),
        roots=settings.source_roots,
        allowed_endpoints=settings.allowed_endpoints,
    )


def make_preflights(settings: Settings, database: sa.Engine, clock: SystemClock) -> Preflights:
    """Where preflights are asked for and looked up."""
    return Preflights(
        store=PreflightBook(database),
        cards=Desk(database),
        clock=clock,
        parse=destinations(settings),
        allowed_endpoints=settings.allowed_endpoints,
    )


def make_custody(
    settings: Settings, database: sa.Engine, clock: SystemClock, closing: ExitStack
) -> tuple[Custody, Sets]:
    """What adds, sees and destroys credentials, and seals sets of signed URLs."""
    intake, keeper = VaultConnection(settings, "intake"), VaultConnection(settings, "keeper")
    closing.callback(intake.close)
    closing.callback(keeper.close)
    store, sealer = Credentials(database), Sealer(intake)
    custody = Custody(store, sealer, Keeper(keeper), clock, allowed=settings.allowed_endpoints)
    return custody, Sets(store, sealer, custody, clock)
