"""Webhooks that are told one verdict after the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from cloudpush.push.notices import IN_A_ROW, Notice, Notifying, Owed

OWED = Owed(uuid4(), uuid4(), 1)


class Slow:
    """A clock that goes on while a webhook answers, and everything else about that webhook."""

    def __init__(self, seconds: float) -> None:
        self._now, self._seconds = datetime(2026, 1, 1, tzinfo=UTC), seconds
        self.told = 0

    def now(self) -> datetime:
        return self._now

    def get(self, owed: Owed) -> Notice:
        push = {"id": owed.push_id, "state": "succeeded", "owner": "ada", "finished_at": self._now, "labels": {}}
        names = ("source", "uri", "error_code", "error_message", "strength", "files_total", "files_verified")
        more = ("files_skipped", "files_unverified", "files_failed", "bytes_total", "bytes_verified")
        return Notice(owed, self._now, live=True, push=push | dict.fromkeys((*names, *more)))

    def tell(self, *_: Any) -> None:
        self._now += timedelta(seconds=self._seconds)
        self.told += 1

    def end(self, *_: Any, **__: Any) -> None:
        pass

    def following(self, owed: Owed) -> Owed:
        return owed


def attended(seconds: float) -> int:
    slow: Any = Slow(seconds)
    return Notifying(store=slow, teller=slow, clock=slow, web_url="").attend(OWED)


def test_a_slow_webhook_gives_its_hand_back() -> None:
    """One that said yes after nine seconds, each time, kept a hand for a quarter of an hour; four of them kept all."""
    assert attended(9.0) == 2


def test_a_quick_one_hears_many_in_a_row() -> None:
    assert attended(0.0) == IN_A_ROW
