"""Whoever may write to the broker ends no worker, and has nothing of a message logged: each of these did, before."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from queue import Queue
from typing import Any
from uuid import uuid4

import pytest
import redis
from celery.contrib.testing.worker import start_worker

from cloudpush.broker import SUBMIT_QUEUE, SUBMIT_TASK, make_celery
from cloudpush.poison import refuse_poison
from cloudpush.push.access.submission import Submissions, refused
from cloudpush.stack.services import Valkey
from cloudpush.tasks import register_submit

#: Stands for a submission token that came in the wrong message.
CANARY = "canary-of-a-message"


class Heard(Submissions):
    """Executes nothing, and says which keys came."""

    def __init__(self) -> None:
        self.keys: Queue[object] = Queue()

    def execute(self, request: object, token: object, idempotency_key: object) -> Any:
        self.keys.put(idempotency_key)
        raise refused("it is a test")


class Broker:
    """What may write to the queue."""

    def __init__(self, client: redis.Redis, heard: Heard) -> None:
        self._client = client
        self._heard = heard

    def still_served_after(self, poison: str | bytes) -> bool:
        """Whether a message that follows ``poison`` is executed."""
        key = str(uuid4())
        self._client.lpush(SUBMIT_QUEUE, poison)
        self._client.lpush(SUBMIT_QUEUE, message([[], {"idempotency_key": key}, {}]))
        while (heard := self._heard.keys.get(timeout=5)) != key:
            assert heard is None
        return True


def message(body: object, task: object = SUBMIT_TASK, **changes: Any) -> str:
    """A message as Celery writes it; ``changes``: in its headers, or ``properties=`` and others beside them."""
    whole = {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": str(uuid4()), "kwargsrepr": CANARY},
        "properties": {
            "delivery_tag": str(uuid4()),
            "delivery_info": {"exchange": "", "routing_key": SUBMIT_QUEUE},
            "body_encoding": "base64",
        },
    }
    for name, value in changes.items():
        if name.replace("_", "-") in whole:
            whole[name.replace("_", "-")] = value
        else:
            whole["headers"][name] = value  # type: ignore[index]
    return json.dumps(whole)


@pytest.fixture(scope="module")
def broker(valkey: Valkey) -> Iterator[Broker]:
    app, heard = make_celery(valkey.url()), Heard()
    refuse_poison(app)
    register_submit(app, heard)
    with (
        start_worker(app, pool="threads", concurrency=1, perform_ping_check=False),
        redis.Redis.from_url(valkey.url()) as client,
    ):
        yield Broker(client, heard)


@pytest.mark.parametrize(
    "poison",
    [
        "garbage",
        b"\xff\xfe",
        "[]",
        "null",
        "3",
        "[" * 100_000,
        "{}",
        message(3),
        message([1]),
        message({"a": 1}),
        message([3, 3, 3]),
        message([], content_type="application/x-python-serialize"),
        message([], properties={"delivery_tag": "x", "delivery_info": 3}),
        message([], properties={"delivery_tag": [1], "delivery_info": {}}),
        message([], properties={"delivery_tag": "x", "delivery_info": {}, "body_encoding": "rot13"}),
        message([[], {}, {}], headers=None),
        message([[], {}, {}], task=[]),
        message([[], {}, {}], id=[]),
        message([[], {}, {}], retries="x"),
        message([[], {}, {}], timelimit="x"),
        message([[], {}, {}], stamped_headers=3),
        message([[], {}, {}], group=[1]),
        message([[], {}, {}], eta="never"),
        message([[], {"token": CANARY}, {}], task="cloudpush.submt"),
    ],
    ids=map(str, range(24)),
)
def test_no_message_ends_a_worker(broker: Broker, poison: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert broker.still_served_after(poison)
    assert CANARY not in caplog.text
