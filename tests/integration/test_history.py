"""Questions that users and auditors ask, on real Postgres."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest

from builders import (
    ORIGIN,
    OWNER,
    a_destination,
    a_lease,
    a_page,
    a_request,
    failed,
    paused,
    skipped,
    unverified,
    verified,
)
from cloudpush.audit.history import Filter, Row
from cloudpush.errors import Code, InputError
from cloudpush.push.job import Progress
from cloudpush.push.states import FileState, State
from records import Record


@pytest.fixture(scope="module")
def pushes(record: Record) -> dict[str, UUID]:
    """Six pushes of two owners, in this order."""
    return {
        "good": record.finished(labels={"run": "7", "site": "a"}),
        "skipped": record.finished([skipped(1), skipped(2)], labels={"run": "8"}),
        "bad": record.finished([failed(1, Code.TOO_LARGE), *verified([2])]),
        "weak": record.finished([unverified(1), *verified([2])]),
        "grace's": record.finished(owner="grace", destination="s3://elsewhere/x"),
        "waiting": record.submitted(),
    }


def names(pushes: dict[str, UUID], rows: list[Row]) -> list[str]:
    """The pushes by the names that these tests give them."""
    by_id = {v: k for k, v in pushes.items()}
    return [by_id[row["id"]] for row in rows]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (Filter(), ["waiting", "grace's", "weak", "bad", "skipped", "good"]),
        (Filter(owner="grace"), ["grace's"]),
        (Filter(owner="nobody"), []),
        (Filter(bucket="elsewhere"), ["grace's"]),
        (Filter(state=State.SUCCEEDED), ["grace's", "skipped", "good"]),
        (Filter(state=State.SUCCEEDED, owner="ada"), ["skipped", "good"]),
        (Filter(error_code="TOO_LARGE"), ["bad"]),
        (Filter(credential_kind="access_key", state=State.QUEUED), ["waiting"]),
        (Filter(credential_kind="oauth_grant"), []),
        (Filter(label=("run", "7")), ["good"]),
        (Filter(label=("run", "9")), []),
        (Filter(label=("run' OR true --", "7")), []),
    ],
)
def test_pushes_are_found_by_what_is_known(
    record: Record, pushes: dict[str, UUID], which: Filter, expected: list[str]
) -> None:
    """Newest first; several conditions mean all of them."""
    assert names(pushes, record.history.pushes(which)) == expected


def test_pushes_are_found_by_time(record: Record, pushes: dict[str, UUID]) -> None:
    """From a moment on, up to but without another."""
    moments = {name: record.history.push(push_id)["created_at"] for name, push_id in pushes.items()}

    between = record.history.pushes(Filter(since=moments["skipped"], until=moments["weak"]))
    future = record.history.pushes(Filter(since=moments["waiting"] + timedelta(days=1)))

    assert (names(pushes, between), future) == (["bad", "skipped"], [])


def test_pages_follow_each_other_without_gaps(record: Record, pushes: dict[str, UUID]) -> None:
    """The last push of a page is where the next begins."""
    first = record.history.pushes(Filter(), limit=2)
    second = record.history.pushes(Filter(), limit=3, before=first[-1]["id"])
    last = record.history.pushes(Filter(), limit=3, before=second[-1]["id"])

    assert names(pushes, [*first, *second, *last]) == ["waiting", "grace's", "weak", "bad", "skipped", "good"]


def test_a_push_is_shown_with_its_numbers(record: Record, pushes: dict[str, UUID]) -> None:
    """And without what is nobody's business."""
    row = record.history.push(pushes["weak"])

    told = {k: row[k] for k in ("state", "error_code", "strength", "files_total", "bytes_total", "files_verified")}
    assert told == {
        "state": "unverified",
        "error_code": "NOT_VERIFIED",
        "strength": "size",
        "files_total": 2,
        "bytes_total": 20,
        "files_verified": 1,
    }
    assert {"lease_token", "request_sha256"} & set(row) == set()


@pytest.mark.parametrize(("owner", "code"), [(None, Code.UNKNOWN_PUSH), ("mallory", Code.NOT_OWNER)])
def test_a_push_that_is_not_there_or_not_yours_is_refused(
    record: Record, pushes: dict[str, UUID], owner: str | None, code: Code
) -> None:
    """By name."""
    push_id = pushes["good"] if owner else UUID(int=5)

    with pytest.raises(InputError) as caught:
        record.history.push(push_id, owner)

    assert (caught.value.code, str(push_id) in caught.value.message) == (code, True)


