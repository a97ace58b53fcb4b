"""Work that is done here, by the services of an own stack; whoever runs the command is taken at their word."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import UUID

from cloudpush.audit.history import Filter
from cloudpush.audit.needs import needs_of
from cloudpush.cli.context import os_user, services
from cloudpush.cli.desk import Moment, NewCredential, Row, Which, document_of
from cloudpush.cli.handed import Handed
from cloudpush.cli.wait import follow
from cloudpush.errors import Code, InputError, SourceError
from cloudpush.push.credential import Caller, Credential
from cloudpush.push.intake import Accepted
from cloudpush.push.job import Request
from cloudpush.push.preflights import Asked
from cloudpush.push.states import FileState, State
from cloudpush.wiring import Services

#: Seconds between two looks for a receipt that is about to be signed.
LOOK_SECONDS = 0.5

#: Between two looks whether a receipt was signed.
RECEIPT_SECONDS = 0.5


@contextmanager
def local_desk() -> Iterator[Local]:
    """The desk of an own stack."""
    with services() as built:
        yield Local(built)


class Local:
    """``cli.desk.Desk`` over services."""

    def __init__(self, built: Services) -> None:
        self._built = built

    @property
    def web_url(self) -> str:
        """Where the stack's pages are."""
        return str(self._built.settings.web_url)

    def submit(self, request: Request, urls: Handed | None, hook: str) -> Row:
        """Store and announce."""
        built, request = self._built, _mine(request)
        return _document(built.intake.submit(request) if urls is None else urls.submit(built.signed, request, hook))

    def preview(self, request: Request, urls: Handed | None, hook: str) -> Row:
        """Walk the source."""
        built, request = self._built, _mine(request)
        found = built.intake.preview(request) if urls is None else urls.preview(built.signed, request, hook)
        return {
            "destination": found.destination,
            "files": found.files,
            "bytes": found.bytes,
            "refusals": found.refusals,
            "warnings": found.warnings,
            "refused": [{"path": r.path, "code": r.error.code, "message": r.error.message} for r in found.refused],
            "first": [{"path": f.path, "key": f.key, "size": f.size} for f in found.first],
        }

    def cancel(self, push_id: UUID, owner: str) -> State:
        """Ask it to stop."""
        return self._built.intake.cancel(push_id, owner or os_user(), os_user())

    def retry(self, push_id: UUID, owner: str) -> Row:
        """Submit it anew."""
        again = self._built.intake.retry(push_id, owner or os_user(), os_user())
        if isinstance(again, State):  # it waited for its next attempt, which is due now
            return document_of(push_id, created=False, announced=True, warnings=())
        return _document(again)

    def resign(self, push_id: UUID, owner: str, urls: Handed) -> Row:
        """Seal the fresh URLs."""
        resigned = urls.resign(self._built.signed, push_id, owner or os_user(), os_user())
        return {
            "push": push_id,
            "state": resigned.state,
            "accepted": resigned.accepted,
            "ignored": resigned.ignored,
            "missing": resigned.missing,
        }

    def follow(self, push_id: UUID, timeout: float | None) -> Iterator[Moment]:
        """The broker's words, and Postgres's."""
        return follow(self._built, push_id, timeout)

    def push(self, push_id: UUID) -> Row:
        """Its row."""
        return self._built.history.push(push_id)

    def pushes(self, which: Which, limit: int, before: UUID | None) -> list[Row]:
        """Rows."""
        found = Filter(
            owner=which.owner,
            bucket=which.bucket,
            prefix=which.prefix,
            state=which.state,
            strength=which.strength,
            credential_kind=which.kind,
            credential_id=which.credential,
            error_code=which.code,
            since=which.since,
            until=which.until,
            labels=which.labels,
            text=which.text,
        )
        return self._built.history.pushes(found, limit=limit, before=before)

    def events(self, push_id: UUID) -> list[Row]:
        """Rows."""
        return self._built.history.events(push_id)

    def files(self, push_id: UUID, states: Sequence[FileState], limit: int | None) -> Iterator[Row]:
        """Rows, streamed."""
        return iter(self._built.history.files(push_id, states=states, limit=limit))

    def needs(self, push_id: UUID) -> Iterable[Row]:
        """Rows, streamed."""
        return needs_of(self._built.database, push_id)

    def receipt(self, push_id: UUID, path: Path, timeout: float | None) -> Path:
        """From the record, streamed."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return _save(path, iter(self._built.receipts.stream(push_id)))
            except InputError as e:
                if e.code is not Code.RECEIPT_PENDING:
                    raise
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"push {push_id} has no receipt after {timeout} s") from e
            time.sleep(RECEIPT_SECONDS)

    def keys(self) -> bytes:
        """From Vault."""
        from cloudpush.credentials.ed25519 import jwk_of  # noqa: PLC0415 -- for one command
        from cloudpush.wiring import audit_keys  # noqa: PLC0415 -- likewise

        return json.dumps({"keys": [jwk_of(key.raw) for key in audit_keys(self._built.settings)]}).encode()

    def preflight(
        self, destination: str, credential: str, *, profile: str, wants: Sequence[str], owner: str, timeout: float
    ) -> Asked:
        """A worker tries it out."""
        whose, preflights = owner or os_user(), self._built.preflights
        asked = preflights.ask(whose, os_user(), destination, credential, profile=profile, wants=wants)
        return preflights.wait(asked.id, whose, timeout)

    def add_credential(self, new: NewCredential) -> Row:
        """Seal it."""
        return as_dict(
            self._built.custody.add(
                Caller(os_user(), new.operator),
                new.secret,
                name=new.name,
                owner=new.owner,
                profile=new.profile,
                expires_at=new.expires_at,
                purge_after=new.purge_after,
            )
        )

    def credentials(self, *, everyone: bool, purged: bool, limit: int) -> list[Row]:
        """Metadata."""
        found = self._built.custody.list(Caller(os_user(), everyone), everyone=everyone, purged=purged, limit=limit)
        return [as_dict(c) for c in found]

    def credential(self, credential_id: UUID, *, operator: bool) -> Row:
        """Metadata."""
        return as_dict(self._built.custody.show(Caller(os_user(), operator), credential_id))

    def purge_credential(self, credential_id: UUID, *, operator: bool) -> Row:
        """Destroy it now."""
        return as_dict(self._built.custody.purge(Caller(os_user(), operator), credential_id))


def _save(path: Path, chunks: Iterator[bytes]) -> Path:
    """The whole file or none of it."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as target:
            target.writelines(chunks)
        return beside.replace(path)
    except OSError as e:
        raise SourceError(
            Code.SOURCE_UNREADABLE, f"{str(path)!r} cannot be written: {e.strerror}.", field="path"
        ) from e
    finally:
        beside.unlink(missing_ok=True)


def as_dict(credential: Credential) -> dict[str, Any]:
    """The metadata as one flat object."""
    fields = asdict(credential)
    use = fields.pop("use")
    return {
        **fields,
        "state": str(credential.state),
        "uses": use["count"],
        "last_used_at": use["last_at"],
        "last_used_push": use["last_push"],
        "last_used_worker": use["last_worker"] or None,
    }


def _mine(request: Request) -> Request:
    """``request`` of whoever runs the command, on whose behalf it is unless it says another's."""
    return replace(request, owner=request.owner or os_user(), actor=os_user())


def _document(accepted: Accepted) -> Row:
    return document_of(
        accepted.push_id, created=accepted.created, announced=accepted.announced, warnings=accepted.warnings
    )
