"""Fresh URLs from a callback: who is asked when, and which answers are used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from builders import ORIGIN, a_lease
from cloudpush.errors import Cancelled, Code, DestinationError, InputError, VaultError
from cloudpush.push.guard import parse_endpoint
from cloudpush.push.job import Destination, Profile, Push
from cloudpush.push.planning import Limits, cut
from cloudpush.push.signed import renewal
from cloudpush.push.signed.model import SIGNED_URLS, Kind, Need, Provider, Ticket
from cloudpush.push.signed.renewal import HookRenewals, same_object
from fakes import Asked
from fakes_inspector import GoOn
from fakes_uploader import HOOK, PREFIX, SignedWorld, a_ticket, a_url

S3 = Destination("s3", "results", PREFIX, Profile("signed-url", "other"))
GO = GoOn()


class Desk:
    """A push in the middle of its only part, and who renews its URLs."""

    def __init__(self, source: Path) -> None:
        self.world = SignedWorld(source)
        self.world.write("a", "b")
        self.push = self.world.hand_over(a_ticket("a"), a_ticket("b"), hook_id=HOOK)
        self.renewals = self.of(self.push)

    def of(self, push: Push) -> HookRenewals:
        """The renewals of a push's first part, under a lease that holds."""
        lease = a_lease()
        claimed = self.world.store.claim_push(push.id, lease)
        assert claimed is not None
        (page,) = cut(self.world.couriers[SIGNED_URLS].find(push), push.id, Limits())
        self.world.store.finish_plan_with(claimed, lease, page)
        return HookRenewals(push, page.part, lease, self.world.callback)

    def answer(self, *tickets: Ticket) -> None:
        """Have the callback answer with these."""
        self.world.hook.rows = lambda needs: [{"path": t.path, "ticket": t} for t in tickets]

    def asked(self) -> list[list[str]]:
        """The paths of each question."""
        return [[n.path for n in needs] for needs in self.world.hook.asked]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def need(path: str, kind: Kind = Kind.PUT, seq: int = 0, parts: tuple[int, ...] = ()) -> Need:
    return Need(seq or ord(path[0]) - ord("a") + 1, path, f"{PREFIX}/{path}", kind, parts)


# -- the same object -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ticket", "words"),
    [
        (
            a_ticket("a", url=a_url(f"{PREFIX}/a", origin=parse_endpoint("https://evil.example"))),
            "https://evil.example",
        ),
        (a_ticket("a", url=a_url(f"{PREFIX}/a", origin=parse_endpoint(ORIGIN + ":8443"))), ":8443"),
        (a_ticket("a", url=a_url(f"{PREFIX}/a", provider=Provider.AZURE)), "protocol azure"),
        (a_ticket("a", url=a_url(f"{PREFIX}/a", bucket="other")), "bucket 'other'"),
        (a_ticket("a", key=f"{PREFIX}/b"), f"'{PREFIX}/b'"),
        (a_ticket("a", key=f"{PREFIX}/a/"), f"'{PREFIX}/a/'"),
        (a_ticket("a", Kind.MULTIPART), "as multipart instead of put"),
        (a_ticket("a", Kind.TREE, key="runs"), "directory 'runs'"),
    ],
)
def test_a_fresh_url_that_leads_elsewhere_is_refused(ticket: Ticket, words: str) -> None:
    """The words name the object and the difference, and nothing of the query."""
    with pytest.raises(InputError) as e:
        same_object(f"{PREFIX}/a", S3, ORIGIN, ticket, Kind.PUT)

    assert (e.value.code, words in e.value.message, "Signature" in str(e.value)) == (Code.BAD_MANIFEST, True, False)


@pytest.mark.parametrize(
    ("scheme", "provider"),
    [("s3", Provider.S3), ("gs", Provider.GCS), ("gs", Provider.S3), ("az", Provider.AZURE), ("https", Provider.S3)],
)
def test_a_fresh_url_for_the_same_object_will_do(scheme: str, provider: Provider) -> None:
    """By any protocol that leads there."""
    ticket = a_ticket("a", url=a_url(f"{PREFIX}/a", provider=provider))

    same_object(f"{PREFIX}/a", replace(S3, scheme=scheme), ORIGIN, ticket, Kind.PUT)


def test_a_fresh_sas_opens_the_same_directory() -> None:
    """With or without a slash at its end."""
    tree = a_ticket("", Kind.TREE, url=a_url(f"{PREFIX}/", provider=Provider.AZURE))

    same_object(f"{PREFIX}/a", replace(S3, scheme="az"), ORIGIN, tree)


