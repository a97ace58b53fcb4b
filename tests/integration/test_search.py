"""Pages of pushes for any filter: complete, in order, without doubles, whichever way they are found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from math import inf
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import OWNER, a_request, failed, verified
from cloudpush.audit import charts, listings, pages
from cloudpush.audit.history import Filter, LedgerFilter, Row, Step
from cloudpush.errors import Code, InputError
from cloudpush.push.states import FileState, State, Strength
from records import Record
from servers import Database

OWNERS = ("ada", "grace", "linus")
BUCKETS = ("genomes", "images")
MANY = 130
BEGUN = datetime(2024, 1, 30, tzinfo=UTC)

#: Filters, each with what it says of a row in plain Python.
QUESTIONS = {
    "all": Filter(),
    "owner": Filter(owner="grace"),
    "bucket": Filter(bucket="images"),
    "prefix": Filter(prefix="lab/a"),
    "whole prefix": Filter(prefix="lab/ab/"),
    "beginning of a prefix": Filter(prefix="la"),
    "long prefix": Filter(prefix="other/with-a-long-na"),
    "state": Filter(state=State.FAILED),
    "states": Filter(states=(State.FAILED, State.CANCELLED, State.QUEUED)),
    "live": Filter(states=(State.QUEUED,)),
    "strength": Filter(strength=Strength.SIZE),
    "at most": Filter(at_most=Strength.INGEST),
    "kind": Filter(credential_kind="access_key"),
    "code": Filter(error_code="TOO_LARGE"),
    "since": Filter(since=BEGUN + timedelta(days=60)),
    "between": Filter(since=BEGUN + timedelta(days=30), until=BEGUN + timedelta(days=90)),
    "label": Filter(label=("run", "3")),
    "labels": Filter(labels=(("run", "3"), ("site", "b"))),
    "label of long ago": Filter(label=("era", "old")),
    "labels of long ago": Filter(labels=(("era", "old"), ("run", "3"))),
    "label of long ago, word": Filter(label=("era", "old"), text="data", state=State.SUCCEEDED),
    "label, live": Filter(label=("site", "a"), states=(State.QUEUED,)),
    "label, time": Filter(label=("site", "b"), until=BEGUN + timedelta(days=50), since=BEGUN + timedelta(days=9)),
    "rare word": Filter(text="unicorn"),
    "common word": Filter(text="data"),
    "old word": Filter(text="ancient"),
    "beginning": Filter(text="unic*"),
    "beginning and word": Filter(text="dat* unicorn"),
    "long beginning": Filter(text="metagenom*"),
    "path": Filter(text="data/unicorn.bam"),
    "word and owner": Filter(text="ancient", owner="ada", state=State.SUCCEEDED),
    "owner and state": Filter(owner="grace", state=State.SUCCEEDED),
    "owner and states": Filter(owner="grace", states=(State.SUCCEEDED, State.QUEUED)),
    "owner and live": Filter(owner="linus", state=State.QUEUED),
    "owner and bucket": Filter(owner="grace", bucket="images"),
    "owner, bucket, between": Filter(
        owner="grace", bucket="images", since=BEGUN + timedelta(days=20), until=BEGUN + timedelta(days=110)
    ),
    "nothing": Filter(owner="ada", error_code="NO_SUCH_BUCKET"),
    "everything": Filter(
        owner="ada",
        bucket="genomes",
        prefix="lab",
        text="data",
        since=BEGUN,
        at_most=Strength.CHECKSUM,
        label=("site", "a"),
    ),
}


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


MOMENTS = st.integers(-5, 140).map(lambda days: BEGUN + timedelta(days=days))
ANY_FILTER = st.builds(
    Filter,
    owner=maybe(st.sampled_from(OWNERS)),
    bucket=maybe(st.sampled_from(BUCKETS)),
    prefix=maybe(st.sampled_from(["la", "lab/", "lab/ab", "lab/abc/", "other/with-a-long-na"])),
    states=st.lists(st.sampled_from(State), max_size=2).map(tuple),
    strength=maybe(st.sampled_from([Strength.SIZE, Strength.CHECKSUM])),
    error_code=maybe(st.just("TOO_LARGE")),
    since=maybe(MOMENTS),
    until=maybe(MOMENTS),
    label=maybe(st.tuples(st.just("site"), st.sampled_from("ab"))),
    text=maybe(st.sampled_from(["data", "ancient", "unic*", "metagenom* data"])),
)


@pytest.fixture(scope="module")
def record(database: Database) -> Iterator[Record]:
    made = Record(database)
    template, live = made.finished(), made.submitted()
    dice = random.Random(5)
    rows = []
    for n in range(MANY):
        state = dice.choice(["succeeded", "succeeded", "succeeded", "failed", "unverified", "cancelled", "queued"])
        words = ["data", *(["unicorn"] if n % 43 == 0 else []), *(["ancient", "metagenomes"] if n < 40 else [])]
        rows.append(
            {
                "id": UUID(int=dice.getrandbits(128)),
                "of": live if state == "queued" else template,
                "at": BEGUN + timedelta(days=3 * (n // 3), hours=n % 3 // 2),  # two of three at the same moment
                "owner": dice.choice(OWNERS),
                "bucket": dice.choice(BUCKETS),
                "prefix": dice.choice(["lab/ab", "lab/abc/x", "lab", "", "other", "other/with-a-long-name"]),
                "source": f"/{'/'.join(words)}.bam",
                "state": state,
                "strength": None if state == "queued" else dice.choice(["size", "ingest", "checksum"]),
                "code": "TOO_LARGE" if state == "failed" and n % 5 == 0 else None,
                "labels": f'{{"run": "{n % 7}", "site": "{dice.choice("ab")}", "era": "{"old" if n < 40 else "new"}"}}',
            }
        )
    with made.intruder.begin() as c:
        c.execute(sa.text("SET LOCAL session_replication_role = replica"))
        c.execute(sa.text("DELETE FROM push_search"))
        c.execute(sa.text("DELETE FROM push_label"))
        columns = [col for col in made_columns(c) if col not in CHANGED]
        c.execute(
            sa.text(
                f"INSERT INTO push ({', '.join(columns)}, {', '.join(CHANGED)}) SELECT {', '.join(columns)}, "
                ":id, :at, :owner, :bucket, :prefix, :source, :state, :strength, :code, CAST(:labels AS jsonb) "
                "FROM push WHERE id = :of"
            ),
            rows,
        )
        c.execute(sa.text("DELETE FROM push WHERE id IN (:a, :b)"), {"a": template, "b": live})
        c.execute(
            sa.text(
                "INSERT INTO push_search SELECT id, created_at, owner, bucket, credential_kind, state, strength, error_code, "
                "files_total, bytes_total, cloudpush_search_terms(push) FROM push WHERE finished_at IS NOT NULL"
            )
        )
        c.execute(
            sa.text(
                "INSERT INTO push_label SELECT id, key || '=' || value, created_at FROM push, jsonb_each_text(labels) "
                "WHERE finished_at IS NOT NULL"
            )
        )
    yield made
    made.close()


CHANGED = ("id", "created_at", "owner", "bucket", "prefix", "source", "state", "strength", "error_code", "labels")


def made_columns(c: sa.Connection) -> list[str]:
    query = "SELECT attname FROM pg_attribute WHERE attrelid = 'push'::regclass AND attnum > 0 AND NOT attisdropped"
    return [
        f'"{name}"' if name == "overwrite" else name
        for name in c.execute(sa.text(query)).scalars()
        if name != "idempotency_key"
    ]


@pytest.fixture(params=["at once", "in spans", "in small spans", "at once, and wrongly so"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds that choose how a page is found."""
    monkeypatch.setattr(pages, "FEW", -1 if "spans" in request.param else inf)
    if request.param in ("in small spans", "at once, and wrongly so"):
        monkeypatch.setattr(pages, "CANDIDATES", 7)
        monkeypatch.setattr(pages, "AHEAD", 0)


