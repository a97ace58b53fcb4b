"""Work that CloudPush's API does. Who asks, and on whose behalf, is the token's to say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cloudpush.cli.desk import Moment, NewCredential, Row, Which, document_of, times
from cloudpush.cli.handed import Handed
from cloudpush.client import Client, Handle, Push, Submission
from cloudpush.errors import Code, InputError
from cloudpush.push.job import Request
from cloudpush.push.states import FileState, State

if TYPE_CHECKING:
    from cloudpush.push.preflights import Asked

#: Seconds for which a command asks again: a person is waiting.
PATIENCE_SECONDS = 15.0


@contextmanager
def remote_desk(url: str, token: str) -> Iterator[Remote]:
    """The API's desk."""
    with Client(url, token, patience=PATIENCE_SECONDS) as client:
        yield Remote(client)


class Remote:
    """``cli.desk.Desk`` over the Python client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def web_url(self) -> str:
        """The pages are where the API is."""
        return self._client.url

    def submit(self, request: Request, urls: Handed | None, hook: str) -> Row:
        """Send it; repeated under one key where the connection breaks."""
        return _document(self._client.submit(_submission(request, urls, hook)))

    def preview(self, request: Request, urls: Handed | None, hook: str) -> Row:
        """Have the source walked there."""
        return self._client.preview(_submission(request, urls, hook))

    def cancel(self, push_id: UUID, owner: str) -> State:
        """Ask it to stop."""
        return State(self._of(push_id, owner).cancel())

    def retry(self, push_id: UUID, owner: str) -> Row:
        """Have it tried again."""
        return _document(self._of(push_id, owner).retry())

    def resign(self, push_id: UUID, owner: str, urls: Handed) -> Row:
        """Send the fresh URLs."""
        found = self._of(push_id, owner).resign(urls.rows())
        return {
            "push": push_id,
            "state": found.state,
            "accepted": found.accepted,
            "ignored": found.ignored,
            "missing": found.missing,
        }

    def follow(self, push_id: UUID, timeout: float | None) -> Iterator[Moment]:
        """Server-sent events, and questions where there are none."""
        row: Row = {}
        for moment in self._handle(push_id).follow(timeout):
            if isinstance(moment, Push):
                row = _push(moment.raw)
                yield Moment(row, moment.bytes_verified + moment.sent_bytes, moment.speed)
            else:
                yield Moment(row, moment.bytes, moment.speed, asked=False)

    def push(self, push_id: UUID) -> Row:
        """Its document."""
        return _push(self._handle(push_id).show().raw)

    def pushes(self, which: Which, limit: int, before: UUID | None) -> list[Row]:
        """Documents, page by page."""
        filters: dict[str, Any] = {
            "owner": which.owner,
            "bucket": which.bucket,
            "prefix": which.prefix,
            "state": which.state,
            "strength": which.strength.word if which.strength else None,
            "kind": which.kind,
            "credential": str(which.credential) if which.credential else None,
            "code": which.code,
            "since": which.since,
            "until": which.until,
            "label": ["=".join(pair) for pair in which.labels],
            "q": which.text,
        }
        if before is None:
            return [times(p.raw) for p in self._client.list(limit=limit, **filters)]
        # The API's pages go by cursors, which nobody types: the one push is looked for from its own time on.
        last = self._handle(before).show()
        if last.created_at is not None:
            then = last.created_at + timedelta(microseconds=1)
            filters["until"] = min(which.until, then) if which.until else then
        at = (last.created_at or datetime.max.replace(tzinfo=UTC), last.id)
        older = (p for p in self._client.list(**filters) if p.created_at is not None and (p.created_at, p.id) < at)
        return [times(p.raw) for p in islice(older, limit)]

    def events(self, push_id: UUID) -> list[Row]:
        """Documents, in order."""
        return sorted((times(e.raw) for e in self._handle(push_id).events()), key=lambda e: e["seq"])

    def files(self, push_id: UUID, states: Sequence[FileState], limit: int | None) -> Iterator[Row]:
        """Documents, page by page."""
        handle = self._handle(push_id)
        if not states:
            yield from (times(f.raw) for f in islice(handle.files(limit=min(limit or 1000, 1000)), limit))
            return
        found = [f for state in states for f in islice(handle.files(state=state.value), limit)]
        yield from (times(f.raw) for f in sorted(found, key=lambda f: f.seq)[:limit])

    def needs(self, push_id: UUID) -> Iterable[Row]:
        """Documents, page by page."""
        return self._handle(push_id).needs()

    def receipt(self, push_id: UUID, path: Path, timeout: float | None) -> Path:
        """Fetch it."""
        return self._handle(push_id).receipt(path, timeout=timeout)

    def keys(self) -> bytes:
        """As the API publishes them."""
        return json.dumps(self._client.keys()).encode()

    def preflight(
        self, destination: str, credential: str, *, profile: str, wants: Sequence[str], owner: str, timeout: float
    ) -> Asked:
        """Have it tried out there."""
        from cloudpush.push.preflights import Asked  # noqa: PLC0415 -- for one command

        made = self._client.preflight(
            destination,
            credential,
            profile=profile,
            delete="delete" in wants,
            abort="abort" in wants,
            owner=owner,
            wait=timeout,
        )
        row = times(made.raw)
        values: dict[str, Any] = {f.name: row.get(f.name) for f in fields(Asked)} | {"uri": made.destination}
        return Asked(**values)

    def add_credential(self, new: NewCredential) -> Row:
        """Have it sealed there."""
        made = self._client.credentials.add(
            new.name,
            {name: value for name, value in new.secret.reveal().items() if value},
            kind=new.secret.kind,
            profile=new.profile,
            expires_at=new.expires_at,
            purge_after=new.purge_after,
            owner=new.owner,
        )
        return times(made.raw)

    def credentials(self, *, everyone: bool, purged: bool, limit: int) -> list[Row]:
        """Metadata of what the token may see."""
        name = "" if everyone else self._client.me().name
        found = self._client.credentials.list(owner=name, purged=purged or None)
        return [times(c.raw) for c in islice(found, limit)]

    def credential(self, credential_id: UUID, *, operator: bool) -> Row:  # noqa: ARG002 -- the token says it
        """Metadata."""
        return times(self._client.credentials.get(credential_id).raw)

    def purge_credential(self, credential_id: UUID, *, operator: bool) -> Row:  # noqa: ARG002 -- the token says it
        """Have it destroyed, which takes seconds: its metadata says ``purging``, or already ``purged``."""
        self._client.credentials.purge(credential_id)
        return times(self._client.credentials.get(credential_id).raw)

    def _handle(self, push_id: UUID) -> Handle:
        return self._client.handle(push_id)

    def _of(self, push_id: UUID, owner: str) -> Handle:
        """The handle to a push of ``owner``'s. Raises InputError where it is somebody else's."""
        handle = self._handle(push_id)
        if owner and (found := handle.show().owner) != owner:
            raise InputError(Code.NOT_OWNER, f"push {push_id} belongs to {found!r}.", field="owner")
        return handle


def _submission(request: Request, urls: Handed | None, hook: str) -> Submission:
    return Submission(
        source=request.source,
        destination=request.destination,
        credential=request.credential,
        profile=request.profile,
        min_strength=request.min_strength.word if request.min_strength is not None else "",
        overwrite=request.overwrite.value,
        include=request.include,
        exclude=request.exclude,
        labels=request.labels,
        package=request.package.value if request.package is not None else "",
        owner=request.owner,
        urls=None if urls is None else list(urls.rows()),
        resign_hook=hook,
        idempotency_key=request.idempotency_key,
    )


def _document(handle: Handle) -> Row:
    return document_of(handle.id, created=handle.created, announced=handle.announced, warnings=handle.warnings)


def _push(raw: Any) -> Row:
    row = times(raw)
    urls, renewals = row.pop("urls", None), row.pop("renewals", None)
    if urls is not None:  # with signed URLs only
        row |= {"urls": times(urls), "renewals": [times(one) for one in renewals or ()]}
    return row
