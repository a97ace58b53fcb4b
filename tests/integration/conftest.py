"""What the integration tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from records import Record
from servers import Database


@pytest.fixture(scope="module")
def record(database: Database) -> Iterator[Record]:
    """A module's database, with what the application does in it."""
    made = Record(database)
    yield made
    made.close()