def lets_through(which: Filter, row: Row) -> bool:
    """The filter, told anew."""
    words = row["source"].replace("/", " ").replace(".", " ").split()
    strength = row["strength"] and Strength.of(row["strength"])
    return all(
        (
            which.owner in (None, row["owner"]),
            which.bucket in (None, row["bucket"]),
            f"{row['prefix']}/".startswith(which.prefix or ""),
            not which.any_state or row["state"] in which.any_state,
            which.strength in (None, strength),
            which.at_most is None or (strength is not None and strength <= which.at_most),
            which.credential_kind in (None, row["credential_kind"]),
            which.error_code in (None, row["error_code"]),
            which.since is None or row["created_at"] >= which.since,
            which.until is None or row["created_at"] < which.until,
            which.all_labels.items() <= row["labels"].items(),
            all(w in words for w in which.words[0])
            and all(any(x.startswith(w) for x in words) for w in which.words[1]),
        )
    )


def everything(record: Record) -> list[Row]:
    """All pushes, newest first, as Postgres sorts ids."""
    with record.app.connect() as c:
        rows = c.execute(sa.text("SELECT * FROM push ORDER BY created_at DESC, id DESC")).mappings()
        return [dict(row) for row in rows]


def paged(record: Record, which: Filter, limit: int) -> list[UUID]:
    """Every page, one after the other."""
    found: list[UUID] = []
    cursor = None
    for _ in range(MANY + 10):
        page = record.history.page(which, limit=limit, cursor=cursor)
        assert len(page.rows) == limit or page.next is None
        found += [row["id"] for row in page.rows]
        if page.next is None:
            return found
        cursor = page.next
    raise AssertionError("there is always another page")


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.usefixtures("way")
def test_pages_have_everything_once_and_in_order(record: Record, name: str) -> None:
    which = QUESTIONS[name]
    expected = [row["id"] for row in everything(record) if lets_through(which, row)]

    assert paged(record, which, 11) == expected
    assert bool(expected) == (name != "nothing")


