"""``Client``: what a pipeline holds in its hand."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode
from uuid import UUID, uuid4

from cloudpush.client.answers import Credential, Me, Preflight, Push, read
from cloudpush.client.handle import Handle, handle_of
from cloudpush.client.paging import LARGEST, pages
from cloudpush.client.problems import error_of_problem
from cloudpush.client.transport import Transport, checked_url
from cloudpush.errors import AccessError, CloudPushError, Code, InputError

if TYPE_CHECKING:
    from cloudpush.client.logins import Login

#: Pushes of one request.
BATCH = 1000
#: Seconds for which one answer is waited for where the server does much before it: a batch, a manifest.
LONG_SECONDS = 300.0
#: Inside ``Client`` the name is taken.
list_ = list


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What is pushed where. Every field but ``source`` may be left to the server.

    ``source``: a path that the *workers* see under the same name; a relative one is taken from here. ``urls``: rows of
    docs/signed-urls.md, in place of ``destination`` and ``credential``. ``idempotency_key``: the same key is the same push;
    one is made up where none is given, so that a repeated request is no second push.
    """

    source: str | os.PathLike[str]
    destination: str = ""
    credential: str | UUID = ""
    profile: str = ""
    min_strength: str = ""
    overwrite: str = ""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    package: str = ""
    owner: str = ""
    urls: Sequence[Mapping[str, Any]] | None = field(default=None, repr=False)
    resign_hook: str = ""
    idempotency_key: str = ""

    def body(self) -> dict[str, Any]:
        """The request's document, with what was given."""
        given: dict[str, Any] = {
            "source": os.path.abspath(self.source),  # noqa: PTH100 -- symlinks are resolved where the workers are
            "destination": self.destination,
            "credential": str(self.credential),
            "profile": self.profile,
            "min_strength": self.min_strength,
            "overwrite": self.overwrite,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "labels": dict(self.labels),
            "package": self.package,
            "owner": self.owner,
            "resign_hook": self.resign_hook,
        }
        body = {name: value for name, value in given.items() if value}
        return body if self.urls is None else body | {"urls": list(self.urls)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one submission of many: a handle, or the error that it alone was refused with."""

    handle: Handle | None
    error: CloudPushError | None = None

    def get(self) -> Handle:
        """The handle. Raises the error."""
        if self.handle is None:
            raise self.error or CloudPushError(Code.INTERNAL, "The submission has no outcome.")
        return self.handle


class Client:
    """CloudPush's API. Threads may share one; processes may not: make one after a fork.

    ``url`` and ``token``: by default from CLOUDPUSH_URL and CLOUDPUSH_TOKEN, or from ``cloudpush login``. ``timeout``:
    seconds to connect, and between two pieces of an answer. ``patience``: seconds for which a request that can be repeated
    without harm is, while the server is away or busy. Raises AccessError UNAUTHENTICATED where nobody logged in, InputError
    for an address that is none, or that would send the token in the open.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, timeout: float = 30.0, patience: float = 60.0
    ) -> None:
        if url is None or token is None:
            found = _login()
            if url is not None and checked_url(url) != found.url:
                raise AccessError(
                    Code.UNAUTHENTICATED, f"The login of this machine is for {found.url}: give a token.", field="token"
                )
            url, token = found.url, token or found.token
        self._transport = Transport(url, token, timeout=timeout, patience=patience)
        self.credentials = Credentials(self._transport)

    @property
    def url(self) -> str:
        """Where the API is."""
        return self._transport.url

    def __repr__(self) -> str:
        return f"<cloudpush.Client {self.url}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections. Handles can be used on: a connection is made when one is needed."""
        self._transport.close()

    # -- pushes ----------------------------------------------------------------------------

    def push(
        self,
        source: str | os.PathLike[str],
        destination: str = "",
        credential: str | UUID = "",
        *,
        profile: str = "",
        min_strength: str = "",
        overwrite: str = "",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        package: str = "",
        owner: str = "",
        urls: Sequence[Mapping[str, Any]] | None = None,
        resign_hook: str = "",
        idempotency_key: str = "",
    ) -> Handle:
        """Push ``source`` into ``destination`` with a credential, or to where signed ``urls`` lead; see Submission.

        Returns as soon as it is stored: ``.wait()`` waits. Repeated by itself where the connection breaks, under one
        idempotency key. Raises InputError, SourceError, CredentialError: nothing was stored; ServerError.
        """
        return self.submit(
            Submission(
                source=source,
                destination=destination,
                credential=credential,
                profile=profile,
                min_strength=min_strength,
                overwrite=overwrite,
                include=include,
                exclude=exclude,
                labels=labels or {},
                package=package,
                owner=owner,
                urls=urls,
                resign_hook=resign_hook,
                idempotency_key=idempotency_key,
            )
        )

    def submit(self, submission: Submission) -> Handle:
        """As :meth:`push`."""
        answer = self._transport.call(
            "POST",
            "/pushes",
            body=submission.body(),
            headers={"idempotency-key": submission.idempotency_key or str(uuid4())},
            repeatable=True,
            timeout=LONG_SECONDS if submission.urls is not None else None,
        )
        return handle_of(self._transport, answer.json)

    def push_many(self, submissions: Iterable[Submission]) -> list_[Outcome]:
        """Submit many, 1,000 with each request, and return what became of each, in order. Each stands alone.

        A refused one stops none of the others: ask each ``Outcome``. Raises what a whole request was refused with; those
        before it are stored then, and are known already when all are submitted again under their keys.
        """
        found: list_[Outcome] = []
        left = iter(submissions)
        while chunk := list_(islice(left, BATCH)):
            items = [{**s.body(), "idempotency_key": s.idempotency_key or str(uuid4())} for s in chunk]
            answer = self._transport.call(
                "POST", "/pushes/batch", body={"pushes": items}, repeatable=True, timeout=LONG_SECONDS
            )
            found += [self._outcome(result) for result in answer.json["results"]]
        return found

    def preview(self, submission: Submission) -> dict[str, Any]:
        """What a push would do, as the API says; stores nothing."""
        answer = self._transport.call(
            "POST",
            "/pushes",
            query={"dry_run": True},
            body=submission.body(),
            repeatable=True,
            timeout=LONG_SECONDS,
        )
        return dict(answer.json)

    def get(self, push_id: UUID | str) -> Handle:
        """The handle to a push that exists. Raises InputError UNKNOWN_PUSH, also where it is another owner's."""
        handle = self.handle(push_id)
        handle.show()
        return handle

    def handle(self, push_id: UUID | str) -> Handle:
        """The handle to a push whose id is known; nothing is asked."""
        return Handle(_number(push_id, Code.UNKNOWN_PUSH, "push"), _transport=self._transport)

    def export(self, table: str, **query: str | Sequence[str]) -> AbstractContextManager[Iterator[bytes]]:
        """A whole table (pushes, files, parts, events, credentials, ledger, checkpoints) as a file, in pieces; ``format``: csv, jsonl, parquet.

        Takes the filters of :meth:`list`. Needs the right to export: raises AccessError FORBIDDEN.
        """
        return self._transport.open(f"/audit/exports/{table}?{urlencode(query, doseq=True)}", headers={"accept": "*/*"})

    def list(
        self, *, limit: int | None = None, **filters: str | int | Sequence[str] | datetime | None
    ) -> Iterator[Push]:
        """Pushes, newest first, at most ``limit`` of them, page by page.

        ``filters``: owner, bucket, prefix, state, strength, kind, code, since, until (datetimes), label ("k=v", or several),
        q (in paths), credential. Without the right to see everybody's there are one's own only.
        """
        query = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in filters.items()}
        rows = pages(self._transport, "/pushes", query, min(limit or 200, LARGEST))
        for row in islice(rows, limit):
            yield read(Push, row)

    # -- the rest --------------------------------------------------------------------------

    def preflight(
        self,
        destination: str,
        credential: str | UUID,
        *,
        profile: str = "",
        delete: bool = False,
        abort: bool = False,
        owner: str = "",
        wait: float = 60.0,
    ) -> Preflight:
        """Prove with a tiny object what the credential may do at the destination; it is waited for ``wait`` seconds.

        As it is then: ``over`` tells whether it has its answer.
        """
        given = {"destination": destination, "credential": str(credential), "profile": profile, "owner": owner}
        flags = {name: True for name, wanted in (("delete", delete), ("abort", abort)) if wanted}
        deadline = time.monotonic() + wait
        answer = self._transport.call(
            "POST", "/preflights", body={name: value for name, value in given.items() if value} | flags
        )
        found, pause = read(Preflight, answer.json), 0.1
        while not found.over and (left := deadline - time.monotonic()) > 0:
            self._transport.sleep(min(pause, left))
            pause = min(pause * 1.5, 2.0)
            found = read(Preflight, self._transport.call("GET", f"/preflights/{found.id}").json)
        return found

    def destinations(self) -> list_[dict[str, Any]]:
        """Profiles and schemes that lead somewhere, as the API says."""
        answer = self._transport.call("GET", "/destinations").json
        return list_(answer["items"] if isinstance(answer, dict) else answer)

    def keys(self) -> dict[str, Any]:
        """The public keys that receipts and checkpoints are signed with: a JWKS."""
        answer = self._transport.call("GET", "/keys").json
        return dict(answer)

    def me(self) -> Me:
        """Who the API takes us for, and what we may."""
        return read(Me, self._transport.call("GET", "/me").json)

    def _outcome(self, result: Mapping[str, Any]) -> Outcome:
        if "problem" in result and result["problem"] is not None:
            return Outcome(None, error_of_problem(result["problem"]))
        return Outcome(handle_of(self._transport, result))


