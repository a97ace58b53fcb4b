"""Carries with signed URLs: the files are the manifest's rows, and no secret of an account is anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cloudpush.push.couriers import Trip
from cloudpush.push.job import Lease, Part, PlannedFile, Push, Refusal
from cloudpush.push.ports import Control
from cloudpush.push.signed.book import TicketBook
from cloudpush.push.signed.delivery import Kit, UrlTrip
from cloudpush.push.signed.planning import find


class UrlCourier:
    """``push.couriers.Courier`` of pushes whose credential is a set of signed URLs."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def find(self, push: Push) -> Iterator[PlannedFile | Refusal]:
        """The rows of the manifest, or what lies below the source where one SAS opens a directory for it."""
        return find(push, TicketBook.of(push, self._kit.safe, self._kit.sheets, 1, None), self._kit.roots)

    @contextmanager
    def trip(self, push: Push, part: Part, lease: Lease, control: Control) -> Iterator[Trip]:
        """See :class:`cloudpush.push.couriers.Courier`."""
        with ExitStack() as opened:
            yield UrlTrip(self._kit, push, part, lease, control, opened)
