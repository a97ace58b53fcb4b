"""The worker's doors: ids in, a few lines, the verdict is in Postgres."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from kombu.entity import Exchange, Queue

from cloudpush.broker import PART_TASK, PUSH_TASK, SUBMIT_QUEUE, SUBMIT_TASK
from cloudpush.errors import CloudPushError, Code, StoreError, VaultError
from cloudpush.logs import get_logger
from cloudpush.push.access.submission import MOST_SECONDS, Submissions
from cloudpush.push.lifecycle import CloudPush

log = get_logger(__name__)

#: Seconds until a submission is tried again while Postgres or Vault is away; so often that its token expires meanwhile.
AGAIN_SECONDS = 5


def register(app: Celery, cloudpush: CloudPush) -> None:
    """Give ``app`` the two tasks of a worker."""

    @app.task(name=PUSH_TASK)  # type: ignore[untyped-decorator]
    def push(*, push_id: str) -> None:
        with structlog.contextvars.bound_contextvars(push=push_id):
            try:
                log.info("push executed", state=cloudpush.run(UUID(push_id)))
            except CloudPushError as e:
                # No verdict could be written: the lease runs out and the sweep announces again.
                log.warning("push interrupted", code=e.code, error=e.message)

    @app.task(name=PART_TASK)  # type: ignore[untyped-decorator]
    def part(*, push_id: str, number: int) -> None:
        with structlog.contextvars.bound_contextvars(push=push_id, part=number):
            try:
                log.info("part executed", push_state=cloudpush.run_part(UUID(push_id), number))
            except CloudPushError as e:
                log.warning("part interrupted", code=e.code, error=e.message)


def register_submit(app: Celery, submissions: Submissions | None) -> None:
    """Give ``app`` the task that pipelines send; None: the operator takes no pushes from the broker.

    Registered in any case, so that a message that is not wanted is refused in a line of ours: Celery would log all of it.
    """
    if submissions is not None:
        queue = Queue(SUBMIT_QUEUE, Exchange(SUBMIT_QUEUE), SUBMIT_QUEUE)  # type: ignore[no-untyped-call]
        app.amqp.queues.select_add(queue)

    @app.task(name=SUBMIT_TASK, bind=True, shared=False, typing=False, max_retries=MOST_SECONDS // AGAIN_SECONDS)  # type: ignore[untyped-decorator]
    def submit(
        task: Any, *_args: Any, request: Any = None, token: Any = None, idempotency_key: Any = None, **_more: Any
    ) -> None:
        if submissions is None:
            log.warning("submission refused", code=Code.SUBMISSION_REFUSED, error="CLOUDPUSH_CELERY_SUBMIT is off")
            return
        try:
            accepted = submissions.execute(request, token, idempotency_key)
        except (StoreError, VaultError) as e:
            if task.request.retries >= task.max_retries:
                log.warning("submission given up", code=e.code, error=e.message)
                return
            log.warning("submission waits", code=e.code, error=e.message)
            message = {"request": request, "token": token, "idempotency_key": idempotency_key}
            raise task.retry((), message, countdown=AGAIN_SECONDS, queue=SUBMIT_QUEUE) from None
        except CloudPushError as e:
            log.warning("submission refused", code=e.code, error=e.message)
        else:
            log.info("submission accepted", push=str(accepted.push_id), created=accepted.created)
