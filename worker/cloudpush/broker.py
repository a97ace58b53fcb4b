"""Redis or Valkey: Celery's messages and the live progress. A hint, never the truth.

Messages carry ids only. They are acknowledged when they are received, not when the work is done:
Postgres holds the lease, so a message that is delivered twice finds nothing to claim, and one that is
lost is sent again by the sweep. Redelivery after ``visibility_timeout`` therefore cannot run a long push twice.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import redis
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import OperationalError
from redis.backoff import NoBackoff
from redis.retry import Retry

from cloudpush.errors import BrokerError, Code, SettingsError
from cloudpush.logs import get_logger
from cloudpush.push.job import Progress
from cloudpush.push.states import State

log = get_logger(__name__)

QUEUE = "cloudpush"
PUSH_TASK = "cloudpush.push"
PART_TASK = "cloudpush.part"
#: What pipelines send, and the queue that they send it to.
SUBMIT_TASK = "cloudpush.submit"
SUBMIT_QUEUE = "cloudpush-submit"

CONNECT_SECONDS = 3.0


def celery_url(redis_url: str) -> str:
    """In kombu's spelling: it writes a Unix socket as ``redis+socket:///path?virtual_host=db`` where redis-py says ``unix:///path?db=0``."""
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    return f"redis+socket://{parts.path}" + (f"?{parts.query.replace('db=', 'virtual_host=')}" if parts.query else "")


def make_celery(redis_url: str) -> Celery:
    """The Celery application; connects at first use."""
    app = Celery("cloudpush", broker=celery_url(redis_url), set_as_current=False)
    app.conf.update(
        # Nobody reads results: the verdict is in Postgres.
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # Acknowledged on receipt: see the module's first lines.
        task_acks_late=False,
        # One message at a time: a part that takes an hour must not sit on its neighbours.
        worker_prefetch_multiplier=1,
        # Ids are all that travels.
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=QUEUE,
        task_create_missing_queues=False,
        task_queues=None,
        # A submission must not hang on a broker that is away: the sweep announces.
        task_publish_retry=False,
        broker_transport_options={
            # Nor on the pauses between attempts to connect: one attempt has to do.
            "max_retries": 0,
            "interval_start": 0,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        # A restarted broker is found again, however long it takes.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # Chatter that nobody listens to.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        # Our logs are set up at the door.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    return app


def channel(push_id: UUID) -> str:
    """The pub/sub channel on which a push's progress and end are heard."""
    return f"cloudpush:push:{push_id}"


class Announcer:
    """``push.ports.Announcer`` on Celery and Redis pub/sub."""

    def __init__(self, app: Celery, redis_url: str) -> None:
        self._app = app
        self._messages = _Messages(app)
        try:
            self._redis = redis.Redis.from_url(
                redis_url,
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=CONNECT_SECONDS,
                # A connection that a restarted broker closed is found at its next use. More than that is the sweep's.
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError:
            # Without its cause, which may quote a piece of the password.
            key = "CLOUDPUSH_REDIS_URL"
            raise SettingsError(
                Code.SETTINGS_INVALID,
                f"{key} is not a Redis URL: write redis://HOST:PORT/0, rediss://… or unix:///SOCKET?db=0",
                field=key,
            ) from None

    def push(self, push_id: UUID) -> None:
        self.push_many([push_id])

    def push_many(self, push_ids: Sequence[UUID]) -> None:
        with _translated():
            # In one command. Celery's own way costs two thirds of a millisecond for each.
            self._redis.lpush(QUEUE, *(self._messages.text(PUSH_TASK, push_id) for push_id in push_ids))

    def parts(self, push_id: UUID, numbers: Sequence[int]) -> None:
        with _translated(), self._app.producer_pool.acquire(block=True) as producer:
            for number in numbers:
                kwargs = {"push_id": str(push_id), "number": number}
                self._app.send_task(PART_TASK, kwargs=kwargs, queue=QUEUE, producer=producer)

    def progress(self, push_id: UUID, progress: Progress) -> None:
        self._publish(
            push_id,
            {"bytes": progress.bytes, "files": progress.files, "speed": progress.speed, "eta": progress.eta},
        )

    def ended(self, push_id: UUID, state: State) -> None:
        self._publish(push_id, {"state": state.value})

    def length(self) -> int:
        """Messages that wait for a worker. Raises BrokerError."""
        with _translated():
            return int(self._redis.llen(QUEUE))

    def ping(self) -> str:
        """The server's version. Raises BrokerError."""
        with _translated():
            info: Any = self._redis.info("server")
            return f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info['redis_version']}"

    @contextmanager
    def watch(self, push_id: UUID) -> Iterator[Callable[[float], dict[str, Any] | None]]:
        """Listen to a push. Yields a function: seconds to wait → the next message, or None.

        Raises BrokerError when the broker cannot be reached; later outages only bring None, because Postgres
        has to be asked in any case.
        """
        with _translated():
            pubsub = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            pubsub.subscribe(channel(push_id))
            pubsub.get_message(timeout=CONNECT_SECONDS)  # the server's confirmation: from here on nothing is missed

        def next_message(seconds: float) -> dict[str, Any] | None:
            until = time.monotonic() + seconds
            try:
                while (left := until - time.monotonic()) > 0:
                    message = pubsub.get_message(timeout=left)
                    if message:
                        return dict(json.loads(message["data"]))
            except (redis.RedisError, OSError):
                # Whoever waits asks again at once: without a pause that would be a busy loop.
                time.sleep(max(0.0, until - time.monotonic()))
            return None

        try:
            yield next_message
        finally:
            pubsub.close()

    def _publish(self, push_id: UUID, message: dict[str, Any]) -> None:
        try:
            self._redis.publish(channel(push_id), json.dumps(message))
        except (redis.RedisError, OSError) as e:
            log.debug("nobody hears of progress", push=str(push_id), error=type(e).__name__)


#: GCRA: a bucket is one number, the moment at which it is full again, in microseconds of the server's own clock.
_TAKE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local after = full_at + tonumber(ARGV[1])
local wait = after - now - tonumber(ARGV[2])
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000) + 1)
return 0
"""


class Buckets:
    """Who asked how often, counted for all processes together. Keys forget themselves once their bucket is full."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_connect_timeout=1.0, socket_timeout=1.0)
        self._take = self._redis.register_script(_TAKE)

    def take(self, key: str, rate: float, burst: int, cost: int) -> float:
        """0 where ``cost`` was taken from a bucket that holds ``burst`` and is filled by ``rate`` a second; else the
        seconds until it can be. One step of the server's: two processes never take the same. Raises BrokerError.
        """  # noqa: D205 -- the line's end is in mid-sentence
        each = 1_000_000 / rate
        with _translated():
            waits: Any = self._take(keys=[f"cloudpush:rate:{key}"], args=[round(each * cost), round(each * burst)])
        return int(waits) / 1_000_000


