"""The uploader: many files at once, each with its own signed URL, on one event loop for the whole process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cloudpush.errors import Cancelled, CloudPushError, Code, InputError, LeaseLost, SourceError
from cloudpush.logs import get_logger, redact, traceback_of
from cloudpush.net import Pool, watched
from cloudpush.push.guard import Origin, addresses, check_endpoint, parse_endpoint
from cloudpush.push.job import Progress, Push
from cloudpush.push.ports import Control
from cloudpush.push.signed.model import Arrival, Kind, Need, Provider, Ticket
from cloudpush.push.signed.ports import Errand, Journal, Renewals, Uploader, UrlSession
from cloudpush.push.signed.urls import usable_at
from cloudpush.push.states import Overwrite
from cloudpush.transfer.signed import blocks, form, look, multipart, put, resumable
from cloudpush.transfer.signed.answers import Refused, secrets_of
from cloudpush.transfer.signed.job import Fresh, Job, StaleError
from cloudpush.transfer.signed.pace import Budget
from cloudpush.transfer.signed.renewer import Renewer
from cloudpush.transfer.signed.source import SMALL, Meter, OpenSource, Readers, Take
from cloudpush.transfer.signed.wire import STALL_SECONDS, Line, Server, Wire, timeouts

log = get_logger(__name__)

MIB = 1024 * 1024
#: Bytes of small files in memory, and of large ones on their way, of all parts of a process together.
SMALL_BYTES = 8 * MIB
STREAM_BUDGET = 40 * MIB
#: Small files that are opened and read in one go in a thread, and their bytes together.
GROUP_FILES = 16
GROUP_BYTES = MIB // 4
#: Requests in flight to one server at most, for each of the transfers that the operator allows.
PER_TRANSFER = 2
#: How long a file waits for its URL to become valid.
START_PATIENCE = timedelta(seconds=60)
#: Seconds over which the speed is measured.
SPEED_SECONDS = 0.5
#: Files in a row that got no proper answer: the rest would not either, and each would take its time.
STREAK = 8
#: Questions to callbacks at a time, one for each upload that waits for fresh URLs; and names that are resolved.
QUESTIONS = 32

#: What concerns every file of the batch.
_FATAL = frozenset(
    {
        Code.ENDPOINT_REFUSED,
        Code.ENDPOINT_UNRESOLVABLE,
        Code.TLS_FAILED,
        Code.NO_SUCH_BUCKET,
        Code.QUOTA_EXCEEDED,
    }
)
#: What an upload is refused with where there is an object, or is about to be one.
_OCCUPIED = frozenset({Code.OBJECT_EXISTS, Code.CONFLICT})
#: What concerns the server, if it happens to one file after the other.
_SERVER = frozenset({Code.NETWORK, Code.PROVIDER_UNAVAILABLE, Code.THROTTLED})
_PROVIDERS = {"gs": Provider.GCS, "az": Provider.AZURE}
_CHECKSUMS = {"sha256": Take.SHA256, "md5": Take.MD5, "crc32c": Take.CRC32C, "crc64nvme": Take.CRC64}


class SignedUploader(Uploader):
    """``push.signed.ports.Uploader``. Thread-safe; nothing is started before the first upload."""

    def __init__(
        self, *, allowed_endpoints: Collection[str] = (), transfers: int = 32, stall: float = STALL_SECONDS
    ) -> None:
        """``allowed_endpoints``: the operator's listed hosts, see push.guard; ``stall``: seconds without progress."""
        self._allowed = frozenset(allowed_endpoints)
        self._most = transfers * PER_TRANSFER
        self._stall = stall
        self._pool = Pool("signed-urls", timeouts(stall))
        self._servers: dict[Origin, Server] = {}
        self.shared = _Shared(
            Readers(),
            ThreadPoolExecutor(8, "signed-clerk"),
            ThreadPoolExecutor(QUESTIONS, "signed-renewal"),
            ThreadPoolExecutor(QUESTIONS, "signed-name"),
            Budget(SMALL_BYTES),
            Budget(STREAM_BUDGET),
        )

    @contextmanager
    def open(
        self,
        push: Push,
        root: Path,
        roots: Sequence[str],
        overwrite: Overwrite,
        journal: Journal,
        renewals: Renewals,
        group: str,
    ) -> Iterator[SignedSession]:
        """See the port. Raises InputError too: an origin that may not be used."""
        origin = parse_endpoint(check_endpoint(push.endpoint, self._allowed))
        server = self._servers.setdefault(origin, Server(self._most))
        wire = Wire(self._pool, origin, _PROVIDERS.get(push.destination.scheme, Provider.S3), server, self._stall)
        yield SignedSession(
            pool=self._pool,
            wire=wire,
            prepare=lambda: self._pool.pin(origin.host, addresses(origin.host, origin.port, self._allowed)),
            lanes=self._most,
            shared=self.shared,
            place=_Place(root, roots, overwrite),
            journal=journal,
            renewals=renewals,
            group=group,
        )

    def close(self) -> None:
        """Close the connections and end the threads."""
        self._pool.close()
        self.shared.close()


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all uploads of a process share.

    Threads of one kind wait for no other: a journal (``clerks``) for no callback, and neither for a resolver.
    """

    readers: Readers
    clerks: ThreadPoolExecutor
    renewals: ThreadPoolExecutor
    names: ThreadPoolExecutor
    small: Budget
    streams: Budget

    def close(self) -> None:
        self.readers.close()
        for threads in (self.clerks, self.renewals, self.names):
            threads.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the files are, and the push's rule for what is there already."""

    root: Path
    roots: Sequence[str]
    overwrite: Overwrite


