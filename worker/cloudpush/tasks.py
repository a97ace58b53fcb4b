"""The worker's doors: ids in, a few lines, the verdict is in Postgres."""

from __future__ import annotations

from uuid import UUID

import structlog
from celery import Celery

from cloudpush.broker import PART_TASK, PUSH_TASK
from cloudpush.errors import CloudPushError
from cloudpush.logs import get_logger
from cloudpush.push.lifecycle import CloudPush

log = get_logger(__name__)


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
