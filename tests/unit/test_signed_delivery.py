"""One part's trip with signed URLs: its tickets, its journal, and what an attempt leaves to the next. The rest is told
in test_signed_lifecycle."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from builders import OWNER, a_lease, a_piece, cancelled
from cloudpush.errors import Cancelled, CloudPushError, Code, CredentialError, LeaseLost, StoreError, VaultError
from cloudpush.push.job import Lease, Page, Part, Push
from cloudpush.push.signed.book import TicketBook
from cloudpush.push.signed.delivery import UrlTrip
from cloudpush.push.signed.journal import SESSION_SECONDS, Entry, PartJournal
from cloudpush.push.signed.model import Kind, Piece, Provider, SheetCard
from cloudpush.push.signed.sheets import encode
from cloudpush.push.states import FileState
from fakes_inspector import GoOn
from fakes_uploader import HOOK, PREFIX, SIGNATURE, SignedWorld, a_ticket, a_url, openings, planned

AWAY = StoreError(Code.DATABASE_UNREACHABLE, "away")


class Stage:
    """A push of two files in the middle of its only part."""

    def __init__(self, source: Path) -> None:
        self.world = SignedWorld(source)
        self.world.write("a", "b")
        self.push = self.world.hand_over(a_ticket("a"), a_ticket("b", Kind.RESUMABLE))
        self.lease = a_lease()
        self.part = Part(self.push.id, 1, 1, 2, 2, 2)
        claimed = self.world.store.claim_push(self.push.id, self.lease)
        assert claimed is not None
        self.files = [planned(source, 1, "a"), planned(source, 2, "b")]
        self.world.store.finish_plan_with(claimed, self.lease, Page(self.part, tuple(self.files)))

    def journal(self, gather: float = 3600) -> PartJournal:
        """One that stores nothing by itself in the time of a test."""
        entry = Entry(self.push, self.part, self.lease)
        return PartJournal(entry, self.world.store, self.world.vault, gather)

    def trip(self, opened: ExitStack, *, push: Push | None = None, part: Part | None = None) -> UrlTrip:
        """The part's trip, not begun."""
        return UrlTrip(self.world.kit, push or self.push, part or self.part, self.lease, GoOn(), opened)

    def pieces(self) -> list[tuple[int, int]]:
        """What is stored: (seq, number)."""
        return [(p.seq, p.number) for p in self.world.store.pieces(self.part)]

    def lose(self) -> Lease:
        """Another worker takes the part."""
        self.world.clock.advance(31)
        lease = a_lease()
        assert self.world.store.claim_part(self.push.id, 1, lease) is not None
        return lease


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


# -- the journal -----------------------------------------------------------------------------------


def test_pieces_are_stored_without_being_asked_for(stage: Stage) -> None:
    """By a thread of its own, together with what came meanwhile."""
    stored = threading.Event()
    stage.world.store.during["record_pieces"] = stored.set
    with stage.journal(gather=0) as journal:
        journal.arrived(a_piece(1, 1))
        assert stored.wait(10)
        journal.flush()  # waits for the one that is under way

        assert stage.pieces() == [(1, 1)]


def test_pieces_wait_for_others(stage: Stage) -> None:
    """Ten parts are one transaction."""
    with stage.journal() as journal:
        for number in range(1, 11):
            journal.arrived(a_piece(1, number))
        before = stage.pieces()
        journal.flush()

        assert (before, len(stage.pieces()), stage.world.store.calls["record_pieces"]) == ([], 10, 1)


def test_a_journal_without_pieces_has_no_thread(stage: Stage) -> None:
    """Most parts have none."""
    with stage.journal() as journal:
        journal.flush()

        assert (journal._thread, stage.world.store.calls["record_pieces"]) == (None, 0)


