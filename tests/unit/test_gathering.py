"""One pass over tickets: what it learns of them, and that it holds none of them for long."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from builders import NOON
from cloudpush.push.guard import Origin
from cloudpush.push.signed.gathering import SESSION_LIFE, Gathered, Gathering
from cloudpush.push.signed.model import Kind, Provider, SignedUrl, Ticket
from cloudpush.push.signed.sets import SetInMaking
from cloudpush.push.signed.sheets import SHEET_BYTES
from fakes import FakeClock

HOUR = timedelta(hours=1)


def a_ticket(path: str, *, key: str = "", expires: datetime | None = NOON + HOUR, text: str = "") -> Ticket:
    origin = Origin("https", "bkt.s3.amazonaws.com", 443)
    url = SignedUrl(text or f"{origin.url}/{path}?s", Provider.S3, "aws", "v4", origin, "bkt", key or path)
    return Ticket(path, Kind.PUT, replace(url, expires_at=expires), expires_at=expires)


def gathered(*tickets: Ticket) -> Gathered:
    made = Gathered()
    for ticket in tickets:
        made.add(ticket, ticket.path, NOON)
    return made


class FakeMaking:
    """A set that only counts; ``sheets``: first and last file, bytes."""

    def __init__(self) -> None:
        self.sheets: list[tuple[int, int, int]] = []

    def add(self, first: int, last: int, blocks: Sequence[bytes]) -> None:
        self.sheets.append((first, last, sum(map(len, blocks))))


def gathering(making: FakeMaking) -> Gathering:
    return Gathering(FakeClock(), lambda _: None, lambda _: cast("SetInMaking", making))


@given(st.permutations([a_ticket(name) for name in "abcd"]))
def test_digests_depend_on_the_order_of_rows(tickets: list[Ticket]) -> None:
    """A row's place is its file's number, by which a worker finds its URL."""
    made, witness = gathered(*tickets), gathered(*(a_ticket(name) for name in "abcd"))
    same = [t.path for t in tickets] == list("abcd")

    assert (made.manifest_sha256 == witness.manifest_sha256, made.rows_sha256 == witness.rows_sha256) == (same, same)


def test_digests_tell_files_apart() -> None:
    """By path, by key, by where one ends and the other begins, and by how often."""
    sets = [
        [a_ticket("a", key="bc")],
        [a_ticket("ab", key="c")],
        [a_ticket("a", key="b")],
        [a_ticket("b", key="a")],
        [a_ticket("a", key="b"), a_ticket("b", key="a")],
        [a_ticket("a", key="a"), a_ticket("b", key="b")],
        [a_ticket("a", key="b")] * 2,
    ]

    assert len({gathered(*tickets).manifest_sha256 for tickets in sets}) == len(sets)


def test_a_signature_and_its_times_make_no_other_request_but_what_is_asked_does() -> None:
    """Fresh URLs ask for the same; a checksum, a companion or another kind does not."""
    ticket = a_ticket("a")
    same = [ticket, a_ticket("a", expires=NOON + 5 * HOUR, text="https://other")]
    other = [
        replace(ticket, checksums={"md5": "0" * 32}),
        replace(ticket, checksums={"sha256": "0" * 32}),
        replace(ticket, verify=ticket.url, verify_method="HEAD"),
        replace(ticket, kind=Kind.RESUMABLE),
    ]

    assert ([len({gathered(t).rows_sha256 for t in some}) for some in (same, [ticket, *other])]) == [1, 5]


def test_a_set_expires_with_its_last_url() -> None:
    """A companion may outlive the upload; a session lives for a week; one that does not say makes it endless."""
    early, late = a_ticket("a"), a_ticket("b", expires=NOON + 2 * HOUR)
    companion = replace(early, verify=late.url)
    session = a_ticket("c", expires=None)
    session = replace(session, url=replace(session.url, session=True))
    made = [
        gathered(early, late),
        gathered(companion),
        gathered(early, session),
        gathered(early, a_ticket("d", expires=None)),
    ]

    assert [(g.earliest, g.expires_at) for g in made] == [
        (NOON + HOUR, NOON + 2 * HOUR),
        (NOON + HOUR, NOON + 2 * HOUR),
        (NOON + HOUR, NOON + SESSION_LIFE),
        (NOON + HOUR, None),
    ]


def test_a_sheet_is_closed_before_its_text_grows_too_large() -> None:
    """Ten tickets of a megabyte each are two sheets; the second waits for more."""
    making = FakeMaking()
    large = SHEET_BYTES // 8
    made = gathering(making)

    for _ in made.take((n, a_ticket(f"f{n}", text="x" * large)) for n in range(1, 11)):
        pass

    assert [(first, last) for first, last, _ in making.sheets] == [(1, 8)]


def test_memory_does_not_grow_with_the_rows() -> None:
    """Eight thousand tickets of a kilobyte take no more than three sheets of them."""
    making = FakeMaking()

    def entries() -> Iterator[tuple[int, Ticket]]:
        for n in range(1, 8_001):
            yield n, a_ticket(f"f{n}", text=f"{n:01000d}")

    tracemalloc.start()
    try:
        count = sum(1 for _ in gathering(making).take(entries()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (count, len(making.sheets), peak < 5 * 2**20) == (8_000, 16, True)
