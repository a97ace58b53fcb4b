"""What users, operators and auditors on the command line work with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from cloudpush.audit.access import AccessBook
from cloudpush.audit.database import make_engine
from cloudpush.audit.desk import Desk
from cloudpush.audit.grants import GrantBook
from cloudpush.audit.history import History
from cloudpush.audit.receipts import Receipts
from cloudpush.broker import Announcer, make_celery
from cloudpush.credentials.connection import VaultConnection
from cloudpush.credentials.notary import AuditKey, Signer
from cloudpush.credentials.providers import read_providers
from cloudpush.push.access.desk import TokenDesk
from cloudpush.push.access.model import Role
from cloudpush.push.custody import Custody
from cloudpush.push.grants.desk import Grants
from cloudpush.push.intake import Intake
from cloudpush.push.preflights import Preflights
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.intake import SignedIntake
from cloudpush.settings import Settings
from cloudpush.wiring.common import (
    SystemClock,
    destinations,
    make_custody,
    make_intake,
    make_preflights,
    trusting_profiles,
)


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
    preflights: Preflights
    receipts: Receipts
    _closing: ExitStack = field(repr=False)

    def close(self) -> None:
        """Give connections back."""
        self._closing.close()


def audit_keys(settings: Settings) -> list[AuditKey]:
    """The public keys that receipts and checkpoints are signed with, oldest first. Raises VaultError."""
    connection = VaultConnection(settings, "intake")
    try:
        return Signer(connection, settings.vault_audit_key).keys()
    finally:
        connection.close()


@contextmanager
def token_desk(settings: Settings) -> Iterator[TokenDesk]:
    """Where an operator makes tokens and grants roles."""
    database = make_engine(settings.database_url, pool_size=1)
    try:
        yield TokenDesk(AccessBook(database), settings.api_token_days)
    finally:
        database.dispose()


def found_operator(settings: Settings, name: str) -> None:
    """Make ``name`` administrator and auditor of a stack of their own: once, so that what they take back stays so."""
    database = make_engine(settings.database_url, pool_size=1)
    try:
        AccessBook(database).found(name, (Role.ADMIN, Role.AUDITOR), "cloudpush up")
    finally:
        database.dispose()


def build(settings: Settings) -> Services:
    """Services for the command line."""
    settings = trusting_profiles(settings)
    closing = ExitStack()
    database = make_engine(settings.database_url, pool_size=2)
    closing.callback(database.dispose)
    announcer = Announcer(make_celery(settings.redis_url), settings.redis_url)
    clock = SystemClock()
    intake = make_intake(settings, database, announcer, clock)
    custody, sets = make_custody(settings, database, clock, closing)
    signed = SignedIntake(
        desk=Desk(database),
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
    preflights = make_preflights(settings, database, clock)
    return Services(
        settings,
        database,
        intake,
        signed,
        custody,
        History(database),
        announcer,
        grants,
        preflights,
        Receipts(database),
        closing,
    )
