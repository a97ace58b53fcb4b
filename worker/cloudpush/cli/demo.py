"""``cloudpush demo``: the whole machine on this computer, on real data, in about a minute.

Everything that is shown is the product's own command line, run as a user would run it. The only thing that
is made up is the users' clouds: a real S3 server (SeaweedFS), a real Azure Blob server (Azurite) and a small OpenID provider
(oidc-provider-mock) in the same directory.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from cloudpush.cli import demo_consent
from cloudpush.cli.demo_consent import CALLBACK, PROVIDER
from cloudpush.cli.exits import Exit
from cloudpush.errors import Code, StackError
from cloudpush.push.signed.model import SIGNED_URLS
from cloudpush.stack.azurite import Azurite
from cloudpush.stack.oauth_mock import OAuthClient, OAuthMock
from cloudpush.stack.ports import HOST, free_ports
from cloudpush.stack.seaweedfs import S3Identity, SeaweedFS

BUCKET = "user-bucket"
BIG_FILE_MIB = 256
PURGED_SECONDS = 30.0
REGION = "us-east-1"

out = Console(highlight=False, soft_wrap=True)


def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where everything lies; made, and removed at the end.")
    ] = Path(".demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack running and the directory in place.")] = False,
) -> None:
    """Start everything here, push real data into a local S3 server, show the record, stop."""
    base = directory.resolve()
    if base.exists() and not (base / ".cloudpush-demo").exists() and any(base.iterdir()):
        raise StackError(Code.STACK, f"{str(base)!r} is not empty and not an earlier demo's; choose another --dir.")
    began = time.monotonic()
    _clear(base)
    user = S3Identity("user", "DEMO" + secrets.token_hex(8).upper(), secrets.token_hex(20))
    web_url = f"http://{HOST}:{free_ports(1)[0]}"
    with (
        _provider(base, web_url) as (mock, client),
        _cloud(base, user, demo_consent.iam_document(mock.issuer, client.id)) as cloud,
        _azure(base) as azure,
        _stack(base, [cloud, azure], _web_settings(base, web_url, mock, client, cloud), keep=keep) as run,
    ):
        _push_with_a_key(run, cloud, user)
        _push_with_a_wrong_key(run, cloud, user)
        _push_with_signed_urls(run, cloud, user)
        _push_with_a_sas(run, azure)
        _push_with_a_consent(run, client)
        if sys.stdin.isatty():
            _let_the_user_try(run)
        _show_the_record(run)
        _say_what_next(base, keep=keep)
    if not keep:
        shutil.rmtree(base, ignore_errors=True)
    out.print(
        f"[bold green]The demo is over[/] after {time.monotonic() - began:.0f} s; everything it started is stopped."
    )


def _push_with_a_key(run: Run, cloud: SeaweedFS, user: S3Identity) -> None:
    out.print(Rule("1. The user hands over an access key: it is sealed in Vault", align="left"))
    run(
        "credential",
        "add",
        "--kind",
        "access_key",
        "--name",
        "my-bucket",
        "--endpoint",
        cloud.endpoint,
        "--profile",
        "seaweedfs",
        "--region",
        REGION,
        "--from-stdin",
        stdin=_secret(user.access_key, user.secret_key),
    )
    run("credential", "list")

    out.print(Rule("2. A dataset of thousands of files: Python's own standard library", align="left"))
    library = sysconfig.get_paths()["stdlib"]
    excludes = ["site-packages/**", "dist-packages/**"]
    refused = _refused(run, library, excludes)
    if refused:
        out.print(
            f"The dry run names {len(refused)} entries that a push would refuse, such as {escape(refused[0])}; they are excluded."
        )
    excluding = [word for pattern in (*excludes, *refused) for word in ("--exclude", pattern)]
    run(
        "push",
        library,
        f"s3://{BUCKET}/python",
        "--credential",
        "my-bucket",
        "--label",
        "project=demo",
        *excluding,
        "--wait",
        shown=[
            "push",
            library,
            f"s3://{BUCKET}/python",
            "--credential",
            "my-bucket",
            "--label",
            "project=demo",
            "--exclude",
            "…",
            "--wait",
        ],
    )
    out.print("Again: what is there and proved equal is not sent a second time.")
    run(
        "push",
        library,
        f"s3://{BUCKET}/python",
        "--credential",
        "my-bucket",
        *excluding,
        "--wait",
        shown=["push", library, f"s3://{BUCKET}/python", "--credential", "my-bucket", "--exclude", "…", "--wait"],
    )

    out.print(Rule(f"3. One file of {BIG_FILE_MIB} MiB", align="left"))
    big = run.base / "data" / "measurement.bin"
    _make_big_file(big)
    run("push", str(big), f"s3://{BUCKET}/runs/42", "--credential", "my-bucket", "--wait")
    objects, size = _in_the_cloud(cloud, user)
    out.print(f"Asked directly, the user's cloud holds [bold]{objects}[/] objects, {size / 2**20:.1f} MiB.")


def _push_with_a_wrong_key(run: Run, cloud: SeaweedFS, user: S3Identity) -> None:
    out.print(Rule("4. A wrong secret: what its user sees", align="left"))
    run(
        "credential",
        "add",
        "--kind",
        "access_key",
        "--name",
        "mistyped",
        "--endpoint",
        cloud.endpoint,
        "--profile",
        "seaweedfs",
        "--region",
        REGION,
        "--from-stdin",
        stdin=_secret(user.access_key, "not-" + secrets.token_hex(16)),
    )
    run(
        "push", str(run.base / "data"), f"s3://{BUCKET}/never", "--credential", "mistyped", "--wait", expect=Exit.FAILED
    )


def _push_with_signed_urls(run: Run, cloud: SeaweedFS, user: S3Identity) -> None:
    out.print(Rule("5. No account at all: the user's portal signs a URL for each file (S3)", align="left"))
    source = run.base / "data" / "reports"
    source.mkdir()
    for number in range(1, 4):
        (source / f"report-{number}.txt").write_text(f"Report {number}\n" * 1000)
    rows = [
        {"path": file.name, "url": _presigned(cloud, user, f"reports/{file.name}")} for file in sorted(source.iterdir())
    ]
    out.print("A manifest, one row a file; it goes in by standard input, since URLs are secrets:")
    out.print(f"[dim]  {escape(json.dumps(rows[0])[:150])}…[/]")
    manifest = "".join(json.dumps(row) + "\n" for row in rows)
    words = ["push", str(source), "--manifest", "-", "--manifest-format", "jsonl", "--min-strength", "checksum"]
    run(*words, "--wait", stdin=manifest)


def _push_with_a_sas(run: Run, azure: Azurite) -> None:
    out.print(Rule("6. A whole directory by one shared access signature (Azure)", align="left"))
    url = azure.signed_url(BUCKET)
    out.print(f"[dim]  {escape(url[:110])}…[/]")
    run("push", str(run.base / "data" / "reports"), "--signed-url", "-", "--wait", stdin=url)
    out.print("The URLs were sealed in Vault. The pushes are over, so they are destroyed there; their record stays:")
    _wait_until_purged(run)
    run("credential", "list", "--purged")


def _wait_until_purged(run: Run) -> None:
    """The sweeper destroys URLs within seconds after their push."""
    deadline = time.monotonic() + PURGED_SECONDS
    while time.monotonic() < deadline:
        listed = json.loads(run("credential", "list", "--purged", "--json", quiet=True))
        if all(c["state"] == "purged" for c in listed if c["kind"] == SIGNED_URLS):
            return
        time.sleep(0.2)
    raise StackError(Code.STACK, f"URLs are still in Vault {PURGED_SECONDS:g} s after their push was over.")


def _push_with_a_consent(run: Run, client: OAuthClient) -> None:
    out.print(Rule("7. A consent in the browser (OAuth): connect, push, revoke", align="left"))
    out.print("The operator has registered CloudPush with a provider; the client's secret goes into Vault:")
    run("provider", "set-secret", PROVIDER, stdin=client.secret)
    link = demo_consent.find_link(run("web-link", quiet=True))
    out.print(
        "A user opens a one-time link, reads what is asked for, and consents. Here a small visitor does, by the pages' forms:"
    )
    for page in demo_consent.click_through(link, "my-cloud"):
        out.print(f"[dim]  {escape(page.url.partition('?')[0])}  {escape(page.heading)}[/]")
    run("grant", "list")
    [grant] = json.loads(run("grant", "list", "--json", quiet=True))["grants"]
    out.print("Nobody handed over a key: the storage lends one for this prefix, because of the consent.")
    run("push", str(run.base / "data" / "reports"), f"s3://{BUCKET}/consented", "--credential", "my-cloud", "--wait")
    out.print(
        "The user takes it back. What runs or waits would stop within seconds; the provider is told where it listens, Vault is purged."
    )
    run("grant", "revoke", "my-cloud", "--yes", "--wait")
    run(
        "push",
        str(run.base / "data" / "reports"),
        f"s3://{BUCKET}/late",
        "--credential",
        grant["id"],
        expect=Exit.BAD_INPUT,
    )
    out.print("The consent ledger: everything that was asked, granted and done with it.")
    run("grant", "ledger", grant["id"])


def _let_the_user_try(run: Run) -> None:
    """At a terminal, the user may do the same by hand, in a browser."""
    link = demo_consent.find_link(run("web-link", quiet=True))
    out.print(Rule("Now you", align="left"))
    out.print(
        f"  Open      [bold]{escape(link)}[/]\n"
        f"  connect   {demo_consent.TITLE}, role [bold]{demo_consent.ROLE_ARN}[/]; consent as anybody. Then, in another shell:\n\n"
        f"  export CLOUDPUSH_ENV_FILE={escape(run.env['CLOUDPUSH_ENV_FILE'])}\n"
        f"  {escape(sys.executable)} -m cloudpush push {escape(str(run.base / 'data' / 'reports'))} s3://{BUCKET}/by-hand --credential NAME\n\n"
        "  watch it under [bold]My pushes[/], and revoke the connection when you like."
    )
    out.input("Press Enter to go on and stop everything … ")


def _show_the_record(run: Run) -> None:
    out.print(Rule("8. The record", align="left"))
    run("history")
    pushes = json.loads(run("history", "--json", quiet=True))
    run("show", str(pushes[-1]["id"]), "--files", "5")
    run("audit", "verify")
    run("doctor")


def _say_what_next(base: Path, *, keep: bool) -> None:
    out.print(Rule("What to try next", align="left"))
    out.print(
        "  cloudpush up                      the same stack, kept in your data directory\n"
        "  cloudpush credential add --help   your own bucket's key\n"
        "  cloudpush push SRC s3://BUCKET/PREFIX --credential NAME --wait\n"
        "  kill -9 the worker while it pushes: nothing is lost\n"
        "  docs/architecture.md, docs/signed-urls.md, docs/oauth.md, docs/security.md"
    )
    if keep:
        out.print(f"Still running: export CLOUDPUSH_ENV_FILE={escape(str(base / 'stack' / 'cloudpush.env'))}")


class Run:
    """Runs the command line as a user would and shows both sides of the conversation."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("CLOUDPUSH_")} | {
            "CLOUDPUSH_ENV_FILE": str(base / "stack" / "cloudpush.env"),
            "COLUMNS": str(min(out.width, 160)),
        }

    def __call__(
        self, *words: str, stdin: str = "", expect: int = 0, quiet: bool = False, shown: list[str] | None = None
    ) -> str:
        """Run ``cloudpush words``; raises StackError when it ends otherwise than expected."""
        if not quiet:
            out.print(f"[bold cyan]$ cloudpush {escape(' '.join(shown or words))}[/]")
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "cloudpush", *words],
            input=stdin,
            text=True,
            env=self.env,
            stdout=subprocess.PIPE if quiet else None,
            check=False,
        )
        if ended.returncode != expect:
            raise StackError(
                Code.STACK,
                f"`cloudpush {' '.join(words[:2])}` ended with {ended.returncode}, expected {expect}; see {self.base}/stack/logs",
            )
        if not quiet:
            out.print(f"[dim]  exit code {ended.returncode}, {time.monotonic() - began:.1f} s[/]\n")
        return ended.stdout or ""