class SignedSession(UrlSession):
    """``push.signed.ports.UrlSession``. Thread-safe."""

    def __init__(
        self,
        *,
        pool: Pool,
        wire: Wire,
        prepare: Callable[[], None],
        lanes: int,
        shared: _Shared,
        place: _Place,
        journal: Journal,
        renewals: Renewals,
        group: str,
    ) -> None:
        """``prepare`` resolves the server's name and judges its addresses; it blocks."""
        self._pool = pool
        self._wire = wire
        self._prepare = prepare
        self._lanes = lanes
        self._shared = shared
        self._place = place
        self._journal = journal
        self._renewals = renewals
        self._group = group
        self._speed = _Speed()

    def __repr__(self) -> str:
        return f"<SignedSession {self._group}>"

    def send(self, errands: Sequence[Errand], control: Control) -> Mapping[int, Arrival | CloudPushError]:
        """See the port. Blocks, so it must not be called from within an event loop."""
        control.check()
        if not errands:
            return {}
        self._speed.expected += sum(e.file.size for e in errands)
        return self._pool.run(watched(self._send(errands, control), control))

    def abort(self, errands: Sequence[Errand], control: Control) -> Mapping[int, str]:
        """See the port."""
        if not errands:
            return {}
        return self._pool.run(watched(self._abort(errands), control))

    def progress(self) -> Progress:
        """See the port. Never raises."""
        return self._speed.progress()

    async def _send(self, errands: Sequence[Errand], control: Control) -> Mapping[int, Arrival | CloudPushError]:
        await self._reach()
        async with aclosing(Renewer(self._renewals, control, self._shared.renewals)) as renewer:
            return await self._batch(renewer).send(errands, self._lanes)

    async def _abort(self, errands: Sequence[Errand]) -> Mapping[int, str]:
        try:
            await self._reach()
        except CloudPushError as e:
            return {errand.file.seq: e.message for errand in errands}
        return await self._batch(_Nobody()).abort(errands, self._lanes)

    async def _reach(self) -> None:
        """A resolver may take its time; whoever is stopped meanwhile does not wait for it."""
        await asyncio.get_running_loop().run_in_executor(self._shared.names, self._prepare)

    def _batch(self, fresh: Fresh) -> _Batch:
        return _Batch(self._wire, self._shared, self._place, self._journal, fresh, self._speed)


