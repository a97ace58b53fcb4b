"""Couriers: how the files of a push get to their destination, by the kind of its credential.

::

    find      what the push consists of                     while it is planned
    trip      the way of one part: set out, batch after batch, give up what will not arrive

The story (:mod:`cloudpush.push.lifecycle`) is the same for all of them. :class:`KeyCourier` carries with a secret
that opens the destination to the transfer engine, :class:`GrantCourier` with one that it has renewed on the way,
:mod:`cloudpush.push.signed.courier` with signed URLs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from cloudpush.errors import DestinationError, EngineError
from cloudpush.logs import get_logger
from cloudpush.push.delivery import Delivery
from cloudpush.push.grants.ports import Minter
from cloudpush.push.job import FileResult, Lease, Part, PlannedFile, Progress, Push, Refusal, Verdict
from cloudpush.push.keys import FixedKey, Key, RenewedKey
from cloudpush.push.packages import payload_of, without_tags
from cloudpush.push.ports import Clock, Control, Engine, Inspector, Session, Vault
from cloudpush.push.walk import real_roots, walk

log = get_logger(__name__)

#: Batches of a part that are under way at once: while one is verified the other is sent.
LANES = 2


class Trip(Protocol):
    """The way of one part in one attempt. ``batch`` and ``progress`` may be called from several threads."""

    def set_out(self, files: Sequence[PlannedFile]) -> None:
        """Unseal and make ready to carry ``files``: the part's that have no verdict yet. Called once, first.

        The use of the credential is recorded by then. Raises VaultError, CredentialError, EngineError, Cancelled,
        ConsentRevoked, LeaseLost.
        """

    def batch(self, files: Sequence[PlannedFile]) -> list[FileResult]:
        """Deal with ``files``; one result each, in no particular order.

        A failure that may pass, or that waits for somebody, leaves its file planned. Raises CloudPushError where
        nothing of the batch can succeed, Cancelled, ConsentRevoked, LeaseLost.
        """

    def progress(self) -> Progress:
        """Bytes and files carried so far, and the present speed. Only after ``set_out``."""

    def give_up(self, files: Callable[[], Sequence[PlannedFile]], verdict: Verdict) -> list[FileResult]:
        """The part ends with ``verdict``, FAILED or CANCELLED: tidy up after ``files``, which will not arrive.

        Returns results for those of which something stays behind at the destination, with words that say so. Also
        without ``set_out``, for what an earlier attempt left. Never raises for what a provider answers or where the
        secret cannot be had; raises LeaseLost.
        """


class Courier(Protocol):
    """Carries files with one kind of credential."""

    def find(self, push: Push) -> Iterator[PlannedFile | Refusal]:
        """What ``push`` consists of, numbered in order, in constant memory.

        Raises CloudPushError where the push as a whole cannot be planned.
        """

    def trip(self, push: Push, part: Part, lease: Lease, control: Control) -> AbstractContextManager[Trip]:
        """The trip of ``part``. Opening it asks nobody; leaving the context forgets every secret."""


def root_of(push: Push) -> Path:
    """What the paths of the push's files are relative to."""
    return push.source.parent if push.source.is_file() else push.source


def group_of(part: Part, lease: Lease) -> str:
    """A name for one attempt of a part: no two attempts share it."""
    return f"{part.push_id.hex}-{part.number}-{lease.token.hex[:8]}"


@dataclass(frozen=True, slots=True)
class Visited:
    """``push.preflight.Visit``."""

    key: Key
    session: Session


