"""The life of a push, told once.

::

    intake ─ claim ─ plan ─┬─ (one part)  ─ deliver ─ end
                           └─ (many parts) announce … claim ─ deliver ─ end, the last one ends the push

Whatever happens to a worker in between, the lease runs out and somebody else goes on from the last
committed step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from uuid import UUID

from cloudpush.errors import (
    BrokerError,
    Cancelled,
    CloudPushError,
    Code,
    DestinationError,
    EngineError,
    LeaseLost,
    SourceError,
)
from cloudpush.logs import get_logger, traceback_of
from cloudpush.push.delivery import Delivery
from cloudpush.push.job import FileResult, Lease, Page, Part, PlannedFile, Push, Verdict
from cloudpush.push.leases import Hold, LeaseKeeper
from cloudpush.push.planning import Limits, batches, cut
from cloudpush.push.ports import Announcer, Clock, Engine, Inspector, Session, Store, Vault
from cloudpush.push.retry import Policy, age_of
from cloudpush.push.states import State
from cloudpush.push.walk import real_roots, walk

log = get_logger(__name__)

#: Batches of a part that are under way at once: while one is verified the other is sent.
LANES = 2
BATCH_FILES = 1_250  # a part of the usual 5,000 is four: two for each lane
BATCH_BYTES = 1024**3


class CloudPush:
    """Executes pushes and parts. One instance a worker process; safe to use from several threads."""

    def __init__(
        self,
        *,
        store: Store,
        announcer: Announcer,
        vault: Vault,
        engine: Engine,
        inspector: Inspector,
        leases: LeaseKeeper,
        clock: Clock,
        policy: Policy,
        limits: Limits,
        roots: tuple[Path, ...],
    ) -> None:
        self._store = store
        self._announcer = announcer
        self._vault = vault
        self._engine = engine
        self._inspector = inspector
        self._leases = leases
        self._clock = clock
        self._policy = policy
        self._limits = limits
        self._roots = roots

    def run(self, push_id: UUID) -> State | None:
        """Execute a queued push; returns its state now, None where it was not ours to execute."""
        lease = self._leases.new()
        push = self._store.claim_push(push_id, lease)
        if push is None:
            return None
        with self._leases.hold(lease, push.id) as hold, _losing_quietly(push):
            try:
                only = self._plan(push, lease, hold)
            except Exception as e:  # noqa: BLE001 -- the verdict is where every failure ends
                return self._end_push(push, lease, self._fate(e, push, push.strikes))
            if only is None:
                return State.RUNNING
            files = [row for row in only.rows if isinstance(row, PlannedFile)]
            return self._execute(push, only.part, lease, hold, lambda: files)
        return None

    def run_part(self, push_id: UUID, number: int) -> State | None:
        """Execute one part; returns its push's state now, None where it was not ours to execute."""
        lease = self._leases.new()
        claimed = self._store.claim_part(push_id, number, lease)
        if claimed is None:
            return None
        push, part = claimed
        with self._leases.hold(lease, push.id) as hold, _losing_quietly(push):
            return self._execute(push, part, lease, hold, lambda: self._take_up(push, part, lease))
        return None

    # -- the steps, in order ---------------------------------------------------------------

    def _plan(self, push: Push, lease: Lease, hold: Hold) -> Page | None:
        """Walk, store the plan; return the only part's page, or None after announcing several."""
        if push.cancelled:
            raise Cancelled
        found = walk(push.source, self._roots, push.destination, push.include, push.exclude)
        pages = cut(found, push.id, self._limits)
        head = list(islice(pages, 2))
        if not head:
            raise SourceError(Code.SOURCE_EMPTY, f"{str(push.source)!r} holds no file that the patterns let through.")
        if len(head) == 1:
            self._store.finish_plan_with(push, lease, head[0])
            return head[0]
        parts: list[int] = []
        files = size = 0
        for page in chain(head, pages):
            hold.check()
            self._store.record_page(push, lease, page)
            parts.append(page.part.number)
            files += page.part.files
            size += page.part.bytes
        self._store.finish_plan(push, lease, parts=len(parts), files=files, bytes_=size)
        try:
            self._announcer.parts(push.id, parts)
        except BrokerError as e:
            log.warning("parts not announced, the sweep will", push=str(push.id), error=str(e))
        return None

    def _take_up(self, push: Push, part: Part, lease: Lease) -> Sequence[PlannedFile]:
        """The files of an announced part that have no verdict yet."""
        if part.strikes >= self._policy.strikes:
            # A part that takes its worker with it each time is ended by the next one, unexecuted.
            raise CloudPushError(Code.WORKER_LOST, "Its worker vanished and it ran out of attempts.")
        self._store.record_credential_use(push, part, lease)
        return self._store.open_files(part)

    def _execute(
        self, push: Push, part: Part, lease: Lease, hold: Hold, files: Callable[[], Sequence[PlannedFile]]
    ) -> State:
        results: Sequence[FileResult] = ()
        # What was opened is closed when the verdict is out: nobody waits for rclone to forget.
        with ExitStack() as opened:
            try:
                verdict, results = self._deliver(push, part, lease, hold, files(), opened)
            except Exception as e:  # noqa: BLE001 -- the verdict is where every failure ends
                verdict = self._fate(e, push, part.strikes)
            state = self._store.end_part(push, part, lease, verdict, results)
            if state.final:
                self._announcer.ended(push.id, state)
        return state

    def _deliver(
        self, push: Push, part: Part, lease: Lease, hold: Hold, files: Sequence[PlannedFile], opened: ExitStack
    ) -> tuple[Verdict, Sequence[FileResult]]:
        """Resolve the credential, then transfer, verify and record batch by batch.

        Returns the last batch's results with the verdict: they are stored together, one transaction less.
        """
        secret = self._vault.unseal(push.credential_id, push.owner, push.credential_kind)
        root = push.source.parent if push.source.is_file() else push.source
        group = f"{push.id.hex}-{part.number}-{lease.token.hex[:8]}"
        passing: list[CloudPushError] = []
        last: Sequence[FileResult] = ()
        session = opened.enter_context(self._engine.open(push.destination, secret, group))
        lanes = opened.enter_context(ThreadPoolExecutor(LANES, "lane"))
        delivery = Delivery(
            push=push,
            root=root,
            roots=real_roots(self._roots),
            secret=secret,
            session=session,
            inspector=self._inspector,
            control=hold,
            helpers=opened.enter_context(ThreadPoolExecutor(LANES, "reader")),
            now=self._clock.now,
        )
        if part.attempt > 1:
            _tidy_up(session, files, hold)
        with hold.reporting(session.progress):
            try:
                for results in _in_lanes(lanes, delivery, files):
                    self._store.record_files(part, lease, last)
                    last = results
                    passing += [r.error for r in results if r.error is not None and r.error.code.retryable]
            except Exception:
                self._store.record_files(part, lease, last)
                raise
        if passing:
            return self._fate(passing[0], push, part.strikes), last
        return Verdict(State.SUCCEEDED), last

    # -- how an attempt ends ---------------------------------------------------------------

    def _fate(self, error: Exception, push: Push, strikes: int) -> Verdict:
        if isinstance(error, LeaseLost):
            raise error
        if not isinstance(error, CloudPushError):
            log.error("defect", push=str(push.id), traceback=traceback_of(error))
            error = CloudPushError(Code.INTERNAL, f"{type(error).__name__} inside CloudPush; the worker's log has it.")
        return self._policy.decide(
            error, strikes=strikes, age=age_of(push.created_at, self._clock.now()), jitter=self._clock.jitter()
        )

    def _end_push(self, push: Push, lease: Lease, verdict: Verdict) -> State:
        self._store.end_push(push, lease, verdict)
        if verdict.state.final:
            self._announcer.ended(push.id, verdict.state)
        return verdict.state