class _Nobody(Fresh):
    """Renews nothing: what is only tidied up is worth no fresh URL."""

    async def ticket(self, need: Need) -> Ticket | None:  # noqa: ARG002 -- the protocol's signature
        return None


class _Speed:
    """What a session has sent. Written on the event loop, read in any thread."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.files = 0
        self.expected = 0
        self._lock = threading.Lock()
        self._before = (time.monotonic(), 0)
        self._speed = 0.0

    @property
    def present(self) -> float:
        """Bytes per second, as last measured; 0 before."""
        with self._lock:
            return self._speed

    def progress(self) -> Progress:
        """Bytes and files; the speed since the last time this was asked, smoothed."""
        moved = self.meter.moved
        with self._lock:
            now = time.monotonic()
            then, before = self._before
            if now - then >= SPEED_SECONDS:
                fresh = max(0.0, (moved - before) / (now - then))
                self._speed = fresh if not before else (self._speed + fresh) / 2
                self._before = (now, moved)
            speed = self._speed
        return Progress(moved, self.files, speed, max(0, self.expected - moved) / speed if speed else None)


class _Batch:
    """One call: files, lanes that send them, and what became of each."""

    def __init__(
        self, wire: Wire, shared: _Shared, place: _Place, journal: Journal, fresh: Fresh, speed: _Speed
    ) -> None:
        self._wire = wire
        self._shared = shared
        self._place = place
        self._journal = journal
        self._fresh = fresh
        self._speed = speed
        self._outcomes: dict[int, Arrival | CloudPushError] = {}
        self._fatal: CloudPushError | None = None
        self._streak = 0

    async def send(self, errands: Sequence[Errand], lanes: int) -> Mapping[int, Arrival | CloudPushError]:
        """See ``UrlSession.send``."""
        groups = iter(_groups(errands, lanes))

        async def lane() -> None:
            for group in groups:
                if self._fatal is not None:
                    return
                await self._send_group(group)

        await _all(lane() for _ in range(min(lanes, len(errands))))
        if self._fatal is None:
            return self._outcomes
        # What has arrived must not be sent again because the rest cannot be sent now.
        if not any(isinstance(outcome, Arrival) for outcome in self._outcomes.values()):
            raise self._fatal
        return {e.file.seq: self._outcomes.get(e.file.seq, self._fatal) for e in errands}

    async def abort(self, errands: Sequence[Errand], lanes: int) -> Mapping[int, str]:
        """See ``UrlSession.abort``."""
        left: dict[int, str] = {}
        waiting = iter(errands)

        async def lane() -> None:
            for errand in waiting:
                if words := await self._abort_one(errand):
                    left[errand.file.seq] = words

        await _all(lane() for _ in range(min(lanes, len(errands))))
        return left

    async def _send_group(self, group: Sequence[Errand]) -> None:
        """Send them; those whose URLs turn out to have expired once more, with fresh ones.

        Between the two nothing of them is in memory: others need not wait for a callback that is none of theirs.
        """
        stale = await self._send_jobs([self._job(errand) for errand in group])
        if not stale or self._fatal is not None:
            return
        failures = await asyncio.gather(*[self._renew(job, why) for job, why in stale])
        fresh = []
        for (job, _), failure in zip(stale, failures, strict=True):
            if failure is not None:
                self._note(job, failure)
            else:
                job.source = job.source.again()
                fresh.append(job)
        for job, still in await self._send_jobs(fresh):
            self._note(job, still.why)

    async def _send_jobs(self, jobs: Sequence[Job]) -> list[tuple[Job, StaleError]]:
        """Send them, one after the other; returns those that need a fresh ticket."""
        stale: list[tuple[Job, StaleError]] = []
        async with self._shared.small.hold(sum(job.file.size for job in jobs if job.file.size <= SMALL)) as room:
            loop = asyncio.get_running_loop()
            try:
                failures = await loop.run_in_executor(self._shared.readers.files, self._open, jobs)
                for job, failure in zip(jobs, failures, strict=True):
                    if self._fatal is not None:
                        break
                    job.room = room
                    outcome = failure or await self._send_one(job)
                    job.source.close()
                    if isinstance(outcome, StaleError):
                        stale.append((job, outcome))
                    else:
                        self._note(job, outcome)
            finally:
                for job in jobs:
                    job.source.close()
        return stale

    async def _renew(self, job: Job, stale: StaleError) -> CloudPushError | None:
        """Get the job its fresh ticket, or say why there is none."""
        try:
            await job.renew(stale)
        except (Cancelled, LeaseLost):
            raise
        except CloudPushError as e:
            return e
        except Exception as e:  # noqa: BLE001 -- one file's trouble is not the batch's
            return _defect(job, e)
        return None

    def _open(self, jobs: Sequence[Job]) -> list[CloudPushError | None]:
        """Open the jobs' files; in a thread."""
        failures: list[CloudPushError | None] = []
        for job in jobs:
            try:
                job.source.open(self._place.root / job.file.path, self._place.roots)
                failures.append(None)
            except SourceError as e:
                failures.append(e)
            except Exception as e:  # noqa: BLE001 -- one file's trouble is not the batch's
                failures.append(_defect(job, e))
        return failures

    async def _send_one(self, job: Job) -> Arrival | CloudPushError | StaleError:
        try:
            if job.ticket is None and job.session:
                return await resumable.upload(job)  # under way, and needs no signature any more
            ticket = job.ready()
            await self._wait_for_start(ticket)
            self._compare_life(job, ticket)
            await _check_described(job, ticket)
            return await look.before(job) or await self._upload(job, ticket)
        except StaleError as e:
            return StaleError(e.ticket, e.why)  # without its frames, which hold the content
        except (Cancelled, LeaseLost):
            raise
        except CloudPushError as e:
            return e
        except Exception as e:  # noqa: BLE001 -- one file's trouble is not the batch's: the others' arrivals must be told
            return _defect(job, e)

    async def _upload(self, job: Job, ticket: Ticket) -> Arrival:
        try:
            return await _protocol(ticket, job.file.size)(job)
        except Refused as e:
            if e.code not in _OCCUPIED:
                raise
            arrival = await look.mine(job, e)
        # Where it is not what our upload became, that is still open.
        left = await multipart.abort(job) if ticket.kind is Kind.MULTIPART and ticket.abort else ""
        return replace(arrival, note=left)

    def _compare_life(self, job: Job, ticket: Ticket) -> None:
        """Warn of a URL that will have expired, at the present speed, before the file is sent.

        Providers look at the time when a request begins; one that is tried again, or a further part, needs a fresh URL.
        """
        if job.file.size <= SMALL or ticket.expires_at is None or not (speed := self._speed.present):
            return
        seconds, left = job.file.size / speed, (ticket.expires_at - self._wire.clock.now()).total_seconds()
        if left < seconds:
            log.warning(
                "url.short_lived", path=job.file.path, left=round(left), needed=round(seconds), speed=round(speed)
            )

    async def _wait_for_start(self, ticket: Ticket) -> None:
        """Whoever signs a URL to be valid from now on may have a clock that is ahead of the server's.

        Raises InputError URL_NOT_YET_VALID where it is more than that.
        """
        clock = self._wire.clock
        if ticket.url.starts_at is None or ticket.url.starts_at <= clock.now():
            return
        try:
            usable_at(replace(ticket.url, expires_at=None), clock.now())
        except InputError:
            wait = ticket.url.starts_at - clock.now()
            if wait <= START_PATIENCE:
                await asyncio.sleep(wait.total_seconds())
            elif ticket.url.starts_at > clock.latest():
                raise

    async def _abort_one(self, errand: Errand) -> str:
        job = self._job(errand)
        kind = errand.ticket.kind if errand.ticket is not None else None
        try:
            if kind is Kind.MULTIPART:
                return await multipart.abort(job)
            if kind is Kind.RESUMABLE or errand.session:
                return await resumable.abort(job)
            if errand.ticket is not None and errand.ticket.url.provider is Provider.AZURE:
                return await blocks.abort(job)
        except (Cancelled, LeaseLost):
            raise
        except CloudPushError as e:
            return e.message
        except Exception as e:  # noqa: BLE001 -- one file's trouble is not the batch's
            return _defect(job, e).message
        return ""

    def _job(self, errand: Errand) -> Job:
        meter = Meter(self._speed.meter)
        return Job(
            errand=errand,
            source=OpenSource(errand.file, self._shared.readers, meter),
            overwrite=self._place.overwrite,
            budget=self._shared.streams,
            sender=Line(self._wire, meter),
            fresh=self._fresh,
            journal=self._journal,
            clerks=self._shared.clerks,
            ticket=errand.ticket,
        )

    def _note(self, job: Job, outcome: Arrival | CloudPushError) -> None:
        self._outcomes[job.file.seq] = outcome
        if isinstance(outcome, Arrival):
            self._streak = 0
            self._speed.files += 1
            return
        self._streak = self._streak + 1 if outcome.code in _SERVER else 0
        if outcome.code in _FATAL or self._streak >= STREAK:
            self._fatal = self._fatal or outcome


