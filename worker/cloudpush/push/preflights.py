"""Preflights on demand: somebody asks, a worker tries, the answer is kept.

The doors store the question; the hands of some worker take it up, as with chores about grants. Whoever does it twice does
no harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from cloudpush.errors import CloudPushError, Code, InputError, StoreError
from cloudpush.logs import get_logger, traceback_of
from cloudpush.push.admission import CredentialCard, check_card, check_share, profile_of
from cloudpush.push.endpoints import check_credential
from cloudpush.push.guard import check_endpoint
from cloudpush.push.job import Destination, Push, Request
from cloudpush.push.ports import Clock
from cloudpush.push.preflight import WANTS, Preflight, Report
from cloudpush.push.states import Overwrite, Strength

log = get_logger(__name__)

#: Seconds between two looks while somebody waits for an answer.
LOOK_SECONDS = 0.2
#: Seconds after which a preflight is given up.
TRIAL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Asked:
    """A preflight, as whoever asked sees it. ``checks``: as :meth:`Check.told` tells them."""

    id: UUID
    owner: str
    actor: str
    push_id: UUID | None
    credential_id: UUID
    credential_kind: str
    uri: str
    profile: str
    wants: Sequence[str]
    state: str
    checks: Sequence[Mapping[str, Any]]
    created_at: datetime
    finished_at: datetime | None
    error_code: str | None
    error_message: str | None

    @property
    def over(self) -> bool:
        """Whether it has its answer."""
        return self.finished_at is not None


@dataclass(frozen=True, slots=True)
class Trial:
    """A preflight, as a worker takes it up. ``refused``: why its credential may not be used. ``lost``: for too long now."""

    id: UUID
    owner: str
    uri: str
    profile: str
    credential_id: UUID
    credential_kind: str
    wants: tuple[str, ...]
    created_at: datetime
    credential_owner: str = ""
    refused: CloudPushError | None = None
    lost: bool = False


class PreflightStore(Protocol):
    """Postgres. Every call is one transaction that appends its events. Raises StoreError."""

    def add(self, owner: str, actor: str, card: CredentialCard, destination: Destination, wants: Sequence[str]) -> UUID:
        """Store a question; its id."""

    def get(self, preflight_id: UUID) -> Asked | None:
        """One of them."""

    def find(self, owner: str | None, limit: int, before: UUID | None) -> Sequence[Asked]:
        """Those of ``owner`` (None: of all), newest first; ``before``: those that come after that one in this order."""

    def begin(self, preflight_id: UUID, worker: str) -> Trial | None:
        """What was taken up, and the use of its credential is recorded; None where it is over."""

    def end(self, preflight_id: UUID, report: Report, error: CloudPushError | None, worker: str) -> bool:
        """Store what came of it; False where somebody else did."""


class Cards(Protocol):
    """Where credentials are looked up: ``push.intake.Desk``."""

    def credential(self, reference: str, owner: str) -> CredentialCard | None:
        """See ``push.intake.Desk``."""


class Preflights:
    """The doors' side: ask, show, list, wait."""

    def __init__(
        self,
        *,
        store: PreflightStore,
        cards: Cards,
        clock: Clock,
        parse: Callable[[str, str], Destination],
        allowed_endpoints: Collection[str],
    ) -> None:
        self._store = store
        self._cards = cards
        self._clock = clock
        self._parse = parse
        self._allowed = allowed_endpoints

    def ask(
        self, owner: str, actor: str, destination: str, credential: str, *, profile: str = "", wants: Sequence[str] = ()
    ) -> Asked:
        """Have a worker try out whether ``credential`` reaches ``destination``, and how far.

        ``wants``: ``delete``, ``abort``: whether these are to be possible, too. Raises InputError, CredentialError as a
        submission does; StoreError.
        """
        unknown = [want for want in wants if want not in WANTS]
        if unknown:
            raise InputError(Code.BAD_INPUT, f"wants {unknown[0]!r} is none of {', '.join(WANTS)}.", field="wants")
        card = self._cards.credential(credential, owner)
        if card is None:
            raise InputError(
                Code.UNKNOWN_CREDENTIAL,
                f"credential {credential!r} is not known for owner {owner!r}.",
                field="credential",
            )
        now = self._clock.now()
        request = Request(owner, actor, "/", destination, credential, profile)
        check_card(card, request, now)
        where = self._parse(destination, profile_of(card, request))
        check_credential(where, card.kind)
        check_share(card, request, where, now)
        if card.endpoint:
            check_endpoint(card.endpoint, self._allowed)
        return self.show(self._store.add(owner, actor, card, where, sorted(set(wants))), owner)

    def show(self, preflight_id: UUID, owner: str | None) -> Asked:
        """One of ``owner``'s (None: anybody's). Raises InputError UNKNOWN_PREFLIGHT."""
        found = self._store.get(preflight_id)
        if found is None or owner not in (None, found.owner):
            raise InputError(Code.UNKNOWN_PREFLIGHT, f"preflight {preflight_id} is not known.", field="preflight")
        return found

    def list(self, owner: str | None, *, limit: int = 50, before: UUID | None = None) -> Sequence[Asked]:
        """Those of ``owner`` (None: of all), newest first; ``before``: the last one of the page before this."""
        return self._store.find(owner, limit, before)

    def wait(self, preflight_id: UUID, owner: str | None, seconds: float) -> Asked:
        """As ``show``, once it has its answer, or after so many seconds."""
        until = time.monotonic() + seconds
        while not (found := self.show(preflight_id, owner)).over and time.monotonic() < until:
            time.sleep(min(LOOK_SECONDS, max(until - time.monotonic(), 0.0)))
        return found


