"""Pushing, as a pipeline or a person does it: what they type, what they are told, what lies in their bucket."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import servers
from acceptance.live import Cli, Exit, Live
from cloudpush.audit.history import Filter

pytestmark = pytest.mark.xdist_group("live")

PREFIX = "names"
#: A key of 1,024 bytes: the longest there is. No name in it is longer than file systems allow.
LONGEST = "/".join(["k" * 200] * 4 + ["é" * 107])
#: Larger than what is sent in one request, and no whole number of pieces.
BIG_BYTES = 65 * 1024**2 + 1
NAMES: dict[str, bytes] = {
    "plain.csv": b"a,b\n1,2\n",
    "ünï cödé/日本語.txt": b"unicode",
    "e\u0301 decomposed": b"another spelling of an accent stays another",
    " blanks at both ends ": b"blanks",
    "line\nbreak.txt": b"newline",
    "-rf": b"no option",
    "--help": b"no option either",
    "empty.bin": b"",
    "deep/er/and/deeper/still/leaf": b"leaf",
    "50%25 + a&b=c?d#e;f'g\"h.txt": b"signs that mean something elsewhere",
    LONGEST: b"a key of 1,024 bytes",
    "big.bin": os.urandom(1024**2) * 65 + b"!",
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def names(live: Live) -> Path:
    """A directory of files with every kind of name, and an empty directory."""
    source = live.source("names", NAMES)
    (source / "empty directory").mkdir()
    return source


@pytest.fixture(scope="module")
def pushed(live: Live, names: Path, good: str) -> tuple[str, dict[str, Any]]:
    """The directory, pushed into a bucket: its name and what `push --wait --json` answered."""
    bucket = live.cloud.make_bucket()
    run = live.cli("push", names, f"s3://{bucket}/{PREFIX}/", "--credential", good, "--wait", "--json")
    assert run.code == Exit.SUCCEEDED, run
    return bucket, run.json


def test_every_file_arrives_whole_and_nothing_else_does(live: Live, pushed: tuple[str, dict[str, Any]]) -> None:
    """Whatever it is called, a file lies under its own name with its own bytes; empty directories have no key."""
    bucket, _ = pushed

    there = {key: sha256(live.cloud.read(bucket, key)) for key in live.cloud.keys(bucket)}

    assert there == {f"{PREFIX}/{path}": sha256(data) for path, data in NAMES.items()}
    assert (len(f"{PREFIX}/{LONGEST}".encode()), live.cloud.uploads(bucket)) == (1024, [])


def test_verdict_counts_what_was_done(pushed: tuple[str, dict[str, Any]]) -> None:
    """The answer of `push --wait --json` is the whole verdict, numbers as numbers."""
    _, row = pushed

    told = ("state", "files_total", "files_verified", "files_skipped", "bytes_total", "bytes_verified", "sent_bytes")
    size = sum(map(len, NAMES.values()))
    assert {name: row[name] for name in (*told, "strength", "error_code")} == {
        "state": "succeeded",
        "files_total": len(NAMES),
        "files_verified": len(NAMES),
        "files_skipped": 0,
        "bytes_total": size,
        "bytes_verified": size,
        "sent_bytes": 0,
        "strength": "checksum",
        "error_code": None,
    }


def test_show_tells_of_each_file_what_it_was_and_how_it_is_proved(cli: Cli, pushed: tuple[str, dict[str, Any]]) -> None:
    """The record names every file with its own digest, and the steps in their order."""
    _, row = pushed

    shown = cli("show", row["id"], "--json", "--files", "0").json

    assert {f["path"]: (f["state"], f["strength"], f["size"], f["sha256"]) for f in shown["files"]} == {
        path: ("verified", "checksum", len(data), sha256(data)) for path, data in NAMES.items()
    }
    assert [e["kind"] for e in shown["events"]][:8] == [  # its receipt may follow
        "push.queued",
        "push.claimed",
        "credential.used",
        "push.preflight",
        "push.planned",
        "credential.used",
        "part.finished",
        "push.succeeded",
    ]


def test_history_finds_the_push_by_its_bucket(cli: Cli, pushed: tuple[str, dict[str, Any]]) -> None:
    """As JSON it is the verdict; as a table it shows an id that can be copied."""
    bucket, row = pushed

    as_json = cli("history", "--bucket", bucket, "--json").json
    as_table = cli("history", "--bucket", bucket).out

    assert [{k: found[k] for k in found} for found in as_json] == [{k: row[k] for k in found} for found in as_json]
    assert (len(as_json), row["id"] in as_table) == (1, True)


def test_audit_of_the_push_is_sound(cli: Cli, pushed: tuple[str, dict[str, Any]]) -> None:
    """Its chain and the digest of its files are what they were when they were written."""
    _, row = pushed

    report = cli("audit", "verify", row["id"], "--json").json

    told = {name: report[name] for name in ("sound", "chains", "parts", "files", "faults")}
    assert told == {"sound": True, "chains": 1, "parts": 1, "files": len(NAMES), "faults": []}
    assert report["events"] >= 8  # its receipt may follow


def test_second_push_sends_nothing(cli: Cli, names: Path, good: str, pushed: tuple[str, dict[str, Any]]) -> None:
    """What is there and proved equal is skipped, and recorded as such."""
    bucket, _ = pushed

    again = cli("push", names, f"s3://{bucket}/{PREFIX}", "--credential", good, "--wait", "--json")

    counts = {k: again.json[k] for k in ("state", "files_skipped", "files_verified", "strength")}
    assert (again.code, counts) == (
        Exit.SUCCEEDED,
        {"state": "succeeded", "files_skipped": len(NAMES), "files_verified": 0, "strength": "checksum"},
    )


@pytest.mark.parametrize(
    ("policy", "there", "code", "counts", "left"),
    [
        pytest.param("never", b"new", Exit.SUCCEEDED, "skipped", b"new", id="never-equal"),
        pytest.param("never", b"old", Exit.FAILED, "failed", b"old", id="never-different"),
        pytest.param("if-different", b"old", Exit.SUCCEEDED, "verified", b"new", id="if-different"),
        pytest.param("always", b"new", Exit.SUCCEEDED, "verified", b"new", id="always-equal"),
    ],
)
def test_overwrite_does_what_its_name_says(
    live: Live, bucket: str, good: str, policy: str, there: bytes, code: Exit, counts: str, left: bytes
) -> None:
    """An object that is there already is kept, replaced or sent again as the user asked."""
    source = live.source("one", {"file": b"new"})
    live.cloud.client.put_object(Bucket=bucket, Key="file", Body=there)

    run = live.cli(
        *("push", source / "file", f"s3://{bucket}", "--credential", good, "--wait", "--json", "--overwrite", policy)
    )

    words = ("verified", "skipped", "failed")
    assert (run.code, {w: run.json[f"files_{w}"] for w in words}, live.cloud.read(bucket, "file")) == (
        code,
        {w: int(w == counts) for w in words},
        left,
    )


def test_patterns_choose_and_labels_find(live: Live, bucket: str, good: str) -> None:
    """Only what is included and not excluded is pushed, and the push is found by its label."""
    files = ("a.csv", "b.tmp", "raw/c.csv", "raw/skip/d.csv", "notes.txt")
    source = live.source("patterns", {path: path.encode() for path in files})

    run = live.cli(
        *("push", source, f"s3://{bucket}", "--credential", good, "--wait", "--json"),
        *("--include", "*.csv", "--include", "*.tmp", "--exclude", "raw/skip", "--exclude", "*.tmp"),
        *("--label", f"run={bucket}", "--label", "note=Größe = 5 µm"),
    )

    found = live.cli("history", "--label", f"run={bucket}", "--json").json
    assert (run.code, sorted(live.cloud.keys(bucket)), [(row["id"], row["labels"]) for row in found]) == (
        Exit.SUCCEEDED,
        ["a.csv", "raw/c.csv"],
        [(run.json["id"], {"run": bucket, "note": "Größe = 5 µm"})],
    )


def test_idempotency_key_stands_for_one_push(live: Live, bucket: str, good: str) -> None:
    """Submitted again it is the same push; for another request it is refused."""
    source = live.source("once", {"file": b"once"})
    words = ("push", source, f"s3://{bucket}", "--credential", good, "--idempotency-key", bucket)

    first = live.cli(*words, "--wait", "--json")
    again = live.cli(*words, "--json")
    other = live.cli(*words, "--overwrite", "always")

    assert (again.json["push"], again.json["created"]) == (first.json["id"], False)
    assert (other.refusal, first.json["id"] in other.err) == ((Exit.BAD_INPUT, "IDEMPOTENCY_CONFLICT"), True)


def test_dry_run_tells_and_stores_nothing(live: Live, bucket: str, good: str) -> None:
    """What would be pushed, and what would be refused, without a row or an object."""
    source = live.source("dry", {"one": b"1", "two": b"22"})
    os.mkfifo(source / "pipe")

    run = live.cli("push", source, f"s3://{bucket}/to", "--credential", good, "--dry-run", "--json")

    assert (run.code, run.json, live.cloud.keys(bucket)) == (
        Exit.BAD_INPUT,
        {
            "destination": f"s3://{bucket}/to",
            "files": 2,
            "bytes": 3,
            "refusals": 1,
            "warnings": [],
            "refused": [{"path": "pipe", "code": "SOURCE_NOT_A_FILE", "message": "'pipe' is a pipe"}],
            "first": [{"path": "one", "key": "to/one", "size": 1}, {"path": "two", "key": "to/two", "size": 2}],
        },
        {},
    )
    assert live.services.history.pushes(Filter(bucket=bucket)) == []


def test_stronger_proof_than_the_destination_gives_is_no_success(live: Live, bucket: str, good: str) -> None:
    """Uploaded, but not proved as strongly as demanded: unverified, with its own exit code."""
    live.cli(
        "push", live.source("lax", {"lax": b"lax"}), f"s3://{bucket}", "--credential", good, "--wait"
    )  # is known now
    source = live.source("strict", {"file": b"strict"})

    run = live.cli(
        *("push", source, f"s3://{bucket}", "--credential", good, "--wait", "--json", "--min-strength", "reread")
    )

    told = {k: run.json[k] for k in ("state", "strength", "files_unverified", "error_code")}
    assert (run.code, told, live.cloud.read(bucket, "file")) == (
        Exit.UNVERIFIED,
        {"state": "unverified", "strength": "checksum", "files_unverified": 1, "error_code": "NOT_VERIFIED"},
        b"strict",
    )


def test_preflight_says_what_a_credential_may_do(live: Live, bucket: str, good: str) -> None:
    """A worker tries it out, and leaves nothing behind; the exit code tells the answer."""
    reader = live.credential(servers.READER)
    asked = ("preflight", f"s3://{bucket}/runs", "--delete", "--abort", "--credential")

    may, may_not, shown = live.cli(*asked, good, "--json"), live.cli(*asked, reader, "--json"), live.cli(*asked, reader)

    names = [[(check["name"], check["ok"]) for check in run.json["checks"]] for run in (may, may_not)]
    assert (may.code, may.json["state"], names) == (
        Exit.SUCCEEDED,
        "passed",
        [[("write", True), ("head", True), ("delete", True), ("abort", True)], [("write", False)]],
    )
    assert (may_not.code, may_not.json["error_code"], shown.code) == (Exit.UNSOUND, "ACCESS_DENIED", Exit.UNSOUND)
    assert "FAIL  write" in shown.out
    assert (live.cloud.keys(bucket), live.cloud.uploads(bucket)) == ({}, [])


@pytest.mark.parametrize(
    ("demanded", "code", "told", "keys"),
    [
        ("checksum", Exit.FAILED, ("failed", None, "ACCESS_DENIED"), {}),  # before anything was sent
        ("response", Exit.SUCCEEDED, ("succeeded", "response", None), {"a": 5, "b": 8}),
    ],
)
def test_key_that_may_only_write_proves_a_response_at_most(
    live: Live, bucket: str, demanded: str, code: Exit, told: tuple[str | None, ...], keys: dict[str, int]
) -> None:
    """Without the right to look there is only the answer to the upload, and the verdict claims no more."""
    source = live.source("blind", {"a": b"blind", "b": b"as a bat"})
    writer = live.credential(servers.WRITER)

    run = live.cli(
        *("push", source, f"s3://{bucket}", "--credential", writer, "--wait", "--json", "--min-strength", demanded)
    )

    found = tuple(run.json[name] for name in ("state", "strength", "error_code"))
    assert (run.code, found, live.cloud.keys(bucket)) == (code, told, keys)


def test_waiting_ends_at_its_timeout_and_the_push_goes_on(live: Live, bucket: str, gated: str) -> None:
    """The exit code says that there is no verdict yet, and the words say how to wait for it."""
    source = live.big_source()

    with live.gate.closed():
        waited = live.cli("push", source, f"s3://{bucket}", "--credential", gated, "--wait", "--timeout", "0.5")
    push_id = re.findall(r"cloudpush wait (\S+)", waited.err)[0]
    ended = live.cli("wait", push_id)

    assert (waited.code, ended.code, live.row(push_id)["state"]) == (Exit.TIMED_OUT, Exit.SUCCEEDED, "succeeded")


def test_plain_lines_where_there_is_no_terminal(live: Live, bucket: str, gated: str) -> None:
    """A log gets whole lines on standard error, without a single control character, and the verdict on standard output."""
    source = live.big_source()

    with live.gate.closed():
        process = live.cli.start("push", source, f"s3://{bucket}", "--credential", gated, "--wait")
        push_id = live.wait_until_stuck(bucket)
        live.gate.open()
        run = live.cli.end(process)

    lines = run.err.splitlines()
    assert (run.code, re.findall(r"[^\n -~]", run.err)) == (Exit.SUCCEEDED, [])
    assert all(
        re.fullmatch(r"(queued|running|succeeded): [\d.]+ [KMG]?i?B of [\d.]+ [KMG]?i?B(, .*/s)?", x) for x in lines
    )
    assert (lines[-1], run.out.splitlines()) == (
        "succeeded: 96.0 MiB of 96.0 MiB",
        [
            f"succeeded {push_id} → s3://{bucket}",
            "  1 files, 96.0 MiB: 1 verified; proved by checksum",
        ],
    )


def test_progress_bar_on_a_terminal(live: Live, bucket: str, gated: str) -> None:
    """A person sees a bar with what was sent of how much, and in the end the verdict in its place."""
    source = live.big_source()

    with live.gate.closed():
        push_id = live.cli("push", source, f"s3://{bucket}", "--credential", gated).out.strip()
        live.wait_until_stuck(bucket)
        terminal, theirs = pty.openpty()
        process = subprocess.Popen(
            live.cli.command("wait", push_id),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=live.cli.environment | {"TERM": "xterm-256color", "COLUMNS": "120"},
        )
        os.close(theirs)
        shown = _read_until(terminal, "96.0 MiB")
        live.gate.open()
        shown += _read_until(terminal, "proved by checksum")
    code = process.wait(60)
    os.close(terminal)

    assert (code, "━" in shown, re.findall(r"running.*?/ ?96\.0 MiB", shown) != []) == (Exit.SUCCEEDED, True, True)


def _read_until(terminal: int, word: str) -> str:
    """What a terminal shows until ``word`` is on it, or the program has ended."""
    shown = b""
    with contextlib.suppress(OSError):  # Linux says EIO when nobody has the other end open
        while word not in shown.decode(errors="ignore"):
            shown += os.read(terminal, 65536)
    return shown.decode(errors="replace")