def _defect(job: Job, error: Exception) -> CloudPushError:
    """``error`` is none that anybody foresaw: what the file ends with. All that is known of it goes to the log.

    Its words may quote a URL: a library's, or what was made of a hostile answer.
    """
    words = redact(traceback_of(error), *_secrets(job), limit=20_000)
    log.error("upload.defect", path=job.file.path, error=words)
    return CloudPushError(
        Code.INTERNAL, f"{job.file.path!r} could not be sent: {type(error).__name__}, see the worker's log."
    )


def _secrets(job: Job) -> Iterator[str]:
    for ticket in (job.errand.ticket, job.ticket):
        if ticket is not None:
            for url in (ticket.url.text, *ticket.parts, ticket.abort, ticket.verify.text if ticket.verify else ""):
                yield from secrets_of(url)
            yield from (*ticket.fields.values(), *ticket.headers.values())
    yield from secrets_of(job.session)


async def _check_described(job: Job, ticket: Ticket) -> None:
    """Raise SourceError SOURCE_DIFFERS unless the file has the digests that its owner gave for it."""
    take = Take(0)
    for name in ticket.checksums:
        take |= _CHECKSUMS[name]
    if not take:
        return
    digests = await job.source.digests(take=take)
    ours = {
        "sha256": (digests.sha256 or b"").hex(),
        "md5": (digests.md5 or b"").hex(),
        "crc32c": f"{digests.crc32c or 0:08x}",
        "crc64nvme": f"{digests.crc64 or 0:016x}",
    }
    for name, given in ticket.checksums.items():
        if ours[name] != given:
            raise SourceError(
                Code.SOURCE_DIFFERS,
                f"{job.file.path!r} is not the file that was described: its {name} is {ours[name]}, not {given}.",
            )


def _protocol(ticket: Ticket, size: int) -> Callable[[Job], Awaitable[Arrival]]:
    match ticket.kind:
        case Kind.FORM:
            return form.upload
        case Kind.MULTIPART:
            return multipart.upload
        case Kind.RESUMABLE:
            return resumable.upload
    in_blocks = ticket.url.provider is Provider.AZURE and not put.fits(ticket, size)
    return blocks.upload if in_blocks else put.upload


def _groups(errands: Sequence[Errand], lanes: int) -> Iterator[list[Errand]]:
    """Neighbours that are small are opened together, but no lane is to be left without work by that."""
    most = max(1, min(GROUP_FILES, len(errands) // (lanes * 2)))
    group: list[Errand] = []
    bytes_ = 0
    for errand in errands:
        if group and (len(group) >= most or bytes_ + errand.file.size > GROUP_BYTES):
            yield group
            group, bytes_ = [], 0
        group.append(errand)
        bytes_ += errand.file.size
    if group:
        yield group


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of ``work``; where some of it fails, or we are stopped, none of it goes on."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