def test_a_running_push_tells_what_its_parts_have_sent(record: Record) -> None:
    """Summed over those that run; the longest wait counts."""
    push = record.planned(3)
    leases = [a_lease(), a_lease()]
    for number, lease in enumerate(leases, 1):
        record.ledger.claim_part(push.id, number, lease)
    record.ledger.note_progress(
        {leases[0].token: Progress(100, 1, 10.0, 5.0), leases[1].token: Progress(50, 2, 2.5, 9.0)}
    )

    row = record.history.push(push.id)

    assert {k: row[k] for k in ("sent_bytes", "sent_files", "speed", "eta_seconds")} == {
        "sent_bytes": 150,
        "sent_files": 3,
        "speed": 12.5,
        "eta_seconds": 9.0,
    }


def test_files_are_shown_in_order_with_digests_in_hex(record: Record, pushes: dict[str, UUID]) -> None:
    """As people read them."""
    rows = list(record.history.files(pushes["bad"]))

    assert [(r["seq"], r["state"], r["sha256"], r["error_code"]) for r in rows] == [
        (1, "failed", None, "TOO_LARGE"),
        (2, "verified", "00" * 32, None),
    ]


def test_files_are_found_by_state_and_page(record: Record) -> None:
    """More of them than are fetched at once."""
    lease = a_lease()
    push = record.ledger.claim_push(record.submitted(a_request(owner="alan")), lease)
    assert push is not None
    page = a_page(push.id, files=4_500)
    record.ledger.finish_plan_with(push, lease, page)
    record.ledger.record_files(page.part, lease, [failed(s) for s in range(1, 4_500, 1000)])

    found = {
        "all": [r["seq"] for r in record.history.files(push.id)] == list(range(1, 4_501)),
        "failed": [r["seq"] for r in record.history.files(push.id, states=[FileState.FAILED])],
        "page": [r["seq"] for r in record.history.files(push.id, after=2_000, limit=3)],
        "limit": sum(1 for _ in record.history.files(push.id, limit=2_001)),
        "none": list(record.history.files(push.id, limit=0)),
    }

    assert found == {
        "all": True,
        "failed": [1, 1001, 2001, 3001, 4001],
        "page": [2001, 2002, 2003],
        "limit": 2001,
        "none": [],
    }


def test_parts_and_events_are_shown_in_order(record: Record, pushes: dict[str, UUID]) -> None:
    """Each with what it carries."""
    parts, events = record.history.parts(pushes["good"]), record.history.events(pushes["good"])

    assert ([(p["number"], p["state"]) for p in parts], [e["kind"] for e in events], events[0]["seq"]) == (
        [(1, "succeeded")],
        ["push.queued", "push.claimed", "push.planned", "credential.used", "part.finished", "push.succeeded"],
        1,
    )


def test_what_never_was_has_neither_parts_nor_files(record: Record) -> None:
    """Empty, not an error."""
    missing = UUID(int=9)

    assert (record.history.parts(missing), record.history.events(missing), list(record.history.files(missing))) == (
        [],
        [],
        [],
    )


def test_a_destination_is_shown_as_it_was_written(record: Record, pushes: dict[str, UUID]) -> None:
    """Bucket, prefix and the whole URI."""
    row = record.history.push(pushes["grace's"])

    assert (row["uri"], row["bucket"], row["prefix"]) == (a_destination("s3://elsewhere/x").uri, "elsewhere", "x")


def test_a_push_with_signed_urls_is_shown_with_its_sets(record: Record) -> None:
    """Where they lead, until when the newest may be used, what was handed over since; how many parts wait."""
    push = record.planned_signed(2)
    claimed = record.ledger.claim_part(push.id, 1, lease := a_lease())
    assert claimed is not None
    record.ledger.end_part(*claimed, lease, paused())
    waiting = record.history.push(push.id)
    expires = record.now() + timedelta(hours=1)
    fresh = record.set(expires_at=expires)
    record.desk.resign(push.id, fresh.id, OWNER, 2)

    row = record.history.push(push.id)

    first = {"credential_id": push.credential_id, "state": "active", "expires_at": None, "origin": ORIGIN}
    assert (waiting["parts_paused"], waiting["urls"], waiting["renewals"]) == (1, first, [])
    assert (row["parts_paused"], row["urls"], row["renewals"]) == (
        0,
        {"credential_id": fresh.id, "state": "active", "expires_at": expires, "origin": ORIGIN},
        record.history.renewals(push.id),
    )
    assert [(r["number"], r["credential_id"], r["files"]) for r in row["renewals"]] == [(1, fresh.id, 2)]


def test_a_push_with_a_key_has_no_sets(record: Record, pushes: dict[str, UUID]) -> None:
    """Not even empty ones."""
    assert {"urls", "renewals"} & set(record.history.push(pushes["good"])) == set()
