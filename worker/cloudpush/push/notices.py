"""Tells webhooks how pushes ended: each live one of the owner's, until it has answered or a day has passed.

A trigger writes what is owed, in the verdict's own transaction. The hands of some worker take it up, try, and store how
that went; a worker that is killed meanwhile leaves it to another, so a webhook may be told twice, under the same id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID, uuid5

from cloudpush.errors import CloudPushError, Code, CredentialError, VaultError
from cloudpush.logs import get_logger, traceback_of
from cloudpush.push.ports import Clock
from cloudpush.push.states import ENDINGS, State

log = get_logger(__name__)

#: Of the message.
VERSION = 1
#: A webhook that does not answer is given up after so long.
PATIENCE = timedelta(hours=24)
#: Seconds until it is tried again: a fifth of how long it has been owed, within these.
SOONEST, LATEST = 5.0, 3600.0
#: Verdicts that one hand tells one webhook in a row, and for how long at the most, before it looks after others.
IN_A_ROW, ROW_TIME = 100, timedelta(seconds=10)
#: What no receiver can mend.
_HOPELESS = frozenset({Code.ENDPOINT_FORBIDDEN})


@dataclass(frozen=True, slots=True)
class Owed:
    """Whom the verdict of which push is owed, taken up as try number ``attempt``."""

    push_id: UUID
    hook_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class Notice:
    """What is told. ``push``: its row; ``live``: whether the webhook is still registered."""

    owed: Owed
    since: datetime
    live: bool
    push: Mapping[str, Any]

    @property
    def event(self) -> str:
        """What happened, such as ``push.succeeded``."""
        return ENDINGS[State(self.push["state"])].value

    @property
    def id(self) -> str:
        """The same for every try, and another for every push and webhook."""
        return str(uuid5(self.owed.push_id, f"{self.event}.{self.owed.hook_id}"))


class NoticeStore(Protocol):
    """Where it is written who is owed what. Every method raises StoreError."""

    def chores(self, limit: int, taken_before: float) -> Sequence[Owed]:
        """What is due, one of each webhook that nobody tells anything now; it is taken up.

        What was taken up so many seconds ago, and has not ended, is due again. A webhook that does not answer keeps one
        hand busy at a time, so that others hear what they are owed.
        """

    def following(self, owed: Owed) -> Owed | None:
        """The next that is due to the same webhook; it is taken up now."""

    def get(self, owed: Owed) -> Notice | None:
        """All about it; None where somebody else has taken it up since."""

    def end(self, owed: Owed, error: CloudPushError | None, *, told: bool = True) -> None:
        """It is over: delivered, or given up with ``error``. ``told``: as an event of the push's. Nothing if taken over."""

    def postpone(self, owed: Owed, error: CloudPushError, seconds: float) -> None:
        """It is tried again after so long. Nothing if taken over."""


class Teller(Protocol):
    """Speaks to webhooks."""

    def tell(self, hook_id: UUID, owner: str, message_id: str, message: Mapping[str, Any]) -> None:
        """POST ``message``, signed; returns when the webhook has said yes.

        Raises DestinationError, CredentialError (the webhook is gone), VaultError.
        """


class Notifying:
    """Tells what is owed. One instance a worker process; safe to use from several threads."""

    def __init__(self, *, store: NoticeStore, teller: Teller, clock: Clock, web_url: str) -> None:
        """``web_url``: where messages say that a push's page and receipt are; empty: they do not say."""
        self._store = store
        self._teller = teller
        self._clock = clock
        self._web_url = web_url.rstrip("/")

    def attend(self, owed: Owed) -> int:
        """Try this one, and then what else the same webhook is owed as long as it answers; how many.

        Raises StoreError: it is taken up again.
        """
        until = self._clock.now() + ROW_TIME
        tries, following = 1, self._try(owed)
        while (
            following
            and tries < IN_A_ROW
            and self._clock.now() < until
            and (after := self._store.following(owed)) is not None
        ):
            following = self._try(after)
            tries += 1
        return tries

    def _try(self, owed: Owed) -> bool:
        """Whether there is nothing wrong with the webhook."""
        notice = self._store.get(owed)
        if notice is None:
            return False
        if not notice.live:
            # Whoever took the webhook back knows it: there is nothing to tell.
            gone = CredentialError(Code.CREDENTIAL_PURGED, "The webhook was taken back.")
            self._store.end(owed, gone, told=False)
            return True
        try:
            self._teller.tell(owed.hook_id, notice.push["owner"], notice.id, message_of(notice, self._web_url))
        except CloudPushError as e:
            self._failed(notice, e)
        except Exception as e:  # noqa: BLE001 -- what is never ended would be tried for ever
            log.error("defect", push=str(owed.push_id), hook=str(owed.hook_id), traceback=traceback_of(e))  # noqa: TRY400 -- it would show local variables
            self._failed(notice, CloudPushError(Code.INTERNAL, f"{type(e).__name__} inside CloudPush."))
        else:
            self._store.end(owed, None)
            return True
        return False

    def _failed(self, notice: Notice, error: CloudPushError) -> None:
        owed, waited = notice.owed, self._clock.now() - notice.since
        log.warning("webhook not told", push=str(owed.push_id), hook=str(owed.hook_id), code=error.code)
        # A webhook that says no may be in the middle of its own upgrade. Vault's being away is no fault of its.
        passes = isinstance(error, VaultError) or waited < PATIENCE
        if isinstance(error, CredentialError) or error.code in _HOPELESS or not passes:
            self._store.end(owed, error)
            return
        pause = min(max(waited.total_seconds() / 5, SOONEST), LATEST) * (0.5 + 0.5 * self._clock.jitter())
        self._store.postpone(owed, error, pause)


def message_of(notice: Notice, web_url: str) -> dict[str, Any]:
    """What the webhook is told, as JSON has it: nothing that is secret."""
    push = notice.push
    ended: datetime = push["finished_at"]
    return {
        "version": VERSION,
        "event": notice.event,
        "push": str(push["id"]),
        "owner": push["owner"],
        "source": push["source"],
        "destination": push["uri"],
        "state": push["state"],
        "code": push["error_code"],
        "message": push["error_message"],
        "strength": push["strength"],
        "files": {
            "total": push["files_total"],
            "verified": push["files_verified"],
            "skipped": push["files_skipped"],
            "unverified": push["files_unverified"],
            "failed": push["files_failed"],
        },
        "bytes": {"total": push["bytes_total"], "verified": push["bytes_verified"]},
        "finished_at": ended.isoformat().replace("+00:00", "Z"),
        "labels": dict(push["labels"]),
        "page": f"{web_url}/pushes/{push['id']}" if web_url else "",
        "receipt": f"{web_url}/v1/pushes/{push['id']}/receipt" if web_url else "",
    }
