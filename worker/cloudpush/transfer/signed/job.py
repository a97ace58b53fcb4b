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

A callback that renews may take minutes, and memory is shared with files of other owners: none is held meanwhile.
``job.holding`` begins anew what it was in the middle of, a file that was read in one go is read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cloudpush.errors import CloudPushError, Code, DestinationError
from cloudpush.net import Answer
from cloudpush.push.job import PlannedFile
from cloudpush.push.signed.model import Arrival, Kind, Need, Piece, Ticket
from cloudpush.push.signed.ports import Errand, Journal
from cloudpush.push.states import Overwrite
from cloudpush.transfer.signed.pace import Budget, Hold
from cloudpush.transfer.signed.request import Request
from cloudpush.transfer.signed.source import OpenSource

T = TypeVar("T")
Upload = Callable[["Job"], Awaitable[Arrival]]


class StaleError(Exception):
    """A fresh ticket is needed, and whoever holds memory is to give it back before one is waited for.

    ``ticket``: the one that is over, None where there is none; ``why``: what becomes of the file if nobody renews it.
    """

    def __init__(self, ticket: Ticket | None, why: CloudPushError) -> None:
        super().__init__("a fresh ticket is needed")
        self.ticket = ticket
        self.why = why


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
    URLs of parts that are still to be sent are asked for. ``md5s``: likewise, of its parts once all of them were sent.
    ``budget``: of memory, shared by all files; take from it with ``holding`` whatever is held during ``ask``. ``room``:
    what is held already for a file that was read in one go. ``sent``: bytes of content that went out, repetitions too.
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
    md5s: Sequence[bytes] = ()
    room: Hold | None = None
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

    async def ask(self, build: Callable[[Ticket], Request], *, held: bool = False) -> Answer:
        """The answer to the request that ``build`` makes of the current ticket.

        An expired URL is renewed and ``build`` called again, with a ticket that may be of another upload: then
        ``build`` is to raise what its protocol understands. Raises DestinationError; URL_EXPIRED where nobody renews,
        or the fresh URL has expired, too. ``held``: content is in memory, or nothing was sent so far: raises StaleError
        instead of waiting for a fresh ticket, and all is begun anew with it.
        """
        ticket = await self.current()
        renewed = False
        while True:
            try:
                return await self.sender.send(build(ticket))
            except DestinationError as e:
                if e.code is not Code.URL_EXPIRED or renewed:
                    raise
                why = e.with_traceback(None)  # its frames hold the body of the request
            if self.ticket is not ticket:  # another lane of this file has renewed it in the meantime
                ticket = await self.current()
            elif held:
                raise StaleError(ticket, why)
            else:
                renewed = True
                ticket = await self._renewed(ticket, why)

    async def holding(self, count: int, work: Callable[[], Awaitable[T]]) -> T:
        """What ``work`` returns, done with ``count`` bytes of the budget.

        Where it raises StaleError they are given back, and it is done again with a fresh ticket. Raises as ``ask`` does.
        """
        for last in (False, True):
            try:
                async with self.budget.hold(count):
                    return await work()
            except StaleError as e:
                if last:
                    raise e.why from None
                ticket, why = e.ticket, e.why
            await self._renewed(ticket, why)
        raise AssertionError("unreachable: the second time returns or raises")

    def ready(self) -> Ticket:
        """The ticket. Raises StaleError where there is none any more."""
        if self.ticket is None:
            raise StaleError(None, self._destroyed())
        return self.ticket

    async def renew(self, stale: StaleError) -> None:
        """Get the ticket that is needed. Raises ``stale.why`` where nobody renews, and what the renewal raises."""
        await self._renewed(stale.ticket, stale.why)

    async def arrived(self, piece: Piece) -> None:
        """Keep ``piece``; returns when it is kept."""
        await self._clerk(self.journal.arrived, piece)

    async def settled(self) -> None:
        """Returns when every piece that was kept is stored. Raises StoreError, LeaseLost."""
        await self._clerk(self.journal.flush)

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
                waiting = self.fresh.ticket(self._need(old))
                fresh = await (self.room.without(waiting) if self.room is not None else waiting)
                if fresh is None:
                    raise why or self._destroyed()
                self.ticket = fresh
            return self.ticket

    def _destroyed(self) -> DestinationError:
        return DestinationError(
            Code.URL_EXPIRED, f"The signed URLs of {self.file.path!r} have expired and were destroyed."
        )

    def _need(self, old: Ticket | None) -> Need:
        if old is not None:
            kind = old.kind
        elif self.session:
            kind = Kind.RESUMABLE
        else:
            kind = Kind.MULTIPART if self.pieces else Kind.PUT
        return Need(self.file.seq, self.file.path, self.file.key, kind, tuple(self.missing()))
