"""The demo's chapters on the record: read by an auditor over the API, and proved without CloudPush."""

from __future__ import annotations

import json
from itertools import islice

from cloudpush.cli.demo_api import make_token
from cloudpush.cli.demo_keys import KEY
from cloudpush.cli.demo_run import BUCKET, Run, chapter, quote, say
from cloudpush.cli.exits import Exit

AUDITOR = "auditor"


def read_as_an_auditor(run: Run) -> None:
    """Somebody who sees everything and changes nothing."""
    chapter("11. The record, as an auditor reads it")
    auditor = run.somebody_else(AUDITOR)
    run(
        "--local",
        "role",
        "grant",
        AUDITOR,
        "auditor",
        says="The operator makes somebody an auditor; that is recorded, too.",
    )
    make_token(auditor, "reading", "--owner", AUDITOR, "--role", "auditor", "--scope", "read", "--scope", "audit")
    auditor("history", says="Everybody's pushes, newest first; the pages show the same, with charts.")
    auditor(
        *("push", str(run.reports), f"s3://{BUCKET}/audit", "--credential", KEY),
        expect=Exit.BAD_INPUT,
        says="Auditors change nothing.",
    )
    table = run.base / "pushes.csv"
    auditor(
        "export",
        "pushes",
        "--format",
        "csv",
        "-o",
        str(table),
        says="The same as a table; that somebody took a copy is an event.",
    )
    with table.open(encoding="utf-8") as lines:
        for line in islice(lines, 3):
            quote(f"  {line.rstrip()[:150]}…")
    say("")


def prove_it(run: Run) -> None:
    """A receipt that is checked offline, one that was tampered with, and the whole record."""
    chapter("12. A receipt: signed, and checked without CloudPush")
    newest_first = json.loads(run.quietly("history", "--json"))
    library = str(newest_first[-1]["id"])
    receipt, keys = run.base / "receipt.json", run.base / "cloudpush-audit.pem"
    run("show", library, "--files", "3", says="The push of thousands of files:")
    run(
        "receipt",
        "get",
        library,
        "-o",
        str(receipt),
        "--timeout",
        "30",
        says="Its receipt lists every file with its SHA-256.",
    )
    say("The public key; the private half is in Vault and never leaves it.")
    run.show("receipt", "key", f"> {keys.name}")
    keys.write_text(run.quietly("receipt", "key"))
    nowhere = run.with_settings({})
    nowhere(
        "receipt", "verify", str(receipt), "--key", str(keys), says="Checked offline: no server, no settings, no token."
    )
    copy = run.base / "tampered.json"
    whole = bytearray(receipt.read_bytes())
    whole[len(whole) // 2] ^= 1
    copy.write_bytes(whole)
    nowhere(
        *("receipt", "verify", str(copy), "--key", str(keys)),
        expect=Exit.UNSOUND,
        says=f"In a copy, one bit of one byte of {len(whole):,} is changed.",
    )
    run("audit", "seal", says="The operator has the notary seal all events now; it does so by itself every minute.")
    run(
        "audit",
        "verify",
        says="Every chain, file row and checkpoint is computed anew, and compared with what Vault signed.",
    )
    run("doctor", says="And is the installation itself as it should be?")
