"""What goes wrong, and what its user is told: which field, which value, what to do; never a false success."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen
from uuid import UUID

import boto3
import pytest
import redis
from botocore.exceptions import ClientError

import servers
from acceptance.live import ROLE_ARN, Cli, Exit, Live, closed_port, until
from cloudpush.audit.history import Filter
from cloudpush.errors import Code
from cloudpush.stack import binaries
from cloudpush.stack.seaweedfs import S3Identity

pytestmark = pytest.mark.xdist_group("live")

SECRET = "access_key_id=AKSOMEBODY\nsecret_access_key=somesecret\n"

# -- refused before anything is stored --------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What the words of a command may name."""

    live: Live
    source: Path
    bucket: str
    good: str
    theirs: str


@pytest.fixture(scope="module")
def given(live: Live, good: str) -> Given:
    """A source, a bucket and credentials."""
    source = live.source("good", {"file": b"good"})
    (source.parent / "leads-out").symlink_to("/etc")
    (source.parent / "to-itself").symlink_to("to-itself")
    return Given(live, source, live.cloud.make_bucket(), good, live.credential(owner="somebody-else"))


def push(source: str = "{source}", destination: str = "s3://{bucket}/to", *more: str) -> tuple[str, ...]:
    return ("push", source, destination, *(more if "--credential" in more else (*more, "--credential", "{good}")))


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        pytest.param(
            push("{source}", "s3://{bucket}", "--credential", "nobodys"),
            Code.UNKNOWN_CREDENTIAL,
            ("credential 'nobodys'", "owner '{owner}'"),
            id="unknown-credential",
        ),
        pytest.param(
            push("{source}", "s3://{bucket}", "--credential", "{theirs}"),
            Code.NOT_OWNER,
            ("credential '{theirs}' belongs to another owner",),
            id="somebody-elses-credential",
        ),
        pytest.param(
            push("/etc"), Code.SOURCE_OUTSIDE_ROOTS, ("source '/etc'", "({sources})"), id="source-outside-roots"
        ),
        pytest.param(
            push("{sources}/leads-out/passwd"),
            Code.SOURCE_OUTSIDE_ROOTS,
            ("source '{sources}/leads-out/passwd'", "({sources})"),
            id="source-outside-roots-by-symlink",
        ),
        pytest.param(
            push("{source}/gone"), Code.SOURCE_MISSING, ("'{source}/gone' does not exist",), id="source-missing"
        ),
        pytest.param(
            push("{sources}/to-itself"),
            Code.SOURCE_UNREADABLE,
            ("'{sources}/to-itself' cannot be read",),
            id="source-unreadable",
        ),
        pytest.param(
            push("{source}", "{bucket}/to"),
            Code.BAD_URI,
            ("destination '{bucket}/to' has no scheme", "write s3://BUCKET/PREFIX"),
            id="uri-without-scheme",
        ),
        pytest.param(
            push("{source}", "ftp://{bucket}/to"),
            Code.BAD_URI,
            ("destination 'ftp://{bucket}/to'", "unknown scheme 'ftp'", "write one of"),
            id="uri-of-another-scheme",
        ),
        pytest.param(
            push("{source}", "s3://Not_A_Bucket/to"),
            Code.BAD_URI,
            ("destination 's3://Not_A_Bucket/to'", "names 'Not_A_Bucket'", "lower-case"),
            id="uri-without-bucket",
        ),
        pytest.param(
            push("{source}", "s3://{bucket}/a/../b"),
            Code.BAD_URI,
            ("destination 's3://{bucket}/a/../b'", "segment '..'", "without . and .."),
            id="uri-that-escapes",
        ),
        pytest.param(
            push("{source}", "s3://{bucket}", "--profile", "nowhere"),
            Code.BAD_INPUT,
            ("profile 'nowhere' does not exist", "choose one of"),
            id="unknown-profile",
        ),
        pytest.param(
            push("{source}", "s3://{bucket}", "--label", "Größe=5"),
            Code.BAD_INPUT,
            ("label 'Größe'", "use 1 to 63 of a-z"),
            id="bad-label",
        ),
        pytest.param(
            push("{source}", "s3://{bucket}", "--min-strength", "utter"),
            Code.BAD_INPUT,
            ("min-strength 'utter'", "response, size, ingest, checksum, reread"),
            id="bad-min-strength",
        ),
        pytest.param(
            ("credential", "add", "--name", "inside", "--endpoint", "https://10.1.2.3", "--from-stdin"),
            Code.ENDPOINT_FORBIDDEN,
            ("endpoint 'https://10.1.2.3' is a private address", "CLOUDPUSH_ALLOWED_ENDPOINTS"),
            id="private-endpoint",
        ),
    ],
)
def test_wrong_request_is_refused_and_nothing_is_stored(
    given: Given, words: tuple[str, ...], code: Code, says: tuple[str, ...]
) -> None:
    """The message names the field, its value and the fix; there is no push and no credential afterwards."""
    names = {**vars(given), "sources": given.live.sources, "owner": given.live.owner}
    before = _rows(given.live)

    run = given.live.cli(*(word.format(**names) for word in words), stdin=SECRET)

    assert (run.refusal, run.out, _rows(given.live)) == ((Exit.BAD_INPUT, code), "", before)
    assert [text for text in (*says, code.fix) if text.format(**names) not in run.err] == []


