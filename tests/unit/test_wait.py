"""Waiting for a verdict: whatever the broker says or does not say, Postgres tells the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from cloudpush.cli import wait
from cloudpush.cli.wait import wait_for
from cloudpush.errors import BrokerError, Code
from cloudpush.wiring import Services

PUSH = uuid4()


class World:
    """Rows that Postgres would show, one a question, and messages that the broker would bring."""

    def __init__(self, states: list[str], messages: list[dict[str, Any]]) -> None:
        self.states = states
        self.messages = messages
        self.questions = 0
        self.watched: list[UUID] = []
        self.away = False
        self.services = cast("Services", SimpleNamespace(history=self, announcer=self))

    def push(self, push_id: UUID) -> dict[str, Any]:
        state = self.states[min(self.questions, len(self.states) - 1)]
        self.questions += 1
        return {
            "state": state,
            "bytes_total": 2048,
            "bytes_verified": 1024,
            "sent_bytes": 512,
            "speed": None,
            "planned_at": None,
        }

    @contextmanager
    def watch(self, push_id: UUID) -> Iterator[Callable[[float], dict[str, Any] | None]]:
        if self.away:
            raise BrokerError(Code.BROKER_UNREACHABLE, "away")
        self.watched.append(push_id)
        yield lambda seconds: self.messages.pop(0) if self.messages else None


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "POLL_SECONDS", 0.001)


def test_a_push_that_is_over_is_not_waited_for() -> None:
    """One question, one answer."""
    world = World(["succeeded"], [])

    row = wait_for(world.services, PUSH, None)

    assert (row["state"], world.questions, world.watched) == ("succeeded", 1, [PUSH])


def test_the_brokers_word_makes_us_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the next question was an hour away; the verdict is the row's, not the message's."""
    monkeypatch.setattr(wait, "POLL_SECONDS", 3600.0)
    world = World(["running", "failed"], [{"state": "succeeded"}])

    assert (wait_for(world.services, PUSH, None)["state"], world.questions) == ("failed", 2)


@pytest.mark.parametrize("away", [False, True])
def test_a_broker_that_says_nothing_is_done_without(*, away: bool) -> None:
    """Postgres is asked until the push is over."""
    world = World(["queued", "running", "running", "unverified"], [])
    world.away = away

    assert (wait_for(world.services, PUSH, None)["state"], world.questions) == ("unverified", 4)


def test_waiting_ends_with_its_patience() -> None:
    """The row is then as it is; the push goes on."""
    world = World(["running"], [])

    assert wait_for(world.services, PUSH, 0.0)["state"] == "running"


def test_elsewhere_than_on_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One when the state changes, with verified and sent bytes together."""
    world = World(["queued", "running", "running", "succeeded"], [])

    wait_for(world.services, PUSH, None)

    assert capsys.readouterr().err.splitlines() == [
        "queued: 1.5 KiB of 2.0 KiB",
        "running: 1.5 KiB of 2.0 KiB",
        "succeeded: 1.5 KiB of 2.0 KiB",
    ]


def test_who_wants_json_alone_gets_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Quiet is quiet."""
    wait_for(World(["running", "succeeded"], []).services, PUSH, None, quiet=True)

    assert capsys.readouterr().err == ""