@given(which=ANY_FILTER, limit=st.integers(1, 40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("way")
def test_pages_of_any_filter_are_what_the_filter_lets_through(record: Record, which: Filter, limit: int) -> None:
    expected = [row["id"] for row in everything(record) if lets_through(which, row)]

    assert paged(record, which, limit) == expected


@pytest.mark.usefixtures("way")
def test_what_comes_in_meanwhile_makes_no_push_come_twice(record: Record) -> None:
    """Nor does it make one be left out."""
    which = Filter(owner="ada")
    before = paged(record, which, 1_000)
    first = record.history.page(which, limit=10)
    added = record.submitted()
    second = record.history.page(which, limit=1_000, cursor=first.next)
    with record.intruder.begin() as c:
        c.execute(sa.text("SET LOCAL session_replication_role = replica"))
        c.execute(sa.text("DELETE FROM push WHERE id = :id"), {"id": added})

    assert [row["id"] for row in [*first.rows, *second.rows]] == before


@pytest.mark.parametrize(
    "change",
    [
        lambda cursor: cursor[:-1] + ("A" if cursor[-1] != "A" else "B"),
        lambda cursor: ("A" if cursor[0] != "A" else "B") + cursor[1:],
        lambda cursor: cursor + "A",
        lambda cursor: cursor + "=",
        lambda cursor: cursor[:-4],
        lambda cursor: "ü",
        lambda cursor: "x",
    ],
)
def test_a_cursor_that_was_never_ours_is_refused(record: Record, change: object) -> None:
    cursor = record.history.page(Filter(), limit=5).next

    with pytest.raises(InputError) as caught:
        record.history.page(Filter(), cursor=change(cursor))  # type: ignore[operator]

    assert (caught.value.code, caught.value.field) == (Code.BAD_INPUT, "cursor")


def test_a_cursor_belongs_to_its_question(record: Record) -> None:
    cursor = record.history.page(Filter(), limit=5).next

    with pytest.raises(InputError, match="does not belong"):
        record.history.page(Filter(owner="ada"), cursor=cursor)


@pytest.mark.parametrize("name", QUESTIONS)
def test_totals_and_charts_count_the_same(record: Record, name: str) -> None:
    which = QUESTIONS[name]
    rows = [row for row in everything(record) if lets_through(which, row)]

    found, bars = record.history.totals(which), record.history.series(which, Step.WEEK)

    assert (found.pushes, found.exact) == (len(rows), True)
    assert (found.files, found.bytes) == (sum(r["files_total"] for r in rows), sum(r["bytes_total"] for r in rows))
    assert found.by_state == {s: n for s in State if (n := sum(r["state"] == s for r in rows))}
    assert (found.first, found.last) == ((rows[-1]["created_at"], rows[0]["created_at"]) if rows else (None, None))
    assert sum(b.pushes for b in bars) == len(rows)
    assert sum(b.failed for b in bars) == sum(r["state"] == "failed" for r in rows)
    assert all(b.start.weekday() == 0 for b in bars)
    assert {b.start - a.start for a, b in pairwise(bars)} <= {timedelta(days=7)}


def test_totals_beyond_what_is_counted_say_so(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "MOST", 10)

    found = record.history.totals(Filter(text="data", states=(State.SUCCEEDED,)))

    assert (found.pushes, found.exact) == (10, False)


def test_a_push_that_ends_is_found_by_the_words_of_its_files(record: Record) -> None:
    """By those of its source and destination at once."""
    push_id = record.finished([failed(1, Code.TOO_LARGE), *verified([2])], destination="s3://b-1/Über/Straße")
    paths = [row["path"] for row in record.history.files(push_id)]

    found = [
        [row["id"] for row in record.history.page(Filter(text=text)).rows]
        for text in (paths[0], "straße", "ÜBER", "stra*")
    ]

    assert found == [[push_id]] * 4


def test_a_push_is_found_by_its_labels_before_and_after_it_ends(record: Record) -> None:
    """By one, by two, and by one beside something else."""
    labels = {"kept-by": "lab=3", "for": "ü, ẞ"}
    ended = record.finished(labels=labels)
    waits = record.submitted(a_request(labels=labels))

    def found(**which: Any) -> list[UUID]:
        return [row["id"] for row in record.history.page(Filter(**which)).rows]

    first, second = labels.items()
    assert found(label=first) == found(labels=(first, second)) == found(label=second, owner=OWNER) == [waits, ended]
    assert found(label=first, states=(State.SUCCEEDED,)) == [ended]
    assert found(label=("kept-by", "lab")) == found(label=("kept-by=lab", "3")) == []


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_no_row_can_hold_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Filter(text=text)


@pytest.mark.parametrize("text", ["'", "\\", "a'b & !c | (", ":*", "*", "  ", "w=x", "%_"])
def test_any_text_is_a_question(record: Record, text: str) -> None:
    """Not an error, and not an operator."""
    record.history.page(Filter(text=text, owner="o'\\", bucket="b'", prefix="p'\\x/y:", labels=(("k'", "v\\"),)))


def test_files_of_a_push_are_paged_in_bounded_steps(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what each page looked at, not only with what it found."""
    push_id = record.finished([failed(1, Code.TOO_LARGE), *verified([2])])
    with record.intruder.begin() as c:
        c.execute(
            sa.text(
                "INSERT INTO file (push_id, seq, path, key, size, mtime_ns, state) SELECT :p, n, 'Dir/f' || n, 'k', 1, 1, "
                "CASE n % 10 WHEN 0 THEN 'failed' ELSE 'verified' END FROM generate_series(3, 100) n"
            ),
            {"p": push_id},
        )
    monkeypatch.setattr(listings, "LOOKED_AT", 20)

    def all_of(**asked: object) -> list[int]:
        found: list[int] = []
        after: int | None = 0
        steps = 0
        while after is not None:
            page = record.history.file_page(push_id, after=after, limit=6, **asked)  # type: ignore[arg-type]
            found += [row["seq"] for row in page.rows]
            after, steps = page.after, steps + 1
        assert steps >= 2
        return found

    assert all_of() == list(range(1, 101))
    assert all_of(states=[FileState.FAILED]) == [1, *range(10, 101, 10)]
    assert all_of(text="dir/F9") == [9, *range(90, 100)]
    assert all_of(text="dir/F9", states=[FileState.VERIFIED]) == [9, *range(91, 100)]


def test_the_ledger_tells_of_all_credentials_newest_first(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    card = record.credential("grace")
    whole = record.history.ledger_all(LedgerFilter(), limit=1_000).rows
    monkeypatch.setattr(listings, "LOOKED_AT", 5)

    found, cursor = [], None
    while True:
        page = record.history.ledger_all(LedgerFilter(), limit=3, cursor=cursor)
        found += page.rows
        if (cursor := page.next) is None:
            break
    of_one = record.history.ledger_all(LedgerFilter(credential_id=card.id)).rows
    of_owner = record.history.ledger_all(LedgerFilter(owner="grace", kinds=("credential.created",)), limit=1).rows

    assert (found, [r["id"] for r in whole]) == (whole, sorted((r["id"] for r in whole), reverse=True))
    assert [(r["kind"], r["owner"], r["name"]) for r in of_one] == [
        ("credential.created", "grace", card.name),
        ("credential.sealing", "grace", card.name),
    ]
    assert [r["stream"] for r in of_owner] == [card.id]
    assert {r["kind"].partition(".")[0] for r in whole} == {"credential"}


def test_integrity_counts_what_is_not_sealed(record: Record) -> None:
    """Before the first checkpoint that is everything."""
    with record.app.connect() as c:
        events = c.execute(sa.text("SELECT count(*) FROM event")).scalar_one()

    told = record.history.integrity()

    assert (told["unsealed"], told["unsealed_more"], told["checkpoint"], told["inspection"]) == (
        events,
        False,
        None,
        None,
    )