def _tidy_up(session: Session, files: Sequence[PlannedFile], hold: Hold) -> None:
    """An attempt that was killed may have left pieces of large files behind, which the user pays for."""
    keys = [f.key for f in files if session.piece_size(f.size) is not None]
    if not keys:
        return
    try:
        log.info("unfinished uploads of an earlier attempt forgotten", uploads=session.abandon(keys, hold))
    except (DestinationError, EngineError) as e:
        # Not every credential may list uploads; sending is not to fail for that.
        log.warning("unfinished uploads of an earlier attempt may be left", keys=len(keys), error=str(e))


@contextmanager
def _losing_quietly(push: Push) -> Iterator[None]:
    """A lost lease ends the execution here and nothing else: somebody else has taken over."""
    try:
        yield
    except LeaseLost as e:
        log.warning("lease lost, stopping", push=str(push.id), error=str(e))


def _in_lanes(pool: ThreadPoolExecutor, delivery: Delivery, files: Sequence[PlannedFile]) -> Iterator[list[FileResult]]:
    """Results batch by batch, ``LANES`` batches under way at once; a single batch needs no thread.

    When a batch raises, what the others still bring is yielded first: it was sent and seen.
    """
    groups = list(batches(files, max_files=BATCH_FILES, max_bytes=BATCH_BYTES))
    if len(groups) <= 1:
        yield from map(delivery.batch, groups)
        return
    waiting = iter(groups)
    flying: list[Future[list[FileResult]]] = [pool.submit(delivery.batch, g) for g in islice(waiting, LANES)]
    failure: Exception | None = None
    while flying:
        future = flying.pop(0)
        try:
            results = future.result()
        except Exception as e:  # noqa: BLE001 -- raised below, once the other lanes have been heard
            failure = failure or e
            continue
        if failure is None and (group := next(waiting, None)) is not None:
            flying.append(pool.submit(delivery.batch, group))
        yield results
    if failure is not None:
        raise failure
