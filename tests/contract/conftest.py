"""The stores that keep the same contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cloudpush.audit.database import make_engine
from grant_stores import GrantsInMemory, GrantsInPostgres, GrantSubject
from servers import Database
from stores import InMemory, InPostgres, Subject


@pytest.fixture(scope="module")
def in_postgres(request: pytest.FixtureRequest) -> Iterator[Callable[[], InPostgres]]:
    """Makes stores on this module's database."""
    database: Database = request.getfixturevalue("database")
    app, owner = make_engine(database.url), make_engine(database.admin_url)
    yield lambda: InPostgres(app, owner)
    app.dispose()
    owner.dispose()


@pytest.fixture(params=["fake", "postgres"])
def subject(request: pytest.FixtureRequest) -> Subject:
    """One after the other."""
    if request.param == "fake":
        return InMemory()
    made: Subject = request.getfixturevalue("in_postgres")()
    return made


@pytest.fixture(scope="module")
def grants_in_postgres(request: pytest.FixtureRequest) -> Iterator[Callable[[], GrantsInPostgres]]:
    """Makes stores of grants on this module's database."""
    database: Database = request.getfixturevalue("database")
    app, owner = make_engine(database.url), make_engine(database.admin_url)
    yield lambda: GrantsInPostgres(app, owner)
    app.dispose()
    owner.dispose()


@pytest.fixture(params=["fake", "postgres"])
def grants(request: pytest.FixtureRequest) -> GrantSubject:
    """One after the other."""
    if request.param == "fake":
        return GrantsInMemory()
    made: GrantSubject = request.getfixturevalue("grants_in_postgres")()
    return made