@contextmanager
def _provider(base: Path, web_url: str) -> Iterator[tuple[OAuthMock, OAuthClient]]:
    """Where users consent, and CloudPush as its client."""
    server = OAuthMock(base / "provider", users=[demo_consent.USER, "bob@example.org"])
    out.print("Starting a local OpenID provider, oidc-provider-mock, where users consent …")
    server.start()
    try:
        server.ready()
        yield server, server.register(web_url + CALLBACK)
    finally:
        server.stop()


def _web_settings(base: Path, web_url: str, mock: OAuthMock, client: OAuthClient, cloud: SeaweedFS) -> dict[str, str]:
    """What an operator sets for the pages."""
    file = base / "providers.toml"
    demo_consent.write_provider(file, mock, client, cloud.endpoint)
    return {
        "CLOUDPUSH_PROVIDERS_FILE": str(file),
        "CLOUDPUSH_WEB_URL": web_url,
        "CLOUDPUSH_WEB_PORT": web_url.rpartition(":")[2],
    }


@contextmanager
def _cloud(base: Path, user: S3Identity, iam: dict[str, Any]) -> Iterator[SeaweedFS]:
    """The user's cloud, with a bucket and a key of its own, and a role for whom the provider names."""
    server = SeaweedFS(base / "cloud", [user], buckets=[BUCKET], iam=iam)
    out.print("Starting a local S3 server, SeaweedFS, as the user's cloud …")
    server.start()
    try:
        server.ready()
        yield server
    finally:
        server.stop()