def test_endpoint_that_is_allowed_no_longer_is_refused(given: Given) -> None:
    """What the operator took off the list cannot be pushed to with a credential from before."""
    words = push()

    run = given.live.cli(*(word.format(**vars(given)) for word in words), CLOUDPUSH_ALLOWED_ENDPOINTS="10.9.9.9")

    assert (run.refusal, given.live.cloud.endpoint in run.err) == ((Exit.BAD_INPUT, Code.ENDPOINT_FORBIDDEN), True)


def _rows(live: Live) -> tuple[int, int]:
    """How many pushes there are, and credentials."""
    with live.superuser() as connection:
        row = connection.execute("SELECT (SELECT count(*) FROM push), (SELECT count(*) FROM credential)").fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


# -- found out when it is executed ------------------------------------------------------------------


def wrong_secret(live: Live) -> str:
    return live.credential(secret="another" + servers.ADMIN.secret_key)


def unknown_key(live: Live) -> str:
    return live.credential(S3Identity("nobody", "AKNOBODY000000000001", servers.ADMIN.secret_key))


def expired_session(live: Live) -> str:
    """A session that the server itself does not accept any more."""
    sts = boto3.client(
        "sts",
        endpoint_url=live.cloud.endpoint,
        aws_access_key_id=servers.ADMIN.access_key,
        aws_secret_access_key=servers.ADMIN.secret_key,
        region_name=servers.REGION,
    )
    session = sts.assume_role(RoleArn=ROLE_ARN, RoleSessionName="acceptance")["Credentials"]
    s3 = boto3.client(
        "s3",
        endpoint_url=live.cloud.endpoint,
        aws_access_key_id=session["AccessKeyId"],
        aws_secret_access_key=session["SecretAccessKey"],
        aws_session_token=session["SessionToken"],
        region_name=servers.REGION,
    )
    bucket = live.cloud.make_bucket()
    assert _may_list(s3, bucket), "the session was never valid"
    until(lambda: not _may_list(s3, bucket), "the session has expired")
    identity = S3Identity("session", session["AccessKeyId"], session["SecretAccessKey"])
    return live.credential(identity, token=session["SessionToken"])


def _may_list(s3: Any, bucket: str) -> bool:
    try:
        s3.list_objects_v2(Bucket=bucket)
    except ClientError:
        return False
    return True


def refusing_endpoint(live: Live) -> str:
    return live.credential(endpoint=f"http://127.0.0.1:{closed_port()}")


def endpoint_without_address(live: Live) -> str:
    return live.credential(endpoint="https://no-such-host.invalid")


def good_credential(live: Live) -> str:
    return live.credential()


@pytest.mark.parametrize(
    ("credential", "destination", "code", "says"),
    [
        (good_credential, "s3://no-such-bucket-here/to", Code.NO_SUCH_BUCKET, "no-such-bucket-here"),
        (wrong_secret, "s3://{bucket}/to", Code.BAD_SIGNATURE, "key"),
        (unknown_key, "s3://{bucket}/to", Code.BAD_SIGNATURE, "key"),
        (expired_session, "s3://{bucket}/to", Code.CREDENTIAL_EXPIRED, "expired"),
        (refusing_endpoint, "s3://{bucket}/to", Code.ENDPOINT_REFUSED, "127.0.0.1"),
        (endpoint_without_address, "s3://{bucket}/to", Code.ENDPOINT_UNRESOLVABLE, "no-such-host.invalid"),
    ],
)
def test_destination_that_does_not_take_it_fails_the_push(
    given: Given, credential: Callable[[Live], str], destination: str, code: Code, says: str
) -> None:
    """The push ends as failed, with a stable code, who must act and what to do."""
    words = ("push", given.source, destination.format(bucket=given.bucket), "--credential", credential(given.live))

    run = given.live.cli(*words, "--wait")

    assert (run.code, f"{code} " in run.out, says in run.out) == (Exit.FAILED, True, True), run
    assert f"{code.actor} must act: {code.fix}" in run.out
    assert given.live.cloud.keys(given.bucket) == {}


