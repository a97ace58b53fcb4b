"""Signed URLs at the door: what is let in and how it is stored, what is refused and with which words."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import servers
import signed_door
from cloudpush.audit.database import transaction
from cloudpush.credentials.kinds import parse
from cloudpush.errors import CloudPushError, Code
from cloudpush.manifest import rows as manifest_rows
from cloudpush.push.credential import Caller
from cloudpush.push.intake import Accepted, Preview
from cloudpush.push.signed import sheets
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.push.states import Overwrite, Package, Strength
from signed_door import Door
from signed_rows import BUCKET, CANARY, ORIGIN, a_row, numbered, put_url, tree_sas

HOUR = timedelta(hours=1)


@pytest.fixture
def door(database: servers.Database, tmp_path: Path) -> Iterator[Door]:
    with signed_door.opened(database, tmp_path) as made:
        yield made


# -- let in -----------------------------------------------------------------------------------------


def test_a_manifest_is_sealed_stored_and_announced(door: Door) -> None:
    """The push says where; the set says until when; row n is file n; the rest is in Vault."""
    accepted = door.submit(*door.rows("a"), *door.rows("d/c", "b", life=7200))

    made = door.set_of(accepted.push_id)
    with transaction(door.engine) as c:
        query = sa.text("SELECT uri, bucket, prefix, profile, credential_kind, state FROM push WHERE id = :id")
        push = tuple(c.execute(query, {"id": accepted.push_id}).one())
    last = door.clock.now() + 2 * HOUR
    assert (accepted, door.announcer.pushes, push) == (
        Accepted(accepted.push_id, created=True, announced=True),
        [accepted.push_id],
        (f"s3://{BUCKET}/runs/7", BUCKET, "runs/7", "signed-url", SIGNED_URLS, "queued"),
    )
    assert (made.owner, made.kind, made.name, made.endpoint, made.state, made.expires_at, made.purge_after) == (
        "ada",
        SIGNED_URLS,
        f"signed-urls-{made.id.hex}",
        ORIGIN,
        "active",
        last,
        last,
    )
    assert [(seq, t.path, t.key) for seq, t in door.tickets(made.id)] == [
        (1, "a", "runs/7/a"),
        (2, "d/c", "runs/7/d/c"),
        (3, "b", "runs/7/b"),
    ]


def test_a_long_manifest_becomes_many_sheets(door: Door) -> None:
    """Five hundred tickets a sheet; the worker reads them back in order."""
    rows = door.rows(*(f"f{n}" for n in range(1201)))

    accepted = door.submit(*rows)

    made = door.set_of(accepted.push_id)
    assert (
        [path.path for _, path in door.tickets(made.id)] == [row["path"] for row in rows],
        door.one("SELECT array_agg(ARRAY[first_seq, last_seq] ORDER BY number) FROM sheet"),
        door.one("SELECT count(*) FROM sheet WHERE transit_key_version = 1"),
    ) == (True, [[1, 500], [501, 1000], [1001, 1201]], 3)


def test_a_row_that_is_too_large_for_one_block_takes_several(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of part URLs with signatures of their own; all blocks belong to one sheet."""
    monkeypatch.setattr(sheets, "BLOCK_BYTES", 32 * 1024)

    def url(number: int | None = None) -> str:
        part: dict[str, Any] = {"partNumber": number} if number else {}
        signature = hashlib.sha256(str(number).encode()).hexdigest()
        return put_url("runs/7/a", door.clock.now(), uploadId="u-1", **part).replace(CANARY, signature)

    parts = [url(n) for n in range(1, 2_001)]

    accepted = door.submit({"path": "a", "part_urls": parts, "complete_url": url(), "abort_url": url()})

    [(seq, ticket)] = door.tickets(door.set_of(accepted.push_id).id)
    blocks = len(door.vault.sheets)
    assert (seq, list(ticket.parts) == parts, blocks > 1) == (1, True, True)
    assert door.one("SELECT array_agg(ARRAY[number, block, blocks] ORDER BY number) FROM sheet") == [
        [n, n, blocks] for n in range(1, blocks + 1)
    ]


@pytest.mark.parametrize(
    ("prefixes", "uri"),
    [
        (("x/y/", "x/y/z/"), f"s3://{BUCKET}/x/y"),
        (("x/yy/", "x/y/"), f"s3://{BUCKET}/x"),
        (("", "x/"), f"s3://{BUCKET}"),
    ],
)
def test_the_prefix_is_the_deepest_directory_of_all_keys(door: Door, prefixes: tuple[str, str], uri: str) -> None:
    """Whole segments, not letters."""
    rows = [*door.rows("a", prefix=prefixes[0]), *door.rows("b", prefix=prefixes[1])]

    door.submit(*rows)

    assert door.one("SELECT uri FROM push") == uri


