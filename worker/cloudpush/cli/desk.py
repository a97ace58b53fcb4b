"""Where a command's work is done: by CloudPush's API, or here, by the services of an own stack. Commands know neither.

With an address (CLOUDPUSH_URL, or a saved login) the API is asked, unless ``--local`` or CLOUDPUSH_LOCAL=1 says otherwise.
There, who asks is whom the token belongs to, and ``--owner`` takes the right to act for others; here, an operator is taken
at their word.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from cloudpush.push.states import FileState, State, Strength

if TYPE_CHECKING:
    from cloudpush.cli.handed import Handed
    from cloudpush.push.job import Request, Secret
    from cloudpush.push.preflights import Asked

Row = dict[str, Any]

LOCAL = "CLOUDPUSH_LOCAL"


@dataclass(frozen=True, slots=True)
class Moment:
    """A push while it is waited for. ``asked``: the row is from now, not the one before with news of what was sent."""

    row: Row
    sent: int
    speed: float | None
    asked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which pushes a list shows."""

    owner: str | None = None
    bucket: str | None = None
    prefix: str | None = None
    state: State | None = None
    strength: Strength | None = None
    kind: str | None = None
    credential: UUID | None = None
    code: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    labels: tuple[tuple[str, str], ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCredential:
    """A secret that is handed over, checked, and what is to be noted beside it."""

    secret: Secret = field(repr=False)
    name: str
    owner: str = ""
    profile: str = ""
    expires_at: datetime | None = None
    purge_after: datetime | None = None
    operator: bool = False


class Desk(Protocol):
    """What commands ask for. Answers are the documents that ``--json`` prints; every method raises CloudPushError."""

    @property
    def web_url(self) -> str:
        """Where its pages are; empty where there are none."""

    def submit(self, request: Request, urls: Handed | None, hook: str) -> Row:
        """``push`` (its id), ``created``, ``announced``, ``warnings``."""

    def preview(self, request: Request, urls: Handed | None, hook: str) -> Row:
        """``destination``, ``files``, ``bytes``, ``refusals``, ``warnings``, ``refused`` and ``first``; stores nothing."""

    def cancel(self, push_id: UUID, owner: str) -> State:
        """Ask a push to stop; its state now."""

    def retry(self, push_id: UUID, owner: str) -> Row:
        """As :meth:`submit`: of the push that tries again."""

    def resign(self, push_id: UUID, owner: str, urls: Handed) -> Row:
        """``push``, ``state``, ``accepted``, ``ignored``, ``missing``."""

    def follow(self, push_id: UUID, timeout: float | None) -> Iterator[Moment]:
        """Moments until the push is over, or until ``timeout`` seconds have passed: the last one was asked for then."""

    def push(self, push_id: UUID) -> Row:
        """One push."""

    def pushes(self, which: Which, limit: int, before: UUID | None) -> list[Row]:
        """The newest first; ``before``: only those older than this one."""

    def events(self, push_id: UUID) -> list[Row]:
        """Everything that happened to it, in order."""

    def files(self, push_id: UUID, states: Sequence[FileState], limit: int | None) -> Iterator[Row]:
        """Its files, in order."""

    def needs(self, push_id: UUID) -> Iterable[Row]:
        """Its files that are not there yet."""

    def receipt(self, push_id: UUID, path: Path, timeout: float | None) -> Path:
        """Write its receipt to ``path``, whole or not at all, once it is signed. Raises TimeoutError."""

    def keys(self) -> bytes:
        """The public keys that receipts are signed with, as JWKS."""

    def preflight(
        self, destination: str, credential: str, *, profile: str, wants: Sequence[str], owner: str, timeout: float
    ) -> Asked:
        """Have it tried out; as it is when it is over, or after ``timeout`` seconds."""

    def add_credential(self, new: NewCredential) -> Row:
        """Seal a secret; its metadata."""

    def credentials(self, *, everyone: bool, purged: bool, limit: int) -> list[Row]:
        """Metadata, newest first."""

    def credential(self, credential_id: UUID, *, operator: bool) -> Row:
        """One's metadata."""

    def purge_credential(self, credential_id: UUID, *, operator: bool) -> Row:
        """Have a secret destroyed; its metadata now."""


@contextmanager
def desk() -> Iterator[Desk]:
    """The one that this command's work is done at."""
    if os.environ.get(LOCAL, "") in ("", "0"):
        from cloudpush.client.logins import find_login  # noqa: PLC0415 -- not for who works locally

        if (login := find_login()) is not None:
            from cloudpush.cli.remote import remote_desk  # noqa: PLC0415 -- each desk costs time that the other need not pay

            with remote_desk(login.url, login.token) as made:
                yield made
            return
    from cloudpush.cli.local import local_desk  # noqa: PLC0415 -- likewise

    with local_desk() as made:
        yield made


def document_of(push_id: UUID, *, created: bool | None, announced: bool, warnings: Iterable[str]) -> Row:
    """What a submission is answered with."""
    return {"push": push_id, "created": created, "announced": announced, "warnings": tuple(warnings)}


def times(row: Mapping[str, Any]) -> Row:
    """A row of JSON with its times as such, so that both desks' rows are printed alike."""
    return {
        name: _time(value) if name == "at" or name.endswith(("_at", "_after")) else value for name, value in row.items()
    }


def _time(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


__all__ = ["LOCAL", "Desk", "Moment", "NewCredential", "Row", "Which", "desk", "document_of", "times"]