def test_closing_a_journal_waits_for_nothing(stage: Stage) -> None:
    """Its thread ends at once, although pieces would wait for an hour."""
    with stage.journal() as journal:
        journal.arrived(a_piece(1))
        thread = journal._thread

    assert thread is not None
    assert not thread.is_alive()


def test_pieces_that_could_not_be_stored_are_stored_later(stage: Stage) -> None:
    """A database that is away for a moment costs nothing."""
    with stage.journal() as journal:
        journal.arrived(a_piece(1, 1))
        stage.world.store.failing = AWAY
        with pytest.raises(StoreError):
            journal.flush()
        stage.world.store.failing = None
        journal.arrived(a_piece(1, 2))
        journal.flush()

        assert stage.pieces() == [(1, 1), (1, 2)]


def test_a_journal_goes_on_after_an_outage_by_itself(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread tries again."""
    stored = threading.Event()
    record, answers = stage.world.store.record_pieces, iter([AWAY])

    def answer(part: Part, lease: Lease, pieces: Sequence[Piece]) -> None:
        if error := next(answers, None):
            raise error
        record(part, lease, pieces)
        stored.set()

    monkeypatch.setattr(stage.world.store, "record_pieces", answer)
    with stage.journal(gather=0) as journal:
        journal.arrived(a_piece(1))

        assert (stored.wait(10), stage.pieces()) == (True, [(1, 1)])


def test_a_journal_whose_lease_is_lost_says_so(stage: Stage) -> None:
    """At the next piece: another worker sends them."""
    stage.lose()
    with stage.journal(gather=0) as journal:
        journal.arrived(a_piece(1, 1))
        assert journal._thread is not None
        journal._thread.join(10)

        with pytest.raises(LeaseLost):
            journal.arrived(a_piece(1, 2))
    assert stage.pieces() == []


def test_a_session_is_sealed_before_its_first_byte(stage: Stage) -> None:
    """In the push's set, which is kept as long as the session lives."""
    found = stage.world.store.set_of(stage.push.credential_id)
    found.purge_after = stage.world.clock.now()
    with stage.journal() as journal:
        journal.began(2, f"https://x/{SIGNATURE}")

    ((set_id, card),) = stage.world.store.sessions(stage.part)
    sealed = stage.world.vault.open_sheet(set_id, OWNER, card.number)
    assert (set_id, SIGNATURE.encode() in sealed, SIGNATURE in repr(stage.world.store.__dict__)) == (
        stage.push.credential_id,
        True,
        False,
    )
    assert (found.purge_after - stage.world.clock.now()).total_seconds() == SESSION_SECONDS


def test_a_session_that_cannot_be_sealed_is_not_begun(stage: Stage) -> None:
    """Its first byte would be lost with the worker; a reserved block without content is no session."""
    stage.world.vault.go_away()
    with stage.journal() as journal, pytest.raises(VaultError):
        journal.began(2, "https://x/y")
    stage.world.vault.come_back()

    book = TicketBook.of(stage.push, stage.world.vault, stage.world.store, 1, 2, stage.world.store.sessions(stage.part))
    assert (journal.sessions, book.leaf([2]).sessions) == ({}, {})


def test_an_upload_that_is_gone_leaves_nothing_to_go_on_with(stage: Stage) -> None:
    """Neither stored pieces nor those that wait, nor its session; other files keep theirs."""
    with stage.journal() as journal:
        journal.began(2, "https://x/y")
        journal.arrived(a_piece(2, 1))
        journal.arrived(a_piece(1, 1))
        journal.flush()
        journal.arrived(a_piece(2, 2))
        journal.lost(2)
        journal.flush()
        journal.resume({2: "https://x/y"})

        assert (stage.pieces(), stage.world.store.sessions(stage.part), journal.sessions, journal.touched) == (
            [(1, 1)],
            [],
            {},
            {1},
        )


# -- the book ----------------------------------------------------------------------------------------


def test_a_book_opens_only_the_sheets_that_are_asked_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vault answers two requests for each."""
    push = stage.world.hand_over(*(a_ticket(f"f{n}") for n in range(10)))
    book = TicketBook.of(push, stage.world.vault, stage.world.store, 1, 10)
    opened = openings(stage.world, monkeypatch)

    leaf = book.leaf([4, 5])

    assert (opened, {seq: t.path for seq, t in leaf.tickets.items()}) == ([2, 3], {4: "f3", 5: "f4"})


def test_a_sheet_of_several_blocks_is_read_as_one(stage: Stage) -> None:
    """One that was not stored to its end is nobody's."""
    ticket = a_ticket("a", Kind.MULTIPART, parts=tuple(f"https://x/{os.urandom(64).hex()}" for _ in range(10_000)))
    blocks = encode([(1, ticket)])
    set_id = uuid4()
    for number, block in enumerate(blocks, 1):
        stage.world.vault.seal_sheet(set_id, OWNER, number, block)
    cards = [SheetCard(n, 1, 1, n, len(blocks)) for n in range(1, len(blocks) + 1)]

    whole, head, tail = (
        TicketBook(stage.world.vault, OWNER, set_id, c).leaf([1]).tickets for c in (cards, cards[:-1], cards[1:])
    )

    assert (len(blocks) > 1, whole, head, tail) == (True, {1: ticket}, {}, {})


def test_blocks_that_changed_places_are_corrupt(stage: Stage) -> None:
    """Each is sealed for its number."""
    other = stage.world.seal([a_ticket("x"), a_ticket("y"), a_ticket("z")])
    sealed = stage.world.vault.sheets
    sealed[other, 1], sealed[other, 2] = sealed[other, 2], sealed[other, 1]
    book = TicketBook(stage.world.vault, OWNER, other, stage.world.store.set_of(other).cards)

    with pytest.raises(CredentialError) as e:
        book.leaf([1])

    assert e.value.code is Code.CREDENTIAL_CORRUPT


# -- the trip ----------------------------------------------------------------------------------------


def test_a_trip_that_was_not_begun_gives_nothing_up(stage: Stage) -> None:
    """The first attempt of a part that is cancelled before it sets out unseals nothing."""
    stage.world.vault.go_away()
    with ExitStack() as opened:
        trip = stage.trip(opened)

        assert (trip.give_up(lambda: stage.files, cancelled()), stage.world.uploader.groups) == ([], [])


def test_an_upload_under_way_is_aborted_even_while_vault_is_away(stage: Stage) -> None:
    """Its URLs are in memory; nothing of it had arrived yet."""
    multi = stage.world.hand_over(a_ticket("a", Kind.MULTIPART), a_ticket("b"))
    stage.world.store._rows[stage.push.id].renewals.append(multi.credential_id)
    files = [planned(stage.world.source, 1, "a")]
    with ExitStack() as opened:
        trip = stage.trip(opened, push=replace(stage.push, credential_id=multi.credential_id))
        stage.world.uploader.failing = Cancelled()
        with pytest.raises(Cancelled):
            trip.batch(files)
        stage.world.vault.go_away()

        assert (trip.give_up(lambda: files, cancelled()), stage.world.uploader.aborted) == ([], ["a"])


def test_what_arrived_before_a_failure_is_stored(stage: Stage) -> None:
    """A batch that fails as a whole keeps its pieces for the next attempt."""
    multi = stage.world.hand_over(a_ticket("a", Kind.MULTIPART), a_ticket("b"))
    stage.world.store._rows[stage.push.id].renewals.append(multi.credential_id)
    stage.world.write("a", data=b"aaaabbbb")
    files = [planned(stage.world.source, 1, "a")]
    with ExitStack() as opened:
        trip = stage.trip(opened, push=replace(stage.push, credential_id=multi.credential_id))
        trip.set_out(files)

        def fail(name: str) -> None:
            if name == "a#2":
                raise CloudPushError(Code.NETWORK, "reset")

        stage.world.uploader.during = fail
        with pytest.raises(CloudPushError):
            trip.batch(files)

    assert stage.pieces() == [(1, 1)]


def test_a_first_attempt_asks_for_no_pieces(stage: Stage) -> None:
    """There are none, and most parts have one attempt."""
    with ExitStack() as opened:
        trip = stage.trip(opened)
        trip.set_out(stage.files)
        results = trip.batch(stage.files)

    calls = stage.world.store.calls
    assert ([r.state for r in results], calls["pieces"], calls["sessions"], calls["sheets"]) == (
        [FileState.VERIFIED, FileState.VERIFIED],
        0,
        0,
        1,
    )


def test_a_trip_tells_how_far_it_is(stage: Stage) -> None:
    """As the uploader does."""
    with ExitStack() as opened:
        trip = stage.trip(opened)
        trip.set_out(stage.files)
        trip.batch(stage.files)

        assert trip.progress() == stage.world.uploader.progress()


# -- one SAS for all -----------------------------------------------------------------------------------


class Tree(Stage):
    """A push of two files with one SAS, in the middle of its only part; a callback is registered."""

    def __init__(self, source: Path) -> None:
        super().__init__(source)
        url = a_url(PREFIX, provider=Provider.AZURE)
        self.sas = a_ticket("", Kind.TREE, url=url, expires=self.world.in_an_hour())
        self.world.hook.rows = lambda needs: [{"ticket": replace(self.sas, expires_at=None)}]
        destination = replace(self.push.destination, scheme="az")
        self.push = replace(self.push, hook_id=HOOK, destination=destination)
        self._sets = self.world.store._rows[self.push.id].renewals
        self.hand_over()

    def hand_over(self) -> None:
        """The newest set is this SAS."""
        self._sets.append(self.world.seal([self.sas]))
        self.push = replace(self.push, credential_id=self._sets[-1])


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_sas_that_was_renewed_serves_the_batches_that_follow(tree: Tree) -> None:
    """One question for the whole part."""
    tree.world.clock.advance(3600)
    with ExitStack() as opened:
        trip = tree.trip(opened)
        trip.set_out(tree.files)
        states = [r.state for f in tree.files for r in trip.batch([f])]

    assert (states, len(tree.world.hook.asked)) == ([FileState.VERIFIED] * 2, 1)


def test_a_sas_is_looked_up_once_for_a_part(tree: Tree) -> None:
    """Whether there is one or not."""
    with ExitStack() as opened:
        trip = tree.trip(opened, part=replace(tree.part, first=2))
        trip.set_out(tree.files)
        for _ in range(3):
            trip.batch(tree.files[1:])

    assert tree.world.store.calls["sheets"] == 2


def test_a_part_keeps_to_the_set_that_it_set_out_with(tree: Tree) -> None:
    """Another that comes meanwhile is not unsealed without a record of it."""
    with ExitStack() as opened:
        push = replace(tree.push, hook_id=None)
        trip = tree.trip(opened, push=push, part=replace(tree.part, first=2))
        trip.set_out(tree.files)
        tree.hand_over()
        (result,) = trip.batch(tree.files[1:])

    assert (result.state, result.error and result.error.code) == (FileState.PLANNED, Code.URL_EXPIRED)


def test_no_more_is_looked_for_than_once_where_there_is_no_sas(stage: Stage) -> None:
    """Files whose tickets are gone do not have every batch open the first sheet."""
    stage.world.store._rows[stage.push.id].renewals.append(empty := stage.world.seal([]))
    with ExitStack() as opened:
        trip = stage.trip(opened, push=replace(stage.push, credential_id=empty))
        trip.set_out(stage.files)
        codes = [r.error and r.error.code for f in stage.files for r in trip.batch([f])]

    assert (codes, stage.world.store.calls["sheets"]) == ([Code.URL_EXPIRED] * 2, 2)