def test_a_host_that_does_not_tell_the_bucket_is_told_instead(door: Door) -> None:
    """Nothing is guessed: the whole path is the key."""
    door.submit(*door.rows("a", "b", origin="https://files.example.org", prefix="any/thing/"))

    with transaction(door.engine) as c:
        assert tuple(c.execute(sa.text("SELECT uri, bucket, prefix FROM push")).one()) == (
            "https://files.example.org/any/thing",
            "",
            "any/thing",
        )


def test_one_url_for_one_file(door: Door) -> None:
    """From standard input, with a line break at its end; or a row as JSON."""
    source = str(door.source / "a")
    url = put_url("x/a", door.clock.now())
    accepted = [
        door.intake.submit_one(door.request(source=source), text) for text in (f"{url}\n", f'{{"url": "{url}"}}')
    ]

    assert [[(n, t.path, t.key) for n, t in door.tickets(door.set_of(a.push_id).id)] for a in accepted] == [
        [(1, "", "x/a")]
    ] * 2


def test_a_symlink_to_a_file_goes_by_its_own_name(door: Door) -> None:
    """As a worker plans it; its size is that of what it leads to."""
    link = door.source / "link"
    link.symlink_to(door.source / "a")
    rows = door.rows("link")

    seen = door.intake.preview(door.request(source=str(link)), numbered(*rows))

    assert ([(f.path, f.size) for f in seen.first], door.refusal(*door.rows("a"), source=str(link)).field) == (
        [("link", 5)],
        "path",
    )


def test_one_sas_for_a_whole_directory(door: Door) -> None:
    """Its files are not known yet, so patterns choose among them and no digest of a manifest is kept."""
    accepted = door.intake.submit_one(door.request(exclude=("b",)), tree_sas("ds/1", door.clock.now()))

    with transaction(door.engine) as c:
        row = tuple(c.execute(sa.text("SELECT uri, manifest_sha256, exclude FROM push")).one())
    [(_, ticket)] = door.tickets(door.set_of(accepted.push_id).id)
    assert (row, ticket.kind, ticket.key) == ((f"az://{BUCKET}/ds/1", None, ["b"]), "tree", "ds/1")


def test_a_push_is_kept_while_the_broker_is_away(door: Door) -> None:
    """The sweep announces it."""
    door.announcer.away = True

    assert (door.submit().announced, door.sets()) == (False, ["active"])


def test_a_retry_with_fresh_signatures_is_the_same_push(door: Door) -> None:
    """What it sealed is destroyed, the first push keeps what it has."""
    first = door.submit(idempotency_key="k")
    door.clock.moment += HOUR / 2
    again = door.submit(*door.rows(), idempotency_key="k")

    assert (again.push_id, again.created, sorted(door.sets()), {key[0] for key in door.vault.sheets}) == (
        first.push_id,
        False,
        ["active", "purged"],
        {door.set_of(first.push_id).id},
    )


@pytest.mark.parametrize(
    "change",
    [
        {"prefix": "runs/8/"},
        {"more": {"md5": "0" * 32}},
        {"labels": {"x": "y"}},
        {"overwrite": Overwrite.ALWAYS},
        {"paths": ("a", "b")},
    ],
    ids=str,
)
def test_another_request_under_the_same_key_is_refused(door: Door, change: dict[str, Any]) -> None:
    """Another key, checksum, word or file; and nothing of it is left."""
    door.submit(idempotency_key="k")
    words = {k: v for k, v in change.items() if k in {"labels", "overwrite"}}
    rows = door.rows(*change.get("paths", ()), prefix=change.get("prefix", "runs/7/"))
    rows = [row | change.get("more", {}) for row in rows]

    with pytest.raises(CloudPushError) as caught:
        door.submit(*rows, idempotency_key="k", **words)

    assert (caught.value.code, sorted(door.sets()), len(door.vault.sheets)) == (
        Code.IDEMPOTENCY_CONFLICT,
        ["active", "purged"],
        1,
    )


def test_a_short_life_and_missing_files_are_warned_of(door: Door) -> None:
    """A sparse terabyte takes longer than an hour at 10 MiB/s; nothing keeps it from being accepted."""
    with (door.source / "a").open("r+b") as f:
        f.truncate(2**40)
    accepted = door.submit(*door.rows("a", "gone"))

    first, second = accepted.warnings
    assert (first, second[:30], "1048576 MiB" in second) == (
        "1 of 2 files are not there yet, or cannot be pushed: 'gone' does not exist, or is a symlink to nothing.",
        "The first URL expires at " + f"{door.clock.now() + HOUR:%Y-%m-%d}"[:5],
        True,
    )


