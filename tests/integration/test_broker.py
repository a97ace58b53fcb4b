"""The broker, on a real Valkey: messages that carry ids, progress for whoever watches, and outages."""

from __future__ import annotations

import base64
import json
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from uuid import UUID, uuid4

import pytest
import redis
from celery.contrib.testing.worker import start_worker

from cloudpush.broker import PART_TASK, PUSH_TASK, QUEUE, Announcer, celery_url, channel, make_celery
from cloudpush.errors import BrokerError, Code, SettingsError
from cloudpush.push.job import Progress
from cloudpush.push.states import State
from cloudpush.stack.services import Valkey
from servers import running, scratch

PUSH = UUID("01890000-0000-7000-8000-000000000001")
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def client(valkey: Valkey) -> Iterator[redis.Redis]:
    """A look into the broker; it is empty at first."""
    with redis.Redis.from_url(valkey.url()) as made:
        made.flushall()
        yield made


@pytest.fixture
def announcer(valkey: Valkey) -> Announcer:
    """What workers and intake announce with."""
    return Announcer(make_celery(valkey.url()), valkey.url())


def waiting(client: redis.Redis) -> list[tuple[str, dict[str, object]]]:
    """Task and arguments of each message that waits, oldest first."""
    found = []
    for raw in reversed(client.lrange(QUEUE, 0, -1)):
        headers = json.loads(raw)["headers"]
        found.append((headers["task"], eval(headers["kwargsrepr"])))  # our own message, written a moment ago
    return found


def test_a_push_is_one_message_with_its_id(announcer: Announcer, client: redis.Redis) -> None:
    """Nothing else travels."""
    announcer.push(PUSH)

    assert (waiting(client), announcer.length()) == ([(PUSH_TASK, {"push_id": str(PUSH)})], 1)


def test_the_messages_of_pushes_are_those_that_celery_sends(
    announcer: Announcer, client: redis.Redis, valkey: Valkey
) -> None:
    """Byte for byte, but for what tells one from another."""
    other = UUID("01890000-0000-7000-8000-000000000002")
    announcer.push_many([PUSH, other])
    app = make_celery(valkey.url())
    for push in (PUSH, other):
        app.send_task(PUSH_TASK, kwargs={"push_id": str(push)}, queue=QUEUE)
    app.close()

    found = [json.loads(raw) for raw in reversed(client.lrange(QUEUE, 0, -1))]
    own = {(m["headers"].pop("id"), m["properties"].pop("delivery_tag")) for m in found}
    for message in found:
        message["body"] = json.loads(base64.b64decode(message["body"]))
        assert message["headers"]["root_id"] == message["properties"]["correlation_id"]
        for told, name in (("headers", "root_id"), ("properties", "correlation_id"), ("properties", "reply_to")):
            message[told].pop(name)
    assert len(own) == 4
    assert found[:2] == found[2:]
    assert found[0] != found[1]


def test_a_worker_takes_the_messages_up(announcer: Announcer, valkey: Valkey, client: redis.Redis) -> None:
    """A real one, with its own way to read them."""
    heard: Queue[str] = Queue()
    app = make_celery(valkey.url())

    @app.task(name=PUSH_TASK)  # type: ignore[untyped-decorator]  # Celery has no types
    def hear(push_id: str) -> None:
        heard.put(push_id)

    pushes = [str(uuid4()) for _ in range(3)]
    announcer.push_many([UUID(push) for push in pushes])

    with start_worker(app, pool="solo", perform_ping_check=False, queues=[QUEUE], shutdown_timeout=60):
        assert [heard.get(timeout=60) for _ in pushes] == pushes
    assert client.llen(QUEUE) == 0


def test_parts_are_a_message_each(announcer: Announcer, client: redis.Redis) -> None:
    """In order."""
    announcer.parts(PUSH, [1, 2, 3])

    assert waiting(client) == [(PART_TASK, {"push_id": str(PUSH), "number": n}) for n in (1, 2, 3)]


def test_an_emptied_broker_takes_messages_again(announcer: Announcer, client: redis.Redis) -> None:
    """FLUSHALL: what was announced is gone, what is announced next is there."""
    announcer.push(PUSH)
    client.flushall()
    empty = announcer.length()

    announcer.push(PUSH)

    assert (empty, announcer.length()) == (0, 1)


