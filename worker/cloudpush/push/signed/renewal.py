"""Fresh URLs while a part runs: what a callback answers is used only for the very objects that were asked about."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from urllib.parse import urlsplit

from cloudpush.errors import Code, CredentialError, DestinationError, InputError
from cloudpush.logs import get_logger
from cloudpush.push.job import Destination, Lease, Part, Push
from cloudpush.push.ports import Clock, Control, Vault
from cloudpush.push.signed.model import RESIGN_HOOK, Kind, Need, Provider, Ticket
from cloudpush.push.signed.ports import Hook, SheetStore
from cloudpush.push.uris import key_below

log = get_logger(__name__)

#: Files that one question to a callback names.
ASKED_AT_ONCE = 500
#: A callback that failed is left alone for so long.
REST = timedelta(seconds=5)
#: A fresh URL that lives no longer than this is not worth a request.
WORTHWHILE = timedelta(seconds=5)
#: Seconds between two looks at whether the push goes on, while another thread asks.
LOOK_SECONDS = 0.25

#: Whose protocols lead into a destination's buckets: Google's take S3's requests, too.
_PROVIDERS: Mapping[str, frozenset[Provider]] = {
    "s3": frozenset({Provider.S3}),
    "gs": frozenset({Provider.GCS, Provider.S3}),
    "az": frozenset({Provider.AZURE}),
}


def same_object(key: str, destination: Destination, endpoint: str, ticket: Ticket, kind: Kind | None = None) -> None:
    """Raise InputError BAD_MANIFEST unless ``ticket`` leads to the object ``key`` of a push to ``destination``.

    ``endpoint``: the origin that all URLs of the push lead to. ``kind``: how the file is sent so far; None where that
    is not known or may change. A TREE must open the directory that the push goes to.
    """
    url = ticket.url
    if url.origin.url != endpoint:
        raise _elsewhere(key, f"to {url.origin.url} instead of {endpoint}")
    if url.provider not in _PROVIDERS.get(destination.scheme, frozenset(Provider)):
        raise _elsewhere(key, f"with the protocol {url.provider} into {destination.scheme}://")
    if url.bucket != destination.bucket:
        raise _elsewhere(key, f"into the bucket {url.bucket!r} instead of {destination.bucket!r}")
    if ticket.kind is Kind.TREE:
        if ticket.key.strip("/") != destination.prefix:
            raise _elsewhere(key, f"to the directory {ticket.key!r} instead of {destination.prefix!r}")
    elif ticket.key != key:
        raise _elsewhere(key, f"to {ticket.key!r}")
    if kind is not None and ticket.kind is not kind:
        raise _elsewhere(key, f"as {ticket.kind} instead of {kind}")


def _elsewhere(key: str, where: str) -> InputError:
    return InputError(Code.BAD_MANIFEST, f"The fresh URL for {key!r} leads {where}: sign it for the same object.")


@dataclass(frozen=True, slots=True)
class Callback:
    """What asking a registered callback takes. ``read``: a row of its answer → Ticket; raises InputError."""

    hook: Hook
    vault: Vault
    store: SheetStore
    clock: Clock
    read: Callable[[Mapping[str, object]], Ticket]


@dataclass(eq=False, slots=True)
class _Question:
    """A file that one or more threads want a fresh ticket for. ``kind``: what the answer must be, if that matters."""

    need: Need
    kind: Kind | None
    insist: bool = False  # also of a callback that is left alone
    answered: bool = False
    ticket: Ticket | None = field(default=None, repr=False)


class HookRenewals:
    """``push.signed.ports.Renewals`` of one attempt of a part. Thread-safe.

    Threads that want the same ticket at the same time share one answer, and what others want meanwhile is asked for
    together. Each question is an event of the push.
    """

    def __init__(self, push: Push, part: Part, lease: Lease, callback: Callback) -> None:
        self._push = push
        self._part = part
        self._lease = lease
        self._callback = callback
        self._turn = threading.Condition()
        self._open: dict[tuple[Need, Kind | None], _Question] = {}  # in the order of asking
        self._asking = False
        #: Why the callback could not be asked the last time it was tried; it may be well again later.
        self.trouble: DestinationError | None = None
        self._rests_until = callback.clock.now()

    def fresh(self, needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        """Fresh tickets by seq, each to be used as the one that it replaces.

        Raises Cancelled, LeaseLost, VaultError, StoreError; never for what the callback did.
        """
        asked = {need.seq: _whole_tree(self._push) if need.kind is Kind.TREE else need for need in needs}
        return self._fresh({seq: _Question(need, need.kind) for seq, need in asked.items()}, control)

    def replacements(self, needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        """Tickets for files whose own are gone, so that nobody knows of which kind they were. Raises as ``fresh``."""
        found = self._fresh({need.seq: _Question(need, None) for need in needs}, control)
        if found or not _may_be_a_tree(self._push, needs):
            return found
        # What was destroyed may have been one SAS for all of them.
        tree = _whole_tree(self._push)
        return self._fresh({need.seq: _Question(tree, Kind.TREE, insist=True) for need in needs}, control)

    def _fresh(self, questions: dict[int, _Question], control: Control) -> Mapping[int, Ticket]:
        if self._push.hook_id is None or not questions:
            return {}
        with self._turn:  # who asks the same already is joined
            mine = {seq: self._open.setdefault((q.need, q.kind), q) for seq, q in questions.items()}
        while batch := self._my_turn(mine.values(), control):
            self._ask(batch, control)
        return {seq: q.ticket for seq, q in mine.items() if q.ticket is not None}

    def _my_turn(self, mine: Iterable[_Question], control: Control) -> list[_Question]:
        """What to ask next; nothing once all of ``mine`` is answered. One thread asks at a time."""
        with self._turn:
            while not all(q.answered for q in mine):
                control.check()
                if not self._asking:
                    self._asking = True
                    by_path: dict[str, _Question] = {}
                    for q in self._open.values():
                        if len(by_path) == ASKED_AT_ONCE:
                            break
                        by_path.setdefault(q.need.path, q)
                    return list(by_path.values())
                self._turn.wait(LOOK_SECONDS)
            return []

    def _ask(self, batch: Sequence[_Question], control: Control) -> None:
        """Answer every question of ``batch``, if only by having none."""
        tickets: Mapping[str, Ticket] = {}
        try:
            if self._callback.clock.now() >= self._rests_until or any(q.insist for q in batch):
                tickets = self._answers(batch, control)
        finally:
            with self._turn:
                for q in batch:
                    q.ticket, q.answered = tickets.get(q.need.path), True
                    self._open.pop((q.need, q.kind), None)
                self._asking = False
                self._turn.notify_all()

    def _answers(self, batch: Sequence[_Question], control: Control) -> Mapping[str, Ticket]:
        """Usable tickets by path; none where the callback failed."""
        tickets: dict[str, Ticket] = {}
        host = error = ""
        trouble: DestinationError | None = None
        try:
            fields = self._unsealed()
            host = _host(fields["url"])
            rows = self._callback.hook.ask(fields, self._push, [q.need for q in batch], control)
            tickets, error = self._usable(batch, rows)
        except (DestinationError, InputError, CredentialError) as e:
            # What is left goes up: Cancelled, LeaseLost, and our own Vault's troubles, after which the part tries again.
            error = str(e)
            trouble = e if isinstance(e, DestinationError) and e.code.retryable else None
            self._rests_until = self._callback.clock.now() + REST
        self.trouble = trouble
        if error:
            log.warning("fresh URLs missing", push=str(self._push.id), asked=len(batch), got=len(tickets), error=error)
        self._callback.store.note_resign(self._push, self._part, self._lease, len(batch), len(tickets), host, error)
        return tickets

    def _unsealed(self) -> Mapping[str, str]:
        assert self._push.hook_id is not None  # noqa: S101 -- asked for by _fresh
        return self._callback.vault.unseal(self._push.hook_id, self._push.owner, RESIGN_HOOK).reveal()

    def _usable(self, batch: Sequence[_Question], rows: Iterable[object]) -> tuple[dict[str, Ticket], str]:
        """The tickets that will do, by path, and what is wrong with the first that will not."""
        asked = {q.need.path: q for q in batch}
        tickets: dict[str, Ticket] = {}
        wrong = ""
        for row in rows:
            try:
                ticket = self._read(row, asked)
                self._check(ticket, asked.get(ticket.path))
            except InputError as e:
                wrong = wrong or str(e)
            else:
                tickets[ticket.path] = ticket
        return tickets, wrong

    def _read(self, row: object, asked: Mapping[str, _Question]) -> Ticket:
        if not isinstance(row, Mapping):
            raise InputError(Code.BAD_MANIFEST, "A row of the answer is no object.")
        if len(asked) == 1 and not row.get("path"):
            (path,) = asked  # the only file there is needs no name
            ticket = self._callback.read({**row, "path": path} if path else row)
            return replace(ticket, path=path)
        return self._callback.read(row)

    def _check(self, ticket: Ticket, question: _Question | None) -> None:
        if question is None:
            raise InputError(Code.BAD_MANIFEST, "A row of the answer is for a file that was not asked for.")
        need = question.need
        same_object(need.key, self._push.destination, self._push.endpoint, ticket, question.kind)
        if ticket.expires_at is not None and ticket.expires_at <= self._callback.clock.now() + WORTHWHILE:
            raise InputError(
                Code.URL_EXPIRED, f"The fresh URL for {need.key!r} ends at {ticket.expires_at:%Y-%m-%d %H:%M:%S} UTC."
            )


def _whole_tree(push: Push) -> Need:
    """One SAS opens the directory for every file: it is asked for once."""
    return Need(1, "", push.destination.prefix, Kind.TREE)


def _may_be_a_tree(push: Push, needs: Sequence[Need]) -> bool:
    """Whether these files lie at the destination as they lie at the source, as a SAS for all of them makes it."""
    return push.destination.scheme == "az" and all(n.key == key_below(push.destination, n.path) for n in needs)


def _host(url: str) -> str:
    """What events may say of a callback's address."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