def test_a_callback_goes_with_the_push(door: Door) -> None:
    """By the name of a credential of the owner's."""
    secret = parse("resign_hook", {"url": "https://h.example.org/fresh", "secret": "0123456789abcdef"})
    hook = door.custody.add(Caller("ada"), secret, name="signer")

    door.submit(hook="signer")

    assert door.one("SELECT hook_id FROM push") == hook.id


def test_a_preview_reads_everything_and_stores_nothing(door: Door) -> None:
    """Sizes and files that are missing are those of the source now."""
    seen = door.intake.preview(door.request(), numbered(*door.rows("a", "gone", "b")))

    found = [(f.seq, f.path, f.key, f.size) for f in seen.first]
    refused = [(r.seq, r.path, r.error.code) for r in seen.refused]
    assert (seen.destination, seen.files, seen.bytes, seen.refusals, found, refused) == (
        f"s3://{BUCKET}/runs/7",
        2,
        10,
        1,
        [(1, "a", "runs/7/a", 5), (3, "b", "runs/7/b", 5)],
        [(2, "gone", Code.SOURCE_MISSING)],
    )
    assert (door.sets(), door.vault.sheets, door.announcer.pushes) == ([], {}, [])


def test_a_preview_of_a_directory_walks_it(door: Door) -> None:
    """As the push would, with its patterns."""
    seen = door.intake.preview_one(door.request(exclude=("b",)), tree_sas("ds/1", door.clock.now()))

    assert seen == Preview(f"az://{BUCKET}/ds/1", 2, 10, (), 0, seen.first)
    assert [f.key for f in seen.first] == ["ds/1/a", "ds/1/d/c"]


# -- refused ----------------------------------------------------------------------------------------


def test_all_mistakes_are_told_with_their_lines_and_nothing_is_left(door: Door) -> None:
    """The first tells code and field."""
    now = door.clock.now()
    expired = a_row("old", now - 3 * HOUR)
    early = a_row("new", now + HOUR)
    error = door.refusal(
        *door.rows("a"), expired, a_row("../up", now), a_row("/etc/passwd", now), early, {"path": "p", "url": "x"}
    )

    lines = [line.strip() for line in error.message.split("\n")]
    assert (error.code, lines[0], [line.partition(":")[0] for line in lines[1:]]) == (
        Code.URL_EXPIRED,
        "5 rows of the manifest cannot be used:",
        ["line 3", "line 4", "line 5", "line 6", "line 7"],
    )
    assert (f"{now - 2 * HOUR:%Y-%m-%dT%H:%M:%SZ}" in lines[1], f"{now + HOUR:%Y-%m-%dT%H:%M:%SZ}" in lines[4]) == (
        True,
        True,
    )


def test_no_more_than_twenty_mistakes_are_told_and_the_rest_is_not_read(door: Door) -> None:
    """A file that is no manifest is not read to its end."""
    read = 0

    def rows() -> Iterator[tuple[int, Mapping[str, object]]]:
        nonlocal read
        for read in range(1, 1000):
            yield read, {"nonsense": "x"}

    with pytest.raises(CloudPushError) as caught:
        door.intake.submit(door.request(), rows())

    assert (read, caught.value.message.count("\n"), "there may be more" in caught.value.message) == (20, 20, True)


@pytest.mark.parametrize(
    ("second", "field", "words"),
    [
        ({"path": "a"}, "path", "its path 'a' stands in line 2 already"),
        ({"key": "runs/7/a"}, "key", "its key 'runs/7/a' stands in line 2 already"),
        ({"origin": "https://other.s3.eu-west-1.amazonaws.com"}, "url", "its host is"),
        ({"origin": "https://s3.eu-west-1.amazonaws.com/other-bucket"}, "url", "its host is"),
        ({"tree": True}, "tree_sas_url", "it stands alone"),
    ],
    ids=str,
)
def test_rows_that_do_not_go_together_are_refused(door: Door, second: dict[str, Any], field: str, words: str) -> None:
    """One push has one provider, host and bucket, and each file and object once."""
    now = door.clock.now()
    url = put_url(second.get("key", "runs/7/b"), now, origin=second.get("origin", ORIGIN))
    row: dict[str, object] = {"path": second.get("path", "b"), "url": url}
    error = door.refusal(*door.rows("a"), {"tree_sas_url": tree_sas("x", now)} if "tree" in second else row)

    assert (error.code, error.field, error.message.startswith("line 3: "), words in error.message) == (
        Code.BAD_MANIFEST,
        field,
        True,
        True,
    )


