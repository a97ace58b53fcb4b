"""Cancelling: it takes effect within seconds, in mid-file too, and leaves nothing behind."""

from __future__ import annotations

import pytest

from acceptance.live import Cli, Exit, Live, until

pytestmark = pytest.mark.xdist_group("live")


def kinds(live: Live, push_id: str) -> list[str]:
    """What happened to it, without its receipt, which comes when it comes."""
    return [e["kind"] for e in live.events(push_id) if e["kind"] != "push.receipt_issued"]


def test_cancel_in_mid_file_leaves_nothing_behind(live: Live, bucket: str, gated: str) -> None:
    """While a file is on its way the push ends as cancelled: no object, no piece of one, and who waits is told."""
    source = live.big_source()
    with live.gate.closed():
        waiting = live.cli.start("push", source, f"s3://{bucket}", "--credential", gated, "--wait")
        push_id = live.wait_until_stuck(bucket)

        asked = live.cli("cancel", push_id)
        waited = live.cli.end(waiting)
        until(lambda: live.cloud.uploads(bucket) == [], "unfinished uploads are gone")

    assert (asked.code, asked.out, waited.code) == (
        Exit.SUCCEEDED,
        f"{push_id} stops within seconds.\n",
        Exit.CANCELLED,
    )
    assert (live.row(push_id)["state"], live.cloud.keys(bucket)) == ("cancelled", {})


def test_cancel_between_files_keeps_what_was_verified(live: Live, bucket: str, gated: str) -> None:
    """Files that were not dealt with are recorded as cancelled, and the push is no failure of anybody."""
    source = live.big_source()
    (source / "small.txt").write_bytes(b"small")
    with live.gate.closed():
        push_id = live.cli("push", source, f"s3://{bucket}", "--credential", gated).out.strip()
        live.wait_until_stuck(bucket)

        live.cli("cancel", push_id)
        ended = live.cli("wait", push_id, "--json")

    states = {path: f["state"] for path, f in live.files(push_id).items()}
    assert (
        ended.code,
        ended.json["error_code"],
        states["big.bin"],
        states["small.txt"] in {"verified", "cancelled"},
    ) == (
        Exit.CANCELLED,
        "CANCELLED",
        "cancelled",
        True,
    )


def test_cancel_of_a_queued_push_ends_it_at_once(live: Live, bucket: str, good: str) -> None:
    """Nobody executes it yet: it is over now, and the worker that hears of it later does nothing."""
    source = live.source("queued", {"file": b"never sent"})
    with live.asleep("worker"):
        push_id = live.cli("push", source, f"s3://{bucket}", "--credential", good).out.strip()

        cancelled = live.cli("cancel", push_id, "--json")
    after = live.cli("push", source, f"s3://{bucket}/after", "--credential", good, "--wait")

    assert (cancelled.json, after.code) == ({"push": push_id, "state": "cancelled"}, Exit.SUCCEEDED)
    assert (live.row(push_id)["state"], live.cloud.keys(bucket)) == ("cancelled", {"after/file": 10})
    assert kinds(live, push_id) == ["push.queued", "push.cancel_requested", "push.cancelled"]


def test_cancel_of_a_finished_push_changes_nothing(live: Live, bucket: str, good: str) -> None:
    """It says how the push ended; asking is no mistake."""
    source = live.source("finished", {"file": b"sent"})
    done = live.cli("push", source, f"s3://{bucket}", "--credential", good, "--wait", "--json").json

    cancelled = live.cli("cancel", done["id"])

    assert (cancelled.code, cancelled.out) == (Exit.SUCCEEDED, f"{done['id']} is succeeded.\n")
    assert (kinds(live, done["id"])[-1], live.cloud.keys(bucket)) == ("push.succeeded", {"file": 4})


def test_cancel_of_somebody_elses_push_is_refused(live: Live, cli: Cli, bucket: str) -> None:
    """An owner stops their own pushes only."""
    theirs = live.credential(owner="somebody-else")
    source = live.source("theirs", {"file": b"theirs"})
    words = ("push", source, f"s3://{bucket}", "--credential", theirs, "--owner", "somebody-else", "--wait", "--json")
    push_id = cli(*words).json["id"]

    refused = cli("cancel", push_id)

    assert (refused.refusal, push_id in refused.err) == ((Exit.BAD_INPUT, "NOT_OWNER"), True)
    assert kinds(live, push_id)[-1] == "push.succeeded"


def test_cancel_of_an_unknown_push_is_refused(cli: Cli) -> None:
    """The message names the push that is not known."""
    unknown = "00000000-0000-7000-8000-000000000000"

    refused = cli("cancel", unknown)

    assert (refused.refusal, unknown in refused.err) == ((Exit.BAD_INPUT, "UNKNOWN_PUSH"), True)
