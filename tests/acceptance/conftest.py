"""One stack for all of these tests, on one process: they take turns in breaking it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from acceptance import live as lives
from acceptance.live import Cli, Live


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """CloudPush and a user's cloud, running."""
    with lives.running() as running:
        yield running


@pytest.fixture
def cli(live: Live) -> Cli:
    """A shell beside it."""
    return live.cli


@pytest.fixture
def bucket(live: Live) -> str:
    """A bucket of this test's own, empty."""
    return live.cloud.make_bucket()


@pytest.fixture(scope="session")
def good(live: Live) -> str:
    """A credential that may do everything."""
    return live.credential()


@pytest.fixture(scope="session")
def gated(live: Live) -> str:
    """The same, by the road that has a gate."""
    return live.credential(endpoint=live.gate.endpoint)
