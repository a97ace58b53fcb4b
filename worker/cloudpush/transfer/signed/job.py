"""One file on its way: what a protocol (put, form, multipart, resumable, blocks) works with.

A protocol is a module with ``async def upload(job: Job) -> Arrival``, and where something can stay behind
``async def abort(job: Job) -> str``. It runs on the uploader's event loop and must not block it. It raises
CloudPushError for a failure of this file; it catches none that it does not understand::

    async def upload(job: Job) -> Arrival:
        digests = await job.source.digests()                # read once, when they are needed before the sending
        stream = job.source.stream()                        # … or taken while it is sent: stream.digests afterwards
        answer = await job.ask(lambda ticket: Request("PUT", object_url(ticket, job.file.key), …, body=stream))
        return Arrival(sha256=…, sent=job.sent)

``job.ask`` is the only way out. It waits for its turn (``Pace``), retries what passes, renews a URL that has expired
and calls the function again with the fresh ticket, translates an error answer, and takes care of the progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from cloudpush.errors import CloudPushError, Code, DestinationError
from cloudpush.net import Answer
from cloudpush.push.job import PlannedFile
from cloudpush.push.signed.model import Arrival, Kind, Need, Piece, Ticket
from cloudpush.push.signed.ports import Errand, Journal
from cloudpush.push.states import Overwrite
from cloudpush.transfer.signed.pace import Budget
from cloudpush.transfer.signed.request import Request
from cloudpush.transfer.signed.source import OpenSource

Upload = Callable[["Job"], Awaitable[Arrival]]


class Sender(Protocol):
    """What carries requests: ``wire.Wire``, or a script in a test."""

    async def send(self, request: Request) -> Answer:
        """The answer: 2xx, or a status that the request accepts.

        Raises DestinationError for every other, after the tries that it is worth; URL_EXPIRED also where our clock
        says so, and then nothing was sent.
        """


class Fresh(Protocol):
    """Where fresh tickets come from."""

    async def ticket(self, need: Need) -> Ticket | None:
        """A fresh one that leads to the same object; None where nobody renews."""


@dataclass(eq=False, slots=True)
class Job:
    """One file that is being sent.

    ``pieces`` and ``session``: what earlier attempts left. ``missing``: a multipart upload sets it, so that only the
    URLs of parts that are still to be sent are asked for. ``budget``: of memory, shared by all files; take from it
    *before* ``ask`` whatever is held during it. ``sent``: bytes of the file's content that went out, repetitions too.
    """

    errand: Errand
    source: OpenSource
    overwrite: Overwrite
    budget: Budget
    sender: Sender
    fresh: Fresh
    journal: Journal
    clerks: Executor
    ticket: Ticket | None
    missing: Callable[[], Sequence[int]] = tuple
    _renewing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def file(self) -> PlannedFile:
        """The plan: path, key, size, time."""
        return self.errand.file

    @property
    def pieces(self) -> Sequence[Piece]:
        """What earlier attempts left, by number."""
        return self.errand.pieces

    @property
    def session(self) -> str:
        """The URI of a resumable upload that an earlier attempt began; a secret."""
        return self.errand.session

    @property
    def sent(self) -> int:
        """Bytes of the file's content that went out in this attempt."""
        return self.source.meter.sent

    async def current(self) -> Ticket:
        """The ticket, a fresh one if there is none any more. Raises DestinationError URL_EXPIRED."""
        return self.ticket if self.ticket is not None else await self._renewed(None)

    async def ask(self, build: Callable[[Ticket], Request]) -> Answer:
        """The answer to the request that ``build`` makes of the current ticket.

        An expired URL is renewed and ``build`` called again, with a ticket that may be of another upload: then
        ``build`` is to raise what its protocol understands. Raises DestinationError; URL_EXPIRED where nobody renews,
        or the fresh URL has expired, too.
        """
        ticket = await self.current()
        asked_for = 0
        while True:
            try:
                return await self.sender.send(build(ticket))
            except DestinationError as e:
                if e.code is not Code.URL_EXPIRED or asked_for:
                    raise
                if self.ticket is ticket:  # else another lane of this file has renewed it in the meantime
                    asked_for += 1
                    ticket = await self._renewed(ticket, e)
                else:
                    ticket = await self.current()

    async def arrived(self, piece: Piece) -> None:
        """Keep ``piece``; returns when it is kept."""
        await self._clerk(self.journal.arrived, piece)

    async def began(self, session: str) -> None:
        """Keep the URI of a resumable upload; returns when it is kept, so that bytes may be sent."""
        await self._clerk(self.journal.began, self.file.seq, session)

    async def lost(self) -> None:
        """The upload is gone: its pieces and session are not to be used again."""
        await self._clerk(self.journal.lost, self.file.seq)

    async def _clerk(self, work: Callable[..., None], *args: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self.clerks, work, *args)

    async def _renewed(self, old: Ticket | None, why: CloudPushError | None = None) -> Ticket:
        async with self._renewing:
            if self.ticket is None or self.ticket is old:
                fresh = await self.fresh.ticket(self._need(old))
                if fresh is None:
                    raise why or DestinationError(
                        Code.URL_EXPIRED, f"The signed URLs of {self.file.path!r} have expired and were destroyed."
                    )
                self.ticket = fresh
            return self.ticket

    def _need(self, old: Ticket | None) -> Need:
        if old is not None:
            kind = old.kind
        elif self.session:
            kind = Kind.RESUMABLE
        else:
            kind = Kind.MULTIPART if self.pieces else Kind.PUT
        return Need(self.file.seq, self.file.path, self.file.key, kind, tuple(self.missing()))
