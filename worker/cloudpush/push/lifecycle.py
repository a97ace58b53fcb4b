"""The life of a push, told once.

::

    intake ─ claim ─ plan ─┬─ (one part)  ─ deliver ─ end
                           └─ (many parts) announce … claim ─ deliver ─ end, the last one ends the push

Whatever happens to a worker in between, the lease runs out and somebody else goes on from the last
committed step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from cloudpush.errors import BrokerError, Cancelled, CloudPushError, Code, LeaseLost, SourceError, StoreError
from cloudpush.logs import get_logger, traceback_of
from cloudpush.push.couriers import LANES, Courier, Trip
from cloudpush.push.job import FileResult, Lease, Page, Part, PlannedFile, Push, Verdict
from cloudpush.push.leases import Hold, LeaseKeeper
from cloudpush.push.packages import Arrived, closing_page, write_package
from cloudpush.push.planning import Limits, batches, cut
from cloudpush.push.ports import Announcer, Clock, Store
from cloudpush.push.preflight import Preflight
from cloudpush.push.retry import Policy, age_of
from cloudpush.push.states import FileState, State

log = get_logger(__name__)

#: A part of the usual 5,000 files is four batches: two for each lane.
BATCH_FILES = 1_250
BATCH_BYTES = 1024**3
#: Files of a package between two looks whether to go on.
CHECK_EVERY = 1_000


class CloudPush:
    """Executes pushes and parts. One instance a worker process; safe to use from several threads.

    ``couriers``: by the kind of credential that each carries with.
    """

    def __init__(
        self,
        *,
        store: Store,
        announcer: Announcer,
        couriers: Mapping[str, Courier],
        leases: LeaseKeeper,
        clock: Clock,
        policy: Policy,
        limits: Limits,
        preflight: Preflight | None = None,
    ) -> None:
        """``preflight``: what tries out pairs of credential and destination that are new; None: nobody does."""
        self._store = store
        self._announcer = announcer
        self._couriers = couriers
        self._leases = leases
        self._clock = clock
        self._policy = policy
        self._limits = limits
        self._preflight = preflight

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
            if part.closing:
                return self._close(push, part, lease, hold)
            return self._execute(push, part, lease, hold, lambda: self._take_up(push, part, lease))
        return None

    # -- the steps, in order ---------------------------------------------------------------

    def _plan(self, push: Push, lease: Lease, hold: Hold) -> Page | None:
        """Find the files, store the plan; return the only part's page, or None after announcing several."""
        if push.cancelled:
            raise Cancelled
        if push.unproved:
            self._try_out(push, lease, hold)
        pages = cut(self._courier(push).find(push), push.id, self._limits)
        head = list(islice(pages, 2))
        if not head:
            raise SourceError(Code.SOURCE_EMPTY, f"{str(push.source)!r} holds no file that the patterns let through.")
        if len(head) == 1 and push.package is None:
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
        if push.package is not None:
            closing = closing_page(push, len(parts) + 1, page.part.last + 1)
            self._store.record_page(push, lease, closing)
            files += closing.part.files
        total = len(parts) + (push.package is not None)
        self._store.finish_plan(push, lease, parts=total, files=files, bytes_=size)
        try:
            self._announcer.parts(push.id, parts)
        except BrokerError as e:
            log.warning("parts not announced, the sweep will", push=str(push.id), error=str(e))
        return None

    def _try_out(self, push: Push, lease: Lease, hold: Hold) -> None:
        """A credential that is new to the destination is tried out before anything is sent. Raises why it will not do."""
        if self._preflight is None or not self._preflight.knows(push.credential_kind):
            return
        self._store.begin_preflight(push, lease)
        report = self._preflight.run(push, hold)
        self._store.record_preflight(push, lease, report)
        if report.error is not None:
            raise report.error

    def _close(self, push: Push, part: Part, lease: Lease, hold: Hold) -> State:
        """Execute the closing part: make what is written beside the data, and deliver it like any other files."""
        with TemporaryDirectory(prefix="cloudpush-package-") as name:
            directory = Path(name)

            def files() -> Sequence[PlannedFile]:
                if part.strikes >= self._policy.strikes:
                    raise _worker_lost()
                if push.cancelled:
                    raise Cancelled
                made = write_package(push, part.first, directory, lambda: _checked(self._store.arrived(part), hold))
                self._store.add_files(part, lease, made)
                return self._take_up(push, part, lease)

            return self._execute(replace(push, source=directory), part, lease, hold, files)

    def _take_up(self, push: Push, part: Part, lease: Lease) -> Sequence[PlannedFile]:
        """The files of an announced part that have no verdict yet."""
        if part.strikes >= self._policy.strikes:
            # A part that takes its worker with it each time is ended by the next one, unexecuted.
            raise _worker_lost()
        files = self._store.open_files(part)
        if files:  # a part of refusals alone needs no secret, and waits for none
            self._store.record_credential_use(push, part, lease)
        return files

    def _execute(
        self, push: Push, part: Part, lease: Lease, hold: Hold, files: Callable[[], Sequence[PlannedFile]]
    ) -> State:
        results: Sequence[FileResult] = ()
        # What was opened is closed when the verdict is out: nobody waits for rclone to forget.
        with ExitStack() as opened:
            trip = opened.enter_context(self._courier(push).trip(push, part, lease, hold))
            try:
                verdict, results = self._deliver(trip, push, part, lease, hold, files(), opened)
            except Exception as e:  # noqa: BLE001 -- the verdict is where every failure ends
                verdict = self._fate(e, push, part.strikes)
            if verdict.state in (State.FAILED, State.CANCELLED):
                results = self._give_up(trip, part, results, verdict)
            state = self._store.end_part(push, part, lease, verdict, results)
            if state.final:
                self._announcer.ended(push.id, state)
            elif push.package is not None and not part.closing:
                self._announce_closing(push)
        return state

    def _announce_closing(self, push: Push) -> None:
        """Where that was the last of the data, the closing part is due."""
        try:
            due = self._store.closing_due(push.id)
            if due is not None:
                self._announcer.parts(push.id, [due])
        except (BrokerError, StoreError) as e:
            log.warning("closing part not announced, the sweep will", push=str(push.id), error=str(e))

    def _deliver(
        self,
        trip: Trip,
        push: Push,
        part: Part,
        lease: Lease,
        hold: Hold,
        files: Sequence[PlannedFile],
        opened: ExitStack,
    ) -> tuple[Verdict, Sequence[FileResult]]:
        """Set out, then send, verify and record batch by batch.

        Returns the last batch's results with the verdict: they are stored together, one transaction less.
        """
        if not files:
            return Verdict(State.SUCCEEDED), ()
        trip.set_out(files)
        lanes = opened.enter_context(ThreadPoolExecutor(LANES, "lane"))
        errors: list[CloudPushError] = []
        last: Sequence[FileResult] = ()
        with hold.reporting(trip.progress):
            try:
                for results in _in_lanes(lanes, trip, files):
                    self._store.record_files(part, lease, last)
                    last = results
                    errors += [r.error for r in results if r.error is not None and r.state is FileState.PLANNED]
            except Exception:
                self._store.record_files(part, lease, last)
                raise
        if not errors:
            return Verdict(State.SUCCEEDED), last
        # What may pass is tried again before anybody waits for a user: what waits comes up again then.
        passing = (e for e in errors if e.code.retryable)
        return self._fate(next(passing, errors[0]), push, part.strikes), last

    def _give_up(self, trip: Trip, part: Part, results: Sequence[FileResult], verdict: Verdict) -> Sequence[FileResult]:
        """``results``, with what the files that will not arrive leave behind at the destination."""
        ended = {r.seq for r in results if r.state is not FileState.PLANNED}
        try:
            left = trip.give_up(lambda: [f for f in self._store.open_files(part) if f.seq not in ended], verdict)
        except LeaseLost:
            raise
        except Exception as e:  # noqa: BLE001 -- a verdict that tidying up holds back would never be written
            log.error("nothing tidied up", push=str(part.push_id), part=part.number, traceback=traceback_of(e))  # noqa: TRY400 -- it would show local variables
            return results
        told = {r.seq for r in left}
        return [*(r for r in results if r.seq not in told), *left]

    def _courier(self, push: Push) -> Courier:
        courier = self._couriers.get(push.credential_kind)
        if courier is None:
            raise CloudPushError(
                Code.INTERNAL, f"This worker carries nothing with a credential of kind {push.credential_kind!r}."
            )
        return courier

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