@contextmanager
def _azure(base: Path) -> Iterator[Azurite]:
    """Another user's cloud: a storage account with a container."""
    server = Azurite(base / "azure", containers=[BUCKET])
    out.print("Starting a local Azure Blob server, Azurite, as another user's …")
    server.start()
    try:
        server.ready()
        yield server
    finally:
        server.stop()


@contextmanager
def _stack(base: Path, clouds: Sequence[SeaweedFS | Azurite], settings: dict[str, str], *, keep: bool) -> Iterator[Run]:
    """CloudPush itself: `cloudpush up`, detached."""
    (base / "data").mkdir(parents=True)
    run = Run(base)
    stack = ["--data-dir", str(base / "stack")]
    library = sysconfig.get_paths()["stdlib"]
    # `up` writes the file that all other commands read their settings from.
    env, run.env = run.env, {k: v for k, v in run.env.items() if k != "CLOUDPUSH_ENV_FILE"} | settings
    run(
        "up",
        "--detach",
        *stack,
        "--source-root",
        library,
        "--source-root",
        str(base / "data"),
        *(word for cloud in clouds for word in ("--allow-endpoint", cloud.address)),
    )
    run.env = env
    try:
        yield run
    finally:
        if not keep:
            run("down", *stack)


def _refused(run: Run, source: str, excludes: list[str]) -> list[str]:
    """What a push of ``source`` would refuse: on some systems the library has links that lead out of it."""
    options = [word for pattern in excludes for word in ("--exclude", pattern)]
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "cloudpush",
            "push",
            source,
            f"s3://{BUCKET}/python",
            "--credential",
            "my-bucket",
            *options,
            "--dry-run",
            "--json",
        ],
        env=run.env,
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    return [r["path"] for r in json.loads(answer.stdout)["refused"]]


