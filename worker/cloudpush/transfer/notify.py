"""Tells its owner's webhooks that a grant must be reconnected.

A POST of JSON, signed as ``transfer.webhook`` says; any 2xx is a yes::

    {"version": 1, "event": "grant.reconnect_needed", "owner": "…", "grant": "…", "name": "…", "provider": "…",
     "code": "CONSENT_NEEDED", "pushes": ["…"], "page": "https://cloudpush.example/connections"}

``CloudPush-Id`` follows from the grant and its generation: whoever was told twice can see it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from uuid import UUID, uuid5

from cloudpush.errors import CloudPushError, Code, CredentialError, DestinationError
from cloudpush.logs import get_logger
from cloudpush.net import Pool
from cloudpush.push.grants.model import NOTIFY_HOOK, Grant
from cloudpush.push.ports import Vault
from cloudpush.push.states import Event
from cloudpush.transfer.webhook import PAUSE_SECONDS, TRY_SECONDS, Webhook, Words

log = get_logger(__name__)

#: Of the message.
VERSION = 1
#: Pushes that a message names; the page has all of them.
NAMED = 100
#: Bytes of an answer that are read: nothing in them matters.
ANSWER_BYTES = 64 * 1024

WORDS = Words("The webhook", NOTIFY_HOOK, "any status from 200 to 204", frozenset(range(200, 205)))


class HttpNotifier:
    """``push.grants.ports.Notifier`` over HTTPS. Thread-safe.

    ``hooks``: owner → ids of the owner's live credentials of kind ``notify_hook``; ``page``: where users reconnect.
    """

    def __init__(
        self,
        pool: Pool,
        allowed: Collection[str],
        vault: Vault,
        hooks: Callable[[str], Sequence[UUID]],
        *,
        page: str = "",
        seconds: float = TRY_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        """``allowed``: the operator's listed hosts, see ``push.guard``."""
        self._pool = pool
        self._vault = vault
        self._hooks = hooks
        self._page = page
        self._webhook = Webhook(pool, allowed, WORDS, seconds=seconds, pause=pause)

    def reconnect_needed(self, grant: Grant, waiting: Sequence[UUID]) -> bool:
        """See the port. Each webhook is told, whatever becomes of the others; then the first failure is raised."""
        hooks = self._hooks(grant.owner)
        failures: list[CloudPushError] = []
        for hook in hooks:
            try:
                self._tell(hook, grant, waiting)
            except (DestinationError, CredentialError) as e:
                log.warning("webhook not told", grant=str(grant.id), hook=str(hook), code=e.code, error=e.message)
                failures.append(e)
        if failures:
            # What may pass first: it is tried again, and who was told already sees the same id.
            raise next((e for e in failures if e.code.retryable), failures[0])
        return bool(hooks)

    def _tell(self, hook: UUID, grant: Grant, waiting: Sequence[UUID]) -> None:
        fields = self._vault.unseal(hook, grant.owner, NOTIFY_HOOK).reveal()
        id_ = str(uuid5(grant.id, f"{Event.GRANT_RECONNECT_NEEDED}.{grant.generation}"))
        message = self._webhook.message(fields, id_, _body(grant, waiting, self._page))
        self._pool.run(self._webhook.answer(message, ANSWER_BYTES))


def _body(grant: Grant, waiting: Sequence[UUID], page: str) -> bytes:
    told = {
        "version": VERSION,
        "event": Event.GRANT_RECONNECT_NEEDED.value,
        "owner": grant.owner,
        "grant": str(grant.id),
        "name": grant.name,
        "provider": grant.provider,
        "code": grant.trouble_code or Code.CONSENT_NEEDED.value,
        "pushes": [str(push) for push in waiting[:NAMED]],
        "page": page,
    }
    return json.dumps(told, separators=(",", ":")).encode()