# -- which answers are used -----------------------------------------------------------------------------


def test_answers_are_used_for_what_was_asked(desk: Desk) -> None:
    """And the push's record says how many there were, by whose host."""
    fresh = desk.renewals.fresh([need("a"), need("b")], GO)

    assert {seq: t.path for seq, t in fresh.items()} == {1: "a", 2: "b"}
    assert desk.world.store.asked == [Asked(1, 2, 2, "hook.example", "")]


@pytest.mark.parametrize(
    "rows",
    [
        [{"path": "c", "ticket": a_ticket("c")}],
        [{"path": "a", "ticket": a_ticket("b")}],
        [{"path": "a", "ticket": a_ticket("a", Kind.MULTIPART)}],
        ["no object", None, 7],
        [],
    ],
)
def test_rows_that_will_not_do_are_left_out(desk: Desk, rows: Sequence[object]) -> None:
    """The others are used."""
    desk.world.hook.rows = lambda needs: [*rows, {"path": "b", "ticket": a_ticket("b")}]

    assert desk.renewals.fresh([need("a"), need("b")], GO).keys() == {2}


def test_the_record_says_why_a_row_will_not_do(desk: Desk) -> None:
    """The first that does not."""
    desk.answer(a_ticket("a", key="x"), a_ticket("b", key="y"))

    desk.renewals.fresh([need("a"), need("b")], GO)

    (asked,) = desk.world.store.asked
    words = f"BAD_MANIFEST: The fresh URL for '{PREFIX}/a' leads to 'x': sign it for the same object."
    assert (asked.asked, asked.got, asked.error) == (2, 0, words)


@pytest.mark.parametrize(("seconds", "used"), [(-60, False), (5, False), (6, True)])
def test_a_fresh_url_must_live_long_enough_to_be_used(desk: Desk, seconds: float, used: bool) -> None:
    """One that is as good as expired would be asked for again at once."""
    desk.world.hook.lives = timedelta(seconds=seconds)

    assert bool(desk.renewals.fresh([need("a")], GO)) is used


def test_the_only_file_needs_no_name(desk: Desk) -> None:
    """Where the source is one file, its manifest named none either."""
    desk.world.hook.rows = lambda needs: [{"ticket": a_ticket("a")}]

    assert desk.renewals.fresh([need("a")], GO).keys() == {1}


def test_one_sas_is_asked_for_once_for_every_file(tmp_path: Path) -> None:
    """It opens the whole directory."""
    desk = Desk(tmp_path)
    tree = a_ticket("", Kind.TREE, url=a_url(PREFIX, provider=Provider.AZURE))
    push = desk.world.hand_over(tree, destination=replace(S3, scheme="az"), hook_id=HOOK)
    renewals = desk.of(push)
    desk.world.hook.rows = lambda needs: [{"ticket": tree}]

    fresh = renewals.fresh([need("a", Kind.TREE), need("b", Kind.TREE)], GO)

    assert (fresh, desk.world.hook.asked) == ({1: tree, 2: tree}, [[Need(1, "", PREFIX, Kind.TREE)]])


def test_what_was_destroyed_may_come_back_as_another_kind(desk: Desk) -> None:
    """Nobody knows how the file was to be sent."""
    desk.answer(a_ticket("a", Kind.MULTIPART))

    assert desk.renewals.replacements([need("a")], GO).keys() == {1}


# -- who is asked, and when ------------------------------------------------------------------------------


def test_nobody_registered_means_no_answer(desk: Desk) -> None:
    """Nothing is unsealed for that either."""
    alone = HookRenewals(
        replace(desk.push, hook_id=None), desk.renewals._part, desk.renewals._lease, desk.world.callback
    )
    desk.world.vault.go_away()

    assert (alone.fresh([need("a")], GO), alone.replacements([need("a")], GO), desk.asked()) == ({}, {}, [])


def test_the_callback_gets_its_secret_and_its_address(desk: Desk) -> None:
    """Unsealed for the question alone."""
    desk.renewals.fresh([need("a", parts=(3, 4))], GO)

    assert (desk.world.hook.fields, desk.world.hook.asked[0][0].parts) == (
        [{"url": "https://hook.example/resign?k=1", "secret": "0123456789abcdef"}],
        (3, 4),
    )