def _worker_lost() -> CloudPushError:
    return CloudPushError(Code.WORKER_LOST, "Its worker vanished and it ran out of attempts.")


def _checked(found: Iterable[Arrived], hold: Hold) -> Iterator[Arrived]:
    """``found``, with a look every now and then whether to go on."""
    for n, f in enumerate(found):
        if n % CHECK_EVERY == 0:
            hold.check()
        yield f


@contextmanager
def _losing_quietly(push: Push) -> Iterator[None]:
    """A lost lease ends the execution here and nothing else: somebody else has taken over."""
    try:
        yield
    except LeaseLost as e:
        log.warning("lease lost, stopping", push=str(push.id), error=str(e))


def _in_lanes(pool: ThreadPoolExecutor, trip: Trip, files: Sequence[PlannedFile]) -> Iterator[list[FileResult]]:
    """Results batch by batch, ``LANES`` batches under way at once; a single batch needs no thread.

    When a batch raises, what the others still bring is yielded first: it was sent and seen.
    """
    groups = list(batches(files, max_files=BATCH_FILES, max_bytes=BATCH_BYTES))
    if len(groups) <= 1:
        yield from map(trip.batch, groups)
        return
    waiting = iter(groups)
    flying: list[Future[list[FileResult]]] = [pool.submit(trip.batch, g) for g in islice(waiting, LANES)]
    failure: Exception | None = None
    while flying:
        future = flying.pop(0)
        try:
            results = future.result()
        except Exception as e:  # noqa: BLE001 -- raised below, once the other lanes have been heard
            failure = failure or e
            continue
        if failure is None and (group := next(waiting, None)) is not None:
            flying.append(pool.submit(trip.batch, group))
        yield results
    if failure is not None:
        raise failure
