"""An Airflow operator that pushes a directory and ends when the push has its verdict. Copy it into your plugins/ folder.

Works with Airflow 3.3. Workers and triggerer need `pip install cloudpush`, and CLOUDPUSH_URL and CLOUDPUSH_TOKEN (scopes
submit and read) in their environment; the token is in no DAG, no XCom and no rendered field.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

from cloudpush.client import Client, Handle
from cloudpush.errors import CloudPushError

#: Finds the push of a task that died after it had submitted it.
LABEL = "airflow"


class CloudPushOperator(BaseOperator):
    """Push ``source`` into ``destination`` with ``credential``; the task fails unless every file is there and proved.

    ``deferrable``: wait in the triggerer and hold no worker slot. Its XCom is the push's id and what was counted. A retry
    of the task takes up a push of it that still runs, and otherwise pushes again: files that are there already are
    compared, not sent.
    """

    template_fields: Sequence[str] = ("source", "destination", "credential", "labels")
    ui_color = "#d5ebf5"

    def __init__(
        self,
        *,
        source: str,
        destination: str,
        credential: str,
        labels: Mapping[str, str] | None = None,
        min_strength: str = "",
        deferrable: bool = True,
        poll_seconds: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.destination = destination
        self.credential = credential
        self.labels = dict(labels or {})
        self.min_strength = min_strength
        self.deferrable = deferrable
        self.poll_seconds = poll_seconds
        self._push_id = ""

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """Submit, and wait for the verdict: here, or in the triggerer."""
        with Client() as client:
            handle = self._running(client, context) or self._submit(client, context)
            self._push_id = str(handle.id)
            self.log.info("push %s", handle.id)
            for warning in handle.warnings:
                self.log.warning(warning)
            if not self.deferrable:
                return verdict(handle)
        self.defer(trigger=PushTrigger(self._push_id, self.poll_seconds), method_name="finish")

    def finish(self, context: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """The push is over: ask how it ended. Raises CloudPushError where that is no success."""
        with Client() as client:
            return verdict(client.get(event["push"]))

    def on_kill(self) -> None:
        """Whoever stops the task stops the push."""
        if self._push_id:
            with Client() as client:
                client.handle(self._push_id).cancel()

    def _submit(self, client: Client, context: Mapping[str, Any]) -> Handle:
        return client.push(
            self.source,
            self.destination,
            self.credential,
            labels={**self.labels, LABEL: _name(context)},
            min_strength=self.min_strength,
        )

    def _running(self, client: Client, context: Mapping[str, Any]) -> Handle | None:
        """The push that an earlier try of this task left behind, while it goes on."""
        found = client.list(label=f"{LABEL}={_name(context)}", limit=10)
        return next((client.handle(push.id) for push in found if not push.final), None)


class PushTrigger(BaseTrigger):
    """Fires once a push has its verdict, whatever it is."""

    def __init__(self, push_id: str, poll_seconds: float = 10.0) -> None:
        super().__init__()
        self.push_id = push_id
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What the database keeps of it: no secret."""
        return f"{__name__}.PushTrigger", {"push_id": self.push_id, "poll_seconds": self.poll_seconds}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Ask now and then; a server that is away is asked again."""
        with Client() as client:
            handle = client.handle(self.push_id)
            while True:
                try:
                    push = await asyncio.to_thread(handle.show)
                except CloudPushError as e:
                    if not e.code.retryable:
                        raise
                else:
                    if push.final:
                        yield TriggerEvent({"push": self.push_id, "state": push.state})
                        return
                await asyncio.sleep(self.poll_seconds)


def verdict(handle: Handle) -> dict[str, Any]:
    """What downstream tasks get. Raises PushFailed, which names the code and the reason, unless the push succeeded."""
    push = handle.wait().check()
    return {"push": str(push.id), "uri": push.uri, "files": push.files_total, "bytes": push.bytes_total}


def _name(context: Mapping[str, Any]) -> str:
    """This task of this run, whichever try it is."""
    ti = context["ti"]
    return f"{ti.dag_id}/{ti.run_id}/{ti.task_id}/{ti.map_index}"[:256]