def _secret(key: str, secret: str) -> str:
    return json.dumps({"access_key_id": key, "secret_access_key": secret})


def _make_big_file(path: Path) -> None:
    block = os.urandom(2**20)
    with path.open("wb") as f:
        for number in range(BIG_FILE_MIB):
            f.write(number.to_bytes(8, "big") + block[8:])


def _client(cloud: SeaweedFS, user: S3Identity) -> Any:
    boto3 = importlib.import_module("boto3")  # of the extra `demo`
    return boto3.client(
        "s3",
        endpoint_url=cloud.endpoint,
        aws_access_key_id=user.access_key,
        aws_secret_access_key=user.secret_key,
        region_name=REGION,
        config=importlib.import_module("botocore.config").Config(signature_version="s3v4"),
    )


def _presigned(cloud: SeaweedFS, user: S3Identity, key: str) -> str:
    """A PUT URL that lives for five minutes, signed as any user of AWS's SDK does."""
    url: str = _client(cloud, user).generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": key}, ExpiresIn=300)
    return url


def _in_the_cloud(cloud: SeaweedFS, user: S3Identity) -> tuple[int, int]:
    """Objects and bytes in the bucket, told by a witness that is not CloudPush."""
    pages = _client(cloud, user).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    sizes = [item["Size"] for page in pages for item in page.get("Contents", [])]
    return len(sizes), sum(sizes)


def _clear(base: Path) -> None:
    """Remove what an earlier demo left, its processes first."""
    if (base / "stack").exists():
        subprocess.run(
            [sys.executable, "-m", "cloudpush", "down", "--data-dir", str(base / "stack")],
            check=False,
            capture_output=True,
        )
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True, mode=0o700)
    (base / ".cloudpush-demo").touch()
