"""The notary's passes: what is due is done, what is in trouble waits alone, and only the leader works."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from cloudpush.errors import Code, StoreError, VaultError
from cloudpush.push.trust import notary
from cloudpush.push.trust.notary import Inspector, Notary


class Clock:
    """Monotonic seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Said:
    """A log that is read: whatever another test set logging up for."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **_: self.lines.append((level, event))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    found = Said()
    monkeypatch.setattr(notary, "log", found)
    return found


class Leader:
    """Leads while ``answer`` says so, or raises it."""

    answer: bool | Exception = True

    def lead(self) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Desk:
    """Counts what it is asked for; answers and troubles are set by the test."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.owed = 0
        self.answers: dict[str, object] = {}

    def step(self, name: str) -> Callable[[], object]:
        def do() -> object:
            self.done.append(name)
            answer = self.answers.get(name, True)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return do

    def issue(self) -> int:
        self.done.append("issue")
        if isinstance(trouble := self.answers.get("issue"), Exception):
            raise trouble
        issued, self.owed = min(self.owed, 100), max(0, self.owed - 100)
        return issued


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(notary, "time", made)
    return made


def a_notary(desk: Desk, leader: Leader) -> Notary:
    return Notary(
        leader,
        issue=desk.issue,
        seal=desk.step("seal"),  # type: ignore[arg-type]
        make_months=desk.step("months"),
        checkpoint_seconds=60,
    )


def test_each_step_has_its_time(clock: Clock) -> None:
    """Receipts every second, checkpoints every minute, months once a day."""
    desk = Desk()
    made = a_notary(desk, Leader())
    made.once()
    first, desk.done = desk.done, []
    for _ in range(60):
        clock.now += 1
        made.once()

    assert first == ["issue", "seal", "months"]
    assert (desk.done.count("issue"), desk.done.count("seal"), desk.done.count("months")) == (60, 1, 0)


def test_what_is_owed_is_issued_at_once(clock: Clock) -> None:
    """Batch after batch, until there is none."""
    desk = Desk()
    desk.owed = 250

    a_notary(desk, Leader()).once()

    assert (desk.done.count("issue"), desk.owed) == (4, 0)


def test_a_checkpoint_that_has_to_wait_is_tried_again_soon(clock: Clock) -> None:
    """An older transaction was not over."""
    desk = Desk()
    desk.answers["seal"] = False
    made = a_notary(desk, Leader())
    for _ in range(3):
        made.once()
        clock.now += 1

    assert desk.done.count("seal") == 3


def test_whoever_does_not_lead_does_nothing(clock: Clock) -> None:
    """And nothing while it cannot be told who leads."""
    desk, leader = Desk(), Leader()
    made = a_notary(desk, leader)
    for answer in (False, StoreError(Code.DATABASE_UNREACHABLE, "away")):
        leader.answer = answer
        made.once()
        clock.now += 1

    assert (desk.done, made.leading) == ([], False)


def test_an_outage_is_told_once_and_the_other_steps_go_on(clock: Clock, said: Said) -> None:
    """Vault is away for five seconds."""
    desk = Desk()
    made = a_notary(desk, Leader())
    desk.answers["issue"] = VaultError(Code.VAULT_UNREACHABLE, "away")
    for _ in range(5):
        made.once()
        clock.now += 1
    del desk.answers["issue"]
    made.once()

    assert [line for line in said.lines if line[0] != "debug"] == [
        ("warning", "notary waits"),
        ("info", "notary goes on"),
    ]
    assert (desk.done.count("issue"), desk.done.count("seal")) == (6, 1)


def test_a_defect_in_one_step_stops_no_other(clock: Clock, said: Said) -> None:
    """Its thread goes on; it is told once, and tried again."""
    desk = Desk()
    made = a_notary(desk, Leader())
    desk.answers["issue"] = KeyError("canary")
    for _ in range(3):
        made.once()
        clock.now += 1
    del desk.answers["issue"]
    made.once()

    assert said.lines.count(("error", "defect")) == 1
    assert (desk.done.count("issue"), desk.done.count("seal")) == (4, 1)


@pytest.mark.parametrize(("age", "looked"), [(None, 1), (3_599.0, 0), (3_600.0, 1)])
def test_an_inspection_is_made_when_the_last_one_is_old(clock: Clock, age: float | None, looked: int) -> None:
    """By the database's word, so that a restart does not begin anew."""
    found: list[datetime] = []

    def inspect(at: datetime) -> bool:
        found.append(at)
        return True

    Inspector(a_notary(Desk(), Leader()), age=lambda: age, inspect=inspect, every_seconds=3_600).once()

    assert len(found) == looked
