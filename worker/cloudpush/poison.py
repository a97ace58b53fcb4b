"""Messages that no one of ours sent: refused in one line, and gone.

Whoever may write to the broker may write anything into its queues, and pipelines may (``cloudpush.submit``). Left to themselves
Kombu and Celery end the worker over a message that is not JSON, or whose fields are of another sort than they expect; on its
way out the worker puts it back, and the next one ends over it as well. So whatever fails before a message is a task of ours is
dropped here. Nothing of it is logged: it may hold a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from celery import Celery
from celery.worker import consumer
from kombu.connection import Connection as KombuConnection
from kombu.transport.redis import Channel as RedisChannel
from kombu.transport.redis import Transport as RedisTransport

from cloudpush.logs import get_logger

log = get_logger(__name__)

#: The broker is away: not the message's fault, and Celery's to mend.
_AWAY = (redis.ConnectionError, redis.TimeoutError, OSError)


def refuse_poison(app: Celery) -> None:
    """Let ``app``'s worker outlive every message. Call it before anything connects."""
    app.amqp.Connection = _Connection
    app.conf.worker_consumer = Consumer


class Channel(RedisChannel):
    """Reads queues."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError) as e:  # no JSON: it was taken from the queue by then
            _told(e)
            return True


class Transport(RedisTransport):
    """Hands on what was read."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]
        except _AWAY:
            raise
        except Exception as e:  # noqa: BLE001 -- whatever Kombu stumbles over
            _told(e)


class _Connection(KombuConnection):
    def get_transport_cls(self) -> type:
        found: type = super().get_transport_cls()  # type: ignore[no-untyped-call]
        return Transport if found is RedisTransport else found


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Makes tasks of messages."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """As Celery's, and it returns whatever the message holds."""
        inner = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            try:
                inner(message)
            except _AWAY:
                raise
            except Exception as e:  # noqa: BLE001 -- whatever Celery stumbles over
                self._refuse(message, e)

        return on_task_received

    def on_unknown_message(self, _body: Any, message: Any) -> None:
        """It has no task."""
        self._refuse(message, None)

    def on_unknown_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Its task is none of ours."""
        self._refuse(message, exc)

    def on_invalid_task(self, _body: Any, message: Any, exc: Exception) -> None:
        """Its arguments are none of a task."""
        self._refuse(message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Its body cannot be read."""
        self._refuse(message, exc)

    def _refuse(self, message: Any, error: Exception | None) -> None:
        _told(error)
        if not message.acknowledged:
            message.reject_log_error(_Silent(), self.connection_errors)


class _Silent:
    """Where Kombu would log the message."""

    def critical(self, *_: Any, **__: Any) -> None:
        """A rejection that fails is made good when the broker is there again."""


def _told(error: BaseException | None) -> None:
    log.warning("message refused", code="BAD_INPUT", error=type(error).__name__ if error is not None else "no task")
