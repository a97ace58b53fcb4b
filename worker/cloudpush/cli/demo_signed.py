"""The demo's chapters on signed URLs: no account of anybody's is handed over."""

from __future__ import annotations

import json
import time

from cloudpush.cli.demo_run import BUCKET, Run, chapter, quote, say
from cloudpush.cli.demo_stage import presigned
from cloudpush.errors import Code, StackError
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.stack.azurite import Azurite
from cloudpush.stack.seaweedfs import S3Identity, SeaweedFS

PURGED_SECONDS = 30.0


def push_with_signed_urls(run: Run, cloud: SeaweedFS, user: S3Identity) -> None:
    """A manifest with a URL for each file."""
    chapter("8. No account at all: the user's portal signs a URL for each file (S3)")
    files = sorted(run.reports.iterdir())
    rows = [{"path": file.name, "url": presigned(cloud, user, f"reports/{file.name}")} for file in files]
    say("A manifest, one row a file; it goes in by standard input, since URLs are secrets:")
    quote(f"  {json.dumps(rows[0])[:150]}…")
    manifest = "".join(json.dumps(row) + "\n" for row in rows)
    words = ["push", str(run.reports), "--manifest", "-", "--manifest-format", "jsonl", "--min-strength", "checksum"]
    run(*words, "--wait", stdin=manifest)


def push_with_a_sas(run: Run, azure: Azurite) -> None:
    """One shared access signature for a whole directory, destroyed when its push is over."""
    chapter("9. A whole directory by one shared access signature (Azure)")
    url = azure.signed_url(BUCKET)
    quote(f"  {url[:110]}…")
    run("push", str(run.reports), "--signed-url", "-", "--wait", stdin=url)
    _wait_until_purged(run)
    run(
        *("credential", "list", "--purged"),
        says="The URLs were sealed in Vault. The pushes are over, so they are destroyed there; their record stays:",
    )


def _wait_until_purged(run: Run) -> None:
    """The sweeper destroys URLs within seconds after their push."""
    deadline = time.monotonic() + PURGED_SECONDS
    while time.monotonic() < deadline:
        listed = json.loads(run.quietly("credential", "list", "--purged", "--json"))
        if all(c["state"] == "purged" for c in listed if c["kind"] == SIGNED_URLS):
            return
        time.sleep(0.2)
    raise StackError(Code.STACK, f"URLs are still in Vault {PURGED_SECONDS:g} s after their push was over.")