class Credentials:
    """Sealed secrets: they go in and never come out."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def add(
        self,
        name: str,
        secret: Mapping[str, str],
        *,
        kind: str = "access_key",
        profile: str = "",
        expires_at: datetime | None = None,
        purge_after: datetime | None = None,
        owner: str = "",
    ) -> Credential:
        """Seal ``secret``, the fields of its kind, and return its metadata.

        Not repeated by itself where the connection breaks in the middle: look at :meth:`list` then. Raises InputError.
        """
        given: dict[str, Any] = {
            "kind": kind,
            "name": name,
            "secret": dict(secret),
            "profile": profile,
            "expires_at": expires_at.isoformat() if expires_at else "",
            "purge_after": purge_after.isoformat() if purge_after else "",
            "owner": owner,
        }
        body = {name: value for name, value in given.items() if value}
        return read(Credential, self._transport.call("POST", "/credentials", body=body).json)

    def list(self, **filters: str | bool | None) -> Iterator[Credential]:
        """One's own, newest first: metadata only."""
        for row in pages(self._transport, "/credentials", filters, LARGEST):
            yield read(Credential, row)

    def get(self, credential_id: UUID | str) -> Credential:
        """One's metadata. Raises InputError UNKNOWN_CREDENTIAL."""
        number = _number(credential_id, Code.UNKNOWN_CREDENTIAL, "credential")
        return read(Credential, self._transport.call("GET", f"/credentials/{number}").json)

    def purge(self, credential_id: UUID | str) -> Credential | None:
        """Have the secret destroyed, for good, within seconds; its metadata, where the API tells it. Repeatable."""
        number = _number(credential_id, Code.UNKNOWN_CREDENTIAL, "credential")
        answer = self._transport.call("DELETE", f"/credentials/{number}").json
        return read(Credential, answer) if answer and "kind" in answer else None


def _number(text: UUID | str, code: Code, field: str) -> UUID:
    try:
        return text if isinstance(text, UUID) else UUID(text)
    except ValueError as e:
        raise InputError(code, f"{field} {text!r} is no id.", field=field) from e


def _login() -> Login:
    """Address and token of whoever logged in here. Raises AccessError, InputError."""
    from cloudpush.client.logins import find_login  # noqa: PLC0415 -- reads files and asks keyrings: not where both are given

    login = find_login()
    if login is None:
        raise AccessError(
            Code.UNAUTHENTICATED,
            "Nobody logged in here: run `cloudpush login URL`, or set CLOUDPUSH_URL and CLOUDPUSH_TOKEN.",
            field="token",
        )
    return login