class Trying:
    """The worker's side: does what was asked. Implements ``push.grants.hands.Attending``."""

    def __init__(
        self,
        *,
        store: PreflightStore,
        preflight: Preflight,
        parse: Callable[[str, str], Destination],
        worker: str,
    ) -> None:
        self._store = store
        self._preflight = preflight
        self._parse = parse
        self._worker = worker

    def attend(self, preflight_id: UUID) -> int:
        """Try it out; 1 where it was ours to do. Raises StoreError: it is taken up again."""
        trial = self._store.begin(preflight_id, self._worker)
        if trial is None:
            return 0
        report, error = Report(), trial.refused
        if error is None:
            try:
                report = self._try(trial)
                error = report.error
            except StoreError:
                raise
            except CloudPushError as e:
                error = e
            except Exception as e:  # noqa: BLE001 -- one that is never ended would be taken up for ever
                log.error("defect", preflight=str(preflight_id), traceback=traceback_of(e))  # noqa: TRY400 -- it would show local variables
                error = CloudPushError(Code.INTERNAL, f"{type(e).__name__} inside CloudPush.")
        self._store.end(preflight_id, report, error, self._worker)
        return 1

    def _try(self, trial: Trial) -> Report:
        if trial.lost:
            raise CloudPushError(
                Code.WORKER_LOST, "No worker gave an answer within an hour: they vanished, or were none."
            )
        if not self._preflight.knows(trial.credential_kind):
            raise InputError(
                Code.BAD_INPUT, f"There is no preflight with a credential of kind {trial.credential_kind}."
            )
        stands_for = Push(
            id=trial.id,
            owner=trial.owner,
            source=Path("/"),
            destination=self._parse(trial.uri, trial.profile),
            credential_id=trial.credential_id,
            credential_kind=trial.credential_kind,
            # Which strength a push will demand is not known: that nothing may be seen is an answer of its own.
            min_strength=Strength.SIZE,
            overwrite=Overwrite.IF_DIFFERENT,
            created_at=trial.created_at,
            credential_owner=trial.credential_owner,
        )
        return self._preflight.run(stands_for, _Deadline(TRIAL_SECONDS), trial.wants)


class _Deadline:
    """A Control that ends."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._seconds = seconds

    def check(self) -> None:
        """See ``push.ports.Control``."""
        if time.monotonic() > self._until:
            raise CloudPushError(Code.NETWORK, f"The destination gave no answer within {self._seconds:.0f} s.")
