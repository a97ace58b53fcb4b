"""The demo's chapters on an access key: handed over, tried out, used, packed as a bag, mistyped."""

from __future__ import annotations

import json
import secrets

from cloudpush.cli.demo_run import BUCKET, Run, chapter, quote, say
from cloudpush.cli.demo_stage import LIBRARY, REGION, objects
from cloudpush.cli.exits import Exit
from cloudpush.stack.seaweedfs import S3Identity, SeaweedFS

KEY = "my-bucket"


def hand_over_a_key(run: Run, cloud: SeaweedFS, user: S3Identity) -> None:
    """Seal the user's key, and try it out."""
    chapter("2. The user hands over an access key, and tries it out")
    _add(
        run,
        KEY,
        cloud,
        _secret(user, user.secret_key),
        "It goes in by standard input, is sealed in Vault, and is never shown again.",
    )
    run(
        "preflight",
        f"s3://{BUCKET}/python",
        "--credential",
        KEY,
        "--delete",
        says="A tiny object is written, looked at and deleted.",
    )


def push_a_library(run: Run) -> None:
    """Thousands of small files, twice."""
    chapter("3. A dataset of thousands of files: Python's own standard library")
    excludes = ["site-packages/**", "dist-packages/**"]
    refused = _refused(run, excludes)
    if refused:
        say(
            f"The dry run names {len(refused)} entries that a push would refuse, such as {refused[0]}; they are excluded."
        )
    excluding = [word for pattern in (*excludes, *refused) for word in ("--exclude", pattern)]
    push = ["push", LIBRARY, f"s3://{BUCKET}/python", "--credential", KEY, "--label", "project=demo"]
    shown = [*push, "--exclude", "…", "--wait"]
    run(
        *push,
        *excluding,
        "--wait",
        shown=shown,
        says="Each file is sent, hashed on its way, and looked up at its destination.",
    )
    run(
        *push,
        *excluding,
        "--wait",
        shown=shown,
        says="Again: what is there and proved equal is not sent a second time.",
    )


def push_a_bag(run: Run, cloud: SeaweedFS, user: S3Identity) -> None:
    """A push that writes a BagIt manifest beside the data."""
    chapter("6. A push that packs its data as a bag (BagIt)")
    run("push", str(run.reports), f"s3://{BUCKET}/bag", "--credential", KEY, "--package", "bagit", "--wait")
    say("Asked directly, the user's cloud holds:")
    for key, size in objects(cloud, user, "bag/").items():
        quote(f"  {size:>8}  {key}")
    say("")


def push_with_a_wrong_key(run: Run, cloud: SeaweedFS, user: S3Identity) -> None:
    """A credential that opens nothing."""
    chapter("7. A wrong secret: what its user sees")
    _add(
        run,
        "mistyped",
        cloud,
        _secret(user, "not-" + secrets.token_hex(16)),
        "Nobody can see from outside that it is wrong.",
    )
    run(
        *("push", str(run.reports), f"s3://{BUCKET}/never", "--credential", "mistyped", "--wait"),
        expect=Exit.FAILED,
        says="It is tried out before any data moves.",
    )


def _add(run: Run, name: str, cloud: SeaweedFS, secret: str, says: str) -> None:
    where = ["--endpoint", cloud.endpoint, "--profile", "seaweedfs", "--region", REGION]
    run("credential", "add", "--kind", "access_key", "--name", name, *where, "--from-stdin", stdin=secret, says=says)


def _refused(run: Run, excludes: list[str]) -> list[str]:
    """What a push of the library would refuse: on some systems it has links that lead out of it."""
    options = [word for pattern in excludes for word in ("--exclude", pattern)]
    push = ["push", LIBRARY, f"s3://{BUCKET}/python", "--credential", KEY, *options, "--dry-run", "--json"]
    return [r["path"] for r in json.loads(run.quietly(*push, expect=None))["refused"]]


def _secret(user: S3Identity, secret: str) -> str:
    return json.dumps({"access_key_id": user.access_key, "secret_access_key": secret})