def test_other_providers_and_buckets_on_one_host_are_refused(door: Door) -> None:
    """Path-style: the host is the same, the bucket is not."""
    origin = "https://s3.eu-west-1.amazonaws.com"
    error = door.refusal(*door.rows("a", origin=f"{origin}/bkt-a"), *door.rows("b", origin=f"{origin}/bkt-b"))

    assert "its bucket is 'bkt-b' and that of the rows before is 'bkt-a'" in error.message


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"destination": "s3://x/y"}, Code.BAD_INPUT, "destination"),
        ({"credential": "c"}, Code.BAD_INPUT, "credential"),
        ({"profile": "aws"}, Code.BAD_INPUT, "profile"),
        ({"min_strength": Strength.REREAD}, Code.BAD_INPUT, "min_strength"),
        ({"package": Package.BAGIT}, Code.BAD_INPUT, "package"),
        ({"include": ("*.csv",)}, Code.BAD_INPUT, "include"),
        ({"overwrite": Overwrite.NEVER}, Code.BAD_INPUT, "overwrite"),
        ({"source": "relative"}, Code.SOURCE_MISSING, "source"),
        ({"source": "/etc"}, Code.SOURCE_OUTSIDE_ROOTS, "source"),
        ({"owner": ""}, Code.BAD_INPUT, "owner"),
        ({"hook": "nobody"}, Code.UNKNOWN_CREDENTIAL, "resign_hook"),
    ],
    ids=str,
)
def test_words_that_do_not_go_with_signed_urls_are_refused(
    door: Door, changes: dict[str, Any], code: Code, field: str
) -> None:
    """By field; nothing is sealed for them."""
    error = door.refusal(*door.rows(), **changes)

    assert (error.code, error.field) == (code, field)


def test_overwrite_never_is_let_in_where_it_can_be_kept(door: Door) -> None:
    """A companion to look with, a signed condition, or Azure, which takes one with any SAS."""
    now = door.clock.now()
    head = a_row("a", now) | {"head_url": put_url("runs/7/a", now)}
    condition = a_row("b", now, signed="host;if-none-match") | {"headers": {"If-None-Match": "*"}}
    for row in (head, condition):
        door.submit(row, overwrite=Overwrite.NEVER)
    door.intake.submit_one(door.request(overwrite=Overwrite.NEVER), tree_sas("x", now))

    assert door.one("SELECT count(*) FROM push") == 3


def test_a_hook_must_be_the_owners_live_hook(door: Door) -> None:
    """Not another's, not of another kind, not one that was purged or expired."""
    secret = parse("resign_hook", {"url": "https://h.example.org/fresh", "secret": "0123456789abcdef"})
    key = parse("access_key", {"access_key_id": "A", "secret_access_key": "S"})
    foreign = door.custody.add(Caller("eve"), secret, name="hers")
    keys = door.custody.add(Caller("ada"), key, name="key")
    purged = door.custody.add(Caller("ada"), secret, name="purged")
    door.custody.purge(Caller("ada"), purged.id)
    expired = door.custody.add(Caller("ada"), secret, name="old", expires_at=door.clock.now() + HOUR)
    door.clock.moment += 2 * HOUR

    assert [door.refusal(hook=str(c.id)).code for c in (foreign, keys, purged, expired)] == [
        Code.NOT_OWNER,
        Code.BAD_INPUT,
        Code.CREDENTIAL_PURGED,
        Code.CREDENTIAL_EXPIRED,
    ]


def test_one_url_for_a_directory_is_refused(door: Door) -> None:
    """Nobody knows which file it is for."""
    with pytest.raises(CloudPushError) as caught:
        door.intake.submit_one(door.request(), put_url("x", door.clock.now()))

    assert (caught.value.code, caught.value.field, door.sets()) == (Code.BAD_INPUT, "source", [])


def test_a_manifest_for_a_source_that_is_a_file_names_that_file(door: Door) -> None:
    """Or no path at all."""
    error = door.refusal(*door.rows("b"), source=str(door.source / "a"))

    assert (error.code, error.field) == (Code.BAD_MANIFEST, "path")


@pytest.mark.parametrize("head", ["", "path,url\na,"])
def test_a_manifest_that_cannot_be_read_to_its_end_is_refused(door: Door, head: str) -> None:
    """Cut short after rows that were sealed already; empty; whatever it is, nothing is left."""
    now = door.clock.now()
    good = "".join(f"f{n},{put_url(f'runs/7/f{n}', now)}\n" for n in range(600)) if head else ""
    text = f'path,url\n{good}"f601,{CANARY}' if head else head

    with pytest.raises(CloudPushError) as caught:
        door.intake.submit(door.request(), manifest_rows(io.BytesIO(text.encode()), "csv"))

    states = ["purged"] if head else []
    assert (caught.value.code, CANARY in str(caught.value), door.sets(), door.vault.sheets) == (
        Code.BAD_MANIFEST,
        False,
        states,
        {},
    )