def test_a_question_names_so_many_files_at_most(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is asked next."""
    monkeypatch.setattr(renewal, "ASKED_AT_ONCE", 2)

    fresh = desk.renewals.fresh([need(f"f{n}", seq=n) for n in range(1, 6)], GO)

    assert ([len(q) for q in desk.asked()], sorted(fresh)) == ([2, 2, 1], [1, 2, 3, 4, 5])


def test_a_callback_that_failed_is_left_alone_for_a_while(desk: Desk) -> None:
    """Every file of the part would ask it otherwise."""
    desk.world.hook.failing = DestinationError(Code.NETWORK, "no answer")
    answers = [desk.renewals.fresh([need("a")], GO), desk.renewals.fresh([need("b")], GO)]
    desk.world.hook.failing = None
    desk.world.clock.advance(5)

    fresh = desk.renewals.fresh([need("b")], GO)

    assert (answers, desk.asked(), list(fresh)) == ([{}, {}], [["a"], ["b"]], [2])
    assert desk.world.store.asked[0] == Asked(1, 1, 0, "hook.example", "NETWORK: no answer")


def test_a_callback_that_was_purged_gives_no_answer(desk: Desk) -> None:
    """Its owner took it back: the push waits for a person."""
    desk.world.vault.purge(HOOK)

    assert (desk.renewals.fresh([need("a")], GO), [a.error.partition(":")[0] for a in desk.world.store.asked]) == (
        {},
        ["CREDENTIAL_PURGED"],
    )


def test_a_vault_that_is_away_is_no_fault_of_the_callback(desk: Desk) -> None:
    """The part tries again later instead of waiting for a person; what comes then is asked."""
    desk.world.vault.go_away()
    with pytest.raises(VaultError):
        desk.renewals.fresh([need("a")], GO)
    desk.world.vault.come_back()

    assert desk.renewals.fresh([need("a")], GO).keys() == {1}


def test_a_cancelled_push_asks_nobody(desk: Desk) -> None:
    """It is not even asked whether it would."""

    class Stop(GoOn):
        def check(self) -> None:
            raise Cancelled

    with pytest.raises(Cancelled):
        desk.renewals.fresh([need("a")], Stop())

    assert desk.asked() == []


class Gate:
    """Holds the first question until the test lets it go on."""

    def __init__(self, desk: Desk) -> None:
        self.asked, self.open = threading.Event(), threading.Event()
        desk.world.hook.during = self._wait

    def _wait(self) -> None:
        self.asked.set()
        assert self.open.wait(10)


def _when(condition: Callable[[], bool]) -> None:
    """Return as soon as ``condition`` holds."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.001)


def test_threads_that_want_the_same_share_one_answer(desk: Desk) -> None:
    """And what others want meanwhile is asked for together."""
    gate = Gate(desk)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(desk.renewals.fresh, [need("a")], GO)
        assert gate.asked.wait(10)
        others = [pool.submit(desk.renewals.fresh, [need("a"), need(n)], GO) for n in "bcd"]
        _when(lambda: len(desk.renewals._open) == 4)
        gate.open.set()
        answers = [first.result(), *(o.result() for o in others)]

    assert ([sorted(a) for a in answers], [sorted(q) for q in desk.asked()]) == (
        [[1], [1, 2], [1, 3], [1, 4]],
        [["a"], ["b", "c", "d"]],
    )


def test_who_waits_for_another_thread_hears_that_the_push_was_cancelled(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a moment, whatever the callback does."""
    monkeypatch.setattr(renewal, "LOOK_SECONDS", 0.001)
    gate = Gate(desk)

    class Stop(GoOn):
        def __init__(self) -> None:
            self.stopped = threading.Event()

        def check(self) -> None:
            if self.stopped.is_set():
                raise Cancelled

    stop = Stop()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(desk.renewals.fresh, [need("a")], GO)
        assert gate.asked.wait(10)
        second = pool.submit(desk.renewals.fresh, [need("b")], stop)
        _when(lambda: len(desk.renewals._open) == 2)
        stop.stopped.set()
        with pytest.raises(Cancelled):
            second.result()
        gate.open.set()

    assert first.result().keys() == {1}


def test_a_thread_that_fails_leaves_no_other_waiting(desk: Desk) -> None:
    """A defect in what it asked ends its own question alone."""
    gate = Gate(desk)
    with ThreadPoolExecutor(2) as pool:
        desk.world.hook.failing = ZeroDivisionError()
        first = pool.submit(desk.renewals.fresh, [need("a")], GO)
        assert gate.asked.wait(10)
        second = pool.submit(desk.renewals.fresh, [need("a"), need("b")], GO)
        _when(lambda: len(desk.renewals._open) == 2)
        gate.open.set()
        with pytest.raises(ZeroDivisionError):
            first.result()
        with pytest.raises(ZeroDivisionError):
            second.result()

    assert desk.renewals._open == {}
