"""Kill each part once, at a moment of chance, while pushes run: a short run of the chaos arena."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

import servers
from chaos.rounds import TARGETS, Arena, With, arena

pytestmark = pytest.mark.xdist_group("chaos")


@pytest.fixture(scope="module")
def lions() -> Iterator[Arena]:
    """A stack of its own, and moments of chance."""
    with servers.scratch() as base, arena(base, seed=secrets.randbelow(2**31)) as running:
        yield running


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_lost_when_it_is_killed(lions: Arena, target: str) -> None:
    """Every push ends in the verdict that it deserves, every object is there once and whole, the record is sound."""
    outcome = lions.round(1, target, With.KEYS)

    assert outcome.problems + lions.verify_audit() == []


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_of_signed_urls_is_lost_or_left_behind_when_it_is_killed(lions: Arena, target: str) -> None:
    """As with keys; moreover no URL and no unfinished upload stays, and no part that had arrived is sent again."""
    outcome = lions.round(2, target, With.URLS)

    assert outcome.problems + lions.verify_audit() == [], outcome.told