class _Messages:
    """Celery's messages as Redis holds them: made once by Celery itself, then with other ids in it."""

    _PUSH, _TASK, _TAG = (f"00000000-0000-4000-8000-00000000000{n}" for n in "123")

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._made: dict[str, tuple[str, str]] = {}

    def text(self, task: str, push_id: UUID) -> str:
        """What is pushed onto the queue for one push."""
        if task not in self._made:
            self._made[task] = self._make(task)
        message, body = self._made[task]
        filled = base64.b64encode(body.replace(self._PUSH, str(push_id)).encode()).decode()
        message = message.replace(self._PUSH, str(push_id)).replace(self._TASK, str(uuid4()))
        return message.replace(self._TAG, str(uuid4())).replace('"body": ""', f'"body": "{filled}"')

    def _make(self, task: str) -> tuple[str, str]:
        with Connection("memory://") as connection:  # type: ignore[no-untyped-call]
            self._app.send_task(
                task, kwargs={"push_id": self._PUSH}, queue=QUEUE, task_id=self._TASK, connection=connection
            )
            message = connection.default_channel._get(QUEUE)  # noqa: SLF001 -- what a transport was handed is told nowhere else
        body = base64.b64decode(message["body"]).decode()
        message["body"] = ""
        message["properties"]["delivery_tag"] = self._TAG
        return json.dumps(message), body


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (redis.RedisError, OperationalError, OSError) as e:
        raise BrokerError(Code.BROKER_UNREACHABLE, f"The broker does not answer: {_first_line(e)}") from e


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
