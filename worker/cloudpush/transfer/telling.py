"""Tells webhooks how pushes ended: ``push.notices.Teller`` over HTTPS, signed as ``transfer.webhook`` says."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from cloudpush.net import Pool
from cloudpush.push.grants.model import NOTIFY_HOOK
from cloudpush.push.ports import Vault
from cloudpush.transfer.notify import ANSWER_BYTES, WORDS
from cloudpush.transfer.webhook import PAUSE_SECONDS, TRY_SECONDS, Webhook


class HttpTeller:
    """See the port. Thread-safe."""

    def __init__(
        self,
        pool: Pool,
        allowed: Collection[str],
        vault: Vault,
        *,
        seconds: float = TRY_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        """``allowed``: the operator's listed hosts, see ``push.guard``."""
        self._pool = pool
        self._vault = vault
        self._webhook = Webhook(pool, allowed, WORDS, seconds=seconds, pause=pause)

    def tell(self, hook_id: UUID, owner: str, message_id: str, message: Mapping[str, Any]) -> None:
        """See the port: three tries in a row, then its failure."""
        fields = self._vault.unseal(hook_id, owner, NOTIFY_HOOK).reveal()
        body = json.dumps(message, separators=(",", ":")).encode()
        self._pool.run(self._webhook.answer(self._webhook.message(fields, message_id, body), ANSWER_BYTES))