class EngineCourier(ABC):
    """Carries through the transfer engine, and asks the destination what arrived. What opens it is a subclass's."""

    def __init__(self, *, engine: Engine, inspector: Inspector, clock: Clock, roots: tuple[Path, ...]) -> None:
        self._engine = engine
        self._inspector = inspector
        self._clock = clock
        self._roots = roots

    def find(self, push: Push) -> Iterator[PlannedFile | Refusal]:
        """What lies below the push's source."""
        payload = payload_of(push.destination, push.package)
        found = walk(push.source, self._roots, payload, push.include, push.exclude)
        return found if push.package is None else without_tags(found, push.destination, push.package)

    @contextmanager
    def visit(self, push: Push, group: str, control: Control) -> Iterator[Visited]:
        """The push's destination, opened under the name ``group`` as on a trip. Raises as ``Trip.set_out``."""
        key = self.key(push, control)
        with self._engine.open(push.destination, key.secret(), group) as session, key.kept_valid(session):
            yield Visited(key, session)

    @contextmanager
    def trip(self, push: Push, part: Part, lease: Lease, control: Control) -> Iterator[Trip]:
        """See :class:`Courier`."""
        with ExitStack() as opened:
            yield _EngineTrip(self, push, part, lease, control, opened)

    @abstractmethod
    def key(self, push: Push, control: Control) -> Key:
        """What opens the destination on a trip that goes on while ``control`` lets it. Raises as ``Trip.set_out``."""

    def open(self, key: Key, push: Push, part: Part, lease: Lease, opened: ExitStack) -> Delivery:
        """Open the engine's session; ``opened`` closes it. Raises EngineError."""
        session = opened.enter_context(self._engine.open(push.destination, key.secret(), group_of(part, lease)))
        opened.enter_context(key.kept_valid(session))
        return Delivery(
            push=push,
            root=root_of(push),
            # What is written beside the data was made by ourselves, in a directory of its own.
            roots=real_roots((push.source,) if part.closing else self._roots),
            secret=key.secret,
            session=session,
            inspector=self._inspector,
            control=key,
            helpers=opened.enter_context(ThreadPoolExecutor(LANES, "reader")),
            now=self._clock.now,
        )


class KeyCourier(EngineCourier):
    """Carries with an unsealed secret, which is the same from the beginning of a trip to its end."""

    def __init__(
        self, *, vault: Vault, engine: Engine, inspector: Inspector, clock: Clock, roots: tuple[Path, ...]
    ) -> None:
        super().__init__(engine=engine, inspector=inspector, clock=clock, roots=roots)
        self._vault = vault

    def key(self, push: Push, control: Control) -> Key:
        """See :class:`EngineCourier`."""
        return FixedKey(self._vault.unseal(push.credential_id, push.sealed_for, push.credential_kind), control)


class GrantCourier(EngineCourier):
    """Carries with what a grant gives: short-lived, and renewed while a part is on its way."""

    def __init__(
        self, *, minter: Minter, engine: Engine, inspector: Inspector, clock: Clock, roots: tuple[Path, ...]
    ) -> None:
        super().__init__(engine=engine, inspector=inspector, clock=clock, roots=roots)
        self._minter = minter

    def key(self, push: Push, control: Control) -> Key:
        """See :class:`EngineCourier`."""
        return RenewedKey(partial(self._minter.mint, push), control, self._clock, str(push.id))


class _EngineTrip:
    def __init__(
        self, courier: EngineCourier, push: Push, part: Part, lease: Lease, control: Control, opened: ExitStack
    ) -> None:
        self._courier = courier
        self._push = push
        self._part = part
        self._lease = lease
        self._control = control
        self._opened = opened
        self._key: Key
        self._delivery: Delivery

    def set_out(self, files: Sequence[PlannedFile]) -> None:
        self._key = self._courier.key(self._push, self._control)
        self._delivery = self._courier.open(self._key, self._push, self._part, self._lease, self._opened)
        if self._part.attempt > 1:
            _tidy_up(self._delivery.session, files, self._key)

    def batch(self, files: Sequence[PlannedFile]) -> list[FileResult]:
        return self._key.used(self._delivery.batch, files)

    def progress(self) -> Progress:
        return self._delivery.session.progress()

    def give_up(self, files: Callable[[], Sequence[PlannedFile]], verdict: Verdict) -> list[FileResult]:  # noqa: ARG002 -- the protocol's
        """Nothing stays: the engine aborts what it did not finish, and the next attempt what a killed one left."""
        return []


def _tidy_up(session: Session, files: Sequence[PlannedFile], control: Control) -> None:
    """An attempt that was killed may have left pieces of large files behind, which the user pays for."""
    keys = [f.key for f in files if session.piece_size(f.size) is not None]
    if not keys:
        return
    try:
        log.info("unfinished uploads of an earlier attempt forgotten", uploads=session.abandon(keys, control))
    except (DestinationError, EngineError) as e:
        # Not every credential may list uploads; sending is not to fail for that.
        log.warning("unfinished uploads of an earlier attempt may be left", keys=len(keys), error=str(e))
