"""When a consumer is called deaf, and when it is not."""

from __future__ import annotations

import pytest

from cloudpush.errors import BrokerError, Code
from cloudpush.watchdog import Watch


class Worker:
    """A worker with two slots."""

    def __init__(self) -> None:
        self.waiting: int | None = 3
        self.received = 7
        self.busy = 0
        self.watch = Watch(self.length, lambda: self.received, lambda: self.busy, 2)

    def length(self) -> int:
        if self.waiting is None:
            raise BrokerError(Code.BROKER_UNREACHABLE, "away")
        return self.waiting


def test_two_looks_at_a_queue_that_waits_for_an_idle_worker_are_one_too_many() -> None:
    """The second look ends the connection."""
    worker = Worker()
    worker.watch.look()

    with pytest.raises(ConnectionError):
        worker.watch.look()


@pytest.mark.parametrize(("name", "value"), [("waiting", 0), ("waiting", None), ("busy", 2), ("received", 8)], ids=str)
def test_a_worker_that_has_a_reason_is_left_alone(name: str, value: int | None) -> None:
    """Nothing waits, the broker is away, every slot is taken, or a message has come in between."""
    worker = Worker()
    worker.watch.look()
    setattr(worker, name, value)

    worker.watch.look()


def test_what_was_explained_in_between_is_forgotten() -> None:
    """Only looks in a row count."""
    worker = Worker()
    worker.watch.look()
    worker.busy = 2
    worker.watch.look()
    worker.busy = 0

    worker.watch.look()