def test_whoever_watches_hears_progress_and_the_end(announcer: Announcer, client: redis.Redis) -> None:
    """Of that push alone."""
    with announcer.watch(PUSH) as next_message:
        announcer.progress(uuid4(), Progress(9, 9))
        announcer.progress(PUSH, Progress(1024, 2, 512.0, 3.5))
        announcer.ended(PUSH, State.UNVERIFIED)

        heard = [m for m in (next_message(5.0) for _ in range(2)) if m]
        silence = next_message(0.01)

    assert (heard, silence) == (
        [{"bytes": 1024, "files": 2, "speed": 512.0, "eta": 3.5}, {"state": "unverified"}],
        None,
    )


def test_watching_ends_with_its_context(announcer: Announcer, client: redis.Redis) -> None:
    """Nobody is subscribed afterwards."""
    with announcer.watch(PUSH):
        during = client.pubsub_numsub(channel(PUSH))
    deadline = time.monotonic() + 5
    while client.pubsub_numsub(channel(PUSH))[0][1] and time.monotonic() < deadline:
        time.sleep(0.01)

    assert (during[0][1], client.pubsub_numsub(channel(PUSH))[0][1]) == (1, 0)


def test_a_broker_that_answers_tells_what_it_is(announcer: Announcer) -> None:
    """Name and version."""
    name, version = announcer.ping().split()

    assert (name, int(version.split(".")[0]) >= 8) == ("valkey", True)


# -- outages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda a: a.push(PUSH), id="push"),
        pytest.param(lambda a: a.parts(PUSH, [1]), id="parts"),
        pytest.param(lambda a: a.length(), id="length"),
        pytest.param(lambda a: a.ping(), id="ping"),
        pytest.param(lambda a: a.watch(PUSH).__enter__(), id="watch"),
    ],
)
def test_a_broker_that_is_away_is_an_error_of_its_own(act: object) -> None:
    """At once, not after retries, and without the URL's password."""
    announcer = Announcer(make_celery("redis://:canary-pw@127.0.0.1:1/0"), "redis://:canary-pw@127.0.0.1:1/0")

    with pytest.raises(BrokerError) as caught:
        act(announcer)  # type: ignore[operator]

    told = "".join(traceback.format_exception(caught.value))
    assert (caught.value.code, "canary-pw" in told) == (Code.BROKER_UNREACHABLE, False)


def test_progress_never_raises() -> None:
    """Nobody's upload fails because nobody can watch it."""
    announcer = Announcer(make_celery(NOWHERE), NOWHERE)

    announcer.progress(PUSH, Progress(1))
    announcer.ended(PUSH, State.FAILED)


def test_a_restarted_broker_is_found_again() -> None:
    """By the same announcer, whose connections broke."""
    with scratch() as base, running(Valkey(base / "v", base / "v.sock", base / "v.log")) as server:
        announcer = Announcer(make_celery(server.url()), server.url())
        announcer.push(PUSH)
        server.stop()
        with pytest.raises(BrokerError):
            announcer.push(PUSH)
        server.start()
        server.ready()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                announcer.push(PUSH)
                break
            except BrokerError:
                time.sleep(0.02)

        assert announcer.length() == 1


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("redis://host:6379/2", "redis://host:6379/2"),
        ("rediss://:pw@host:6379/0", "rediss://:pw@host:6379/0"),
        ("unix:///run/v.sock", "redis+socket:///run/v.sock"),
        ("unix:///run/v.sock?db=3", "redis+socket:///run/v.sock?virtual_host=3"),
    ],
)
def test_urls_are_spelt_as_the_message_library_wants_them(ours: str, theirs: str) -> None:
    """One setting, two libraries."""
    assert celery_url(ours) == theirs


@pytest.mark.parametrize("url", ["http://host", "redis://:canary/pw@host:6379", "redis://host:port", "nonsense"])
def test_a_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    """A password with a slash in it looks like a port: nothing of it is quoted."""
    with pytest.raises(SettingsError) as caught:
        Announcer(make_celery("redis://127.0.0.1"), url)

    told = "".join(traceback.format_exception(caught.value))
    assert (caught.value.field, "canary" in told) == ("CLOUDPUSH_REDIS_URL", False)


def test_making_the_application_connects_to_nothing(tmp_path: Path) -> None:
    """Importing and building have no effect; the first message has."""
    app = make_celery(f"unix://{tmp_path}/nobody.sock")

    assert (app.conf.task_ignore_result, app.conf.task_acks_late, app.conf.worker_prefetch_multiplier) == (
        True,
        False,
        1,
    )


def test_a_message_is_tried_once(tmp_path: Path) -> None:
    """Whoever submits does not wait for a broker that is away: the sweep announces."""
    options = make_celery(f"unix://{tmp_path}/nobody.sock").conf.broker_transport_options

    assert (options["max_retries"], options["interval_start"]) == (0, 0)