# -- the source changes or cannot be read -----------------------------------------------------------


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"one more line\n")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"the same size, other bytes")


@pytest.mark.parametrize("change", [append, overwrite])
def test_source_that_changes_while_it_is_pushed_is_no_success(
    live: Live, bucket: str, gated: str, change: Callable[[Path], None]
) -> None:
    """A pipeline that still writes is noticed although every byte that was sent has arrived."""
    source = live.big_source()
    with live.gate.closed():
        push_id = live.cli("push", source, f"s3://{bucket}", "--credential", gated).out.strip()
        live.wait_until_stuck(bucket)
        change(source / "big.bin")

    run = live.cli("wait", push_id, "--json")

    assert (run.code, run.json["files_failed"], live.files(push_id)["big.bin"]["error_code"]) == (
        Exit.FAILED,
        1,
        Code.SOURCE_CHANGED,
    )


@pytest.fixture(scope="module")
def poor_worker(live: Live) -> Iterator[tuple[dict[str, str], int]]:
    """A worker that cannot write its logs and may not read everything: the variables that lead to it, and its pid.

    Its queue is its own: while the sweeper sleeps no other worker hears of what is announced there.
    """
    broker = live.settings.redis_url.replace("db=0", "db=1")
    environment = {"CLOUDPUSH_REDIS_URL": broker}
    if os.geteuid() == 0:
        # Root without its powers may not open a socket that another account owns. The directory stays private.
        next(Path(live.settings.runtime_dir or "").parent.glob(".s.PGSQL.*[0-9]")).chmod(0o777)
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(
            live.cli.command("worker"),
            env=live.cli.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
            preexec_fn=_without_powers,  # noqa: PLW1509 -- two system calls; nothing that a lock could hold up
        )
        try:
            with redis.Redis.from_url(broker) as client:
                until(lambda: any(c["db"] == "1" and c["cmd"] == "brpop" for c in client.client_list()), "it listens")
            yield environment, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _without_powers() -> None:
    """Even root may then read only what its owner, group or mode lets it read (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH)."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; refused, and not needed, where we are not root


def test_full_disk_for_logs_stops_no_push(
    live: Live, bucket: str, good: str, poor_worker: tuple[dict[str, str], int]
) -> None:
    """A worker whose log cannot be written goes on working."""
    environment, pid = poor_worker
    source = live.source("quiet", {"file": b"quiet"})

    with live.asleep("sweeper"):
        run = live.cli("push", source, f"s3://{bucket}", "--credential", good, "--wait", "--json", **environment)

    assert (run.code, run.json["worker"].endswith(f":{pid}"), live.cloud.keys(bucket)) == (
        Exit.SUCCEEDED,
        True,
        {"file": 5},
    )


def test_file_that_the_worker_may_not_read_fails_the_push(
    live: Live, bucket: str, good: str, poor_worker: tuple[dict[str, str], int]
) -> None:
    """The file is named; the others are pushed all the same."""
    environment, _ = poor_worker
    source = live.source("closed", {"closed.txt": b"closed", "open.txt": b"open"})
    (source / "closed.txt").chmod(0)

    with live.asleep("sweeper"):
        run = live.cli("push", source, f"s3://{bucket}", "--credential", good, "--wait", "--json", **environment)

    told = {path: (f["state"], f["error_code"]) for path, f in live.files(run.json["id"]).items()}
    assert (run.code, told, live.cloud.keys(bucket)) == (
        Exit.FAILED,
        {"closed.txt": ("failed", Code.SOURCE_UNREADABLE), "open.txt": ("verified", None)},
        {"open.txt": 4},
    )


# -- parts of CloudPush are away ---------------------------------------------------------------------


def test_push_waits_while_vault_is_down(live: Live, bucket: str, good: str) -> None:
    """The events say what is missing; nothing counts against the push, and it goes on when Vault is back."""
    source = live.source("patient", {"file": b"patient"})
    with live.outage("openbao"):
        push_id = live.cli("push", source, f"s3://{bucket}", "--credential", good).out.strip()
        until(lambda: Code.VAULT_UNREACHABLE in _troubles(live, push_id), "the events name Vault")
        waiting = live.row(push_id)["state"]

    run = live.cli("wait", push_id, "--json")

    strikes = [part["strikes"] for part in live.services.history.parts(UUID(push_id))]
    assert (waiting in {"queued", "running"}, run.code, strikes) == (True, Exit.SUCCEEDED, [0])


def test_push_waits_while_vault_is_sealed(live: Live, bucket: str, good: str) -> None:
    """Sealed is told apart from away, and new credentials are refused with that code as well."""
    source = live.source("sealed", {"file": b"sealed"})
    with live.outage("openbao"), sealed_vault(live):
        push_id = live.cli("push", source, f"s3://{bucket}", "--credential", good).out.strip()
        until(lambda: Code.VAULT_SEALED in _troubles(live, push_id), "the events say that Vault is sealed")
        added = live.cli("credential", "add", "--name", "too-early", "--from-stdin", stdin=SECRET)

    run = live.cli("wait", push_id, "--json")

    assert (added.refusal, run.code) == ((Exit.UNAVAILABLE, Code.VAULT_SEALED), Exit.SUCCEEDED)


@contextmanager
def sealed_vault(live: Live) -> Iterator[None]:
    """OpenBao on its own data and port, with a key that does not open it."""
    home = live.data / "openbao"
    key = home / "wrong.key"
    key.write_text("00" * 32)
    config = home / "sealed.hcl"
    config.write_text((home / "server.hcl").read_text().replace("/seal.key", "/wrong.key"))
    server = subprocess.Popen(
        [binaries.openbao(), "server", f"-config={config}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _is_sealed(live.settings.vault_url), "Vault is sealed")
        yield
    finally:
        server.kill()
        server.wait()
        key.unlink()
        config.unlink()


def _is_sealed(url: str) -> bool:
    try:
        urlopen(f"{url}/v1/sys/health", timeout=5).close()
    except HTTPError as e:
        return bool(json.load(e)["sealed"])
    except OSError:
        return False
    return False


def _troubles(live: Live, push_id: str) -> set[str]:
    """The codes with which attempts ended that will be repeated."""
    return {e["data"]["code"] for e in live.events(push_id) if e["kind"].endswith(".retry_scheduled")}


def test_push_is_kept_while_the_broker_is_down(live: Live, bucket: str, good: str) -> None:
    """It is stored and the user is told; it goes out by itself when the broker is back."""
    source = live.source("kept", {"file": b"kept"})
    with live.outage("valkey"):
        submitted = live.cli("push", source, f"s3://{bucket}", "--credential", good)
        push_id = submitted.out.strip()
        kept = live.row(push_id)["state"]

    run = live.cli("wait", push_id)

    assert (submitted.code, submitted.err, kept, run.code) == (
        Exit.SUCCEEDED,
        "The broker is away; the push is stored and goes out by itself when it is back.\n",
        "queued",
        Exit.SUCCEEDED,
    )


def test_nothing_is_half_done_while_the_database_is_down(live: Live, bucket: str, good: str) -> None:
    """The error says so, and there is no push afterwards."""
    source = live.source("refused", {"file": b"refused"})
    with live.outage("postgres"):
        run = live.cli("push", source, f"s3://{bucket}", "--credential", good)

    assert (run.refusal, run.out, Code.DATABASE_UNREACHABLE.fix in run.err) == (
        (Exit.UNAVAILABLE, Code.DATABASE_UNREACHABLE),
        "",
        True,
    )
    assert (live.services.history.pushes(Filter(bucket=bucket)), live.cloud.keys(bucket)) == ([], {})


# -- nothing is there at all ------------------------------------------------------------------------


def test_no_stack_at_all_is_told_in_plain_words(live: Live, tmp_path: Path) -> None:
    """Somebody who has not started anything yet learns what is missing and how to start it."""
    nowhere = {k: v for k, v in live.cli.environment.items() if not k.startswith("CLOUDPUSH_")}
    shell = Cli(nowhere | {"CLOUDPUSH_DATA_DIR": str(tmp_path)})

    run = shell("history")

    assert (run.refusal, "cloudpush up" in run.err, "Traceback" in run.err) == (
        (Exit.UNAVAILABLE, Code.DATABASE_UNREACHABLE),
        True,
        False,
    )


def test_settings_of_a_stack_that_is_gone_are_told(cli: Cli, tmp_path: Path) -> None:
    """The variable, its value and the way out."""
    gone = tmp_path / "cloudpush.env"

    run = cli("history", CLOUDPUSH_ENV_FILE=str(gone))

    assert (run.refusal, f"CLOUDPUSH_ENV_FILE='{gone}' is not a file" in run.err, "cloudpush up" in run.err) == (
        (Exit.BAD_INPUT, Code.SETTINGS_INVALID),
        True,
        True,
    )
