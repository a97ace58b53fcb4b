"""A secret exists only inside Vault and in process memory: marked ones are pushed with, and then looked for everywhere."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest
import redis
from psycopg import sql

import servers
from acceptance import searcher
from acceptance.live import ROLE_ARN, STEM, Exit, Live, marked, until
from acceptance.portal import Portal
from acceptance.searcher import Thing, Traffic
from acceptance.spoken import speak
from cloudpush.push.job import Request

pytestmark = pytest.mark.xdist_group("live")

#: Long enough for a push; SeaweedFS gives sessions of any length from here on.
SESSION_SECONDS = 900

#: How a manifest is handed over.
URLS = ("--manifest", "-", "--manifest-format", "jsonl", "--json")

#: Inside of it something is planted; it gives what to search.
Place = AbstractContextManager[Iterator[Thing]]


@dataclass(frozen=True)
class Canaries:
    """What must not be found: ``needles``; and the pushes and requests that were made with them, by name."""

    needles: frozenset[str]
    codes: dict[str, int]
    statuses: dict[str, int]


@dataclass(frozen=True)
class Places:
    """Everywhere that a secret could have got to."""

    live: Live
    traffic: Traffic

    def tables(self) -> Iterator[Thing]:
        with self.live.superuser() as connection:
            yield from searcher.database(connection)

    def broker(self) -> Iterator[Thing]:
        yield from searcher.broker(self.live.settings.redis_url)
        yield "the broker's traffic", self.traffic.heard

    def disk(self) -> Iterator[Thing]:
        yield from searcher.files(self.live.data)
        # Beside the stack lies the cloud: it is the user's, and knows its own keys.
        yield from searcher.temporary(self.live.began, but=[self.live.base])

    def words(self) -> Iterator[Thing]:
        for run in self.live.cli.runs:
            yield "what a command said", f"{run.out}{run.err}".encode()

    def everything(self) -> Iterator[Thing]:
        return chain(self.tables(), self.broker(), self.disk(), searcher.processes(), self.words())


@pytest.fixture(scope="module")
def places(live: Live) -> Iterator[Places]:
    """Listening from the beginning."""
    with searcher.traffic(live.broker_socket) as traffic:
        yield Places(live, traffic)


@pytest.fixture(scope="module")
def released(live: Live, places: Places, tmp_path_factory: pytest.TempPathFactory) -> tuple[Canaries, list[str]]:
    """Every kind of canary, added in every way, used in pushes that succeed and fail; and what was found while they ran."""
    session = _session(live)
    # Pieces of the long token: what was cut short would be a leak as well.
    token = session["SessionToken"]
    needles = frozenset({STEM, session["AccessKeyId"], session["SecretAccessKey"], token[-40:], token[100:140]})
    right = {"access_key_id": live.canary.access_key, "secret_access_key": live.canary.secret_key}
    wrong = {
        "AWS_ACCESS_KEY_ID": live.canary.access_key,
        "AWS_SECRET_ACCESS_KEY": marked(),
        "AWS_SESSION_TOKEN": marked(),
    }
    file = tmp_path_factory.mktemp("keys") / "session.json"
    file.write_text(json.dumps({"Credentials": session}))
    file.chmod(0o600)
    by_stdin = _add(live, "stdin", "--from-stdin", stdin=json.dumps(right))
    by_file = _add(live, "file", "--from-file", str(file))
    by_environment = _add(live, "environment", "--from-env", **wrong)
    file.unlink()
    wrong_only = _add(live, "wrong", "--from-stdin", stdin=json.dumps(right | {"secret_access_key": marked()}))

    spoken = speak(live)
    needles |= spoken.needles
    portal = Portal(live.gate.endpoint, live.canary, live.cloud.make_bucket(), secret=marked())
    callback = _hook(live, portal)
    bucket, big, small = live.cloud.make_bucket(), live.big_source(), live.source("small", {"a": b"a", "b": b"b"})
    with live.gate.closed():
        slow = live.cli.start("push", big, f"s3://{bucket}/slow", "--credential", by_stdin, "--wait")
        live.wait_until_stuck(bucket)
        slow_urls = _push_urls(live, portal, big, callback)
        live.wait_until_stuck(portal.bucket)
        found = searcher.hits(needles | portal.signatures, places.everything())
    codes = {
        "slow": live.cli.end(slow).code,
        "session": _push(live, small, bucket, by_file),
        "over REST": _push(live, small, bucket, spoken.credential),
        "wrong session": _push(live, small, bucket, by_environment),
        "wrong secret": _push(live, small, bucket, wrong_only),
        "urls": live.cli("wait", slow_urls).code,
        "renewed urls": _push_short_lived(live, portal, small, callback),
        "wrong urls": live.cli("wait", _push_urls(live, portal, small, callback, spoilt=True)).code,
        "one url": live.cli(
            *("push", small / "a", "--signed-url", "-", "--wait"), stdin=portal.rows(["a"], "single")[0]["url"]
        ).code,
    }
    portal.close()
    return Canaries(needles | portal.signatures, codes, spoken.statuses), found


def _session(live: Live) -> dict[str, str]:
    """A temporary key of the canary's own, with a token."""
    sts = boto3.client(
        "sts",
        endpoint_url=live.cloud.endpoint,
        aws_access_key_id=live.canary.access_key,
        aws_secret_access_key=live.canary.secret_key,
        region_name=servers.REGION,
    )
    answer = sts.assume_role(RoleArn=ROLE_ARN, RoleSessionName="canary", DurationSeconds=SESSION_SECONDS)
    return {k: answer["Credentials"][k] for k in ("AccessKeyId", "SecretAccessKey", "SessionToken")}


def _add(live: Live, name: str, *how: str, stdin: str = "", **variables: str) -> str:
    added = live.cli(
        *("credential", "add", "--name", f"canary-{name}", "--profile", "seaweedfs"),
        *("--endpoint", live.gate.endpoint, "--region", servers.REGION, *how),
        stdin=stdin,
        **variables,
    )
    assert added.code == Exit.SUCCEEDED, added.err
    return added.out.strip()


def _hook(live: Live, portal: Portal) -> str:
    """The portal's callback; its path and its secret are canaries, too."""
    fields = json.dumps({"url": portal.callback, "secret": portal.secret})
    added = live.cli(
        "credential", "add", "--kind", "resign_hook", "--name", "canary-hook", "--from-stdin", stdin=fields
    )
    assert added.code == Exit.SUCCEEDED, added.err
    return "canary-hook"


def _push_urls(live: Live, portal: Portal, source: Path, callback: str, *, spoilt: bool = False) -> str:
    """By a manifest on standard input, which is on no disk. ``spoilt``: no signature fits. Gives the push's id."""
    rows = portal.rows([p.name for p in source.iterdir()], secrets.token_hex(4))
    if spoilt:
        rows = [{**row, "url": f"{row['url'][:-4]}0000"} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    run = live.cli("push", source, *URLS, "--resign-hook", callback, stdin=text)
    assert run.code == Exit.SUCCEEDED, run.err
    push_id: str = run.json["push"]
    live.cli("show", push_id, "--json", "--files", "0")
    return push_id


def _push_short_lived(live: Live, portal: Portal, source: Path, callback: str) -> int:
    """By URLs that have expired when the worker comes to them; nobody destroys them before it has planned with them.

    Submitted in this process: a command takes long to start. Gives the exit code.
    """
    rows = portal.rows([p.name for p in source.iterdir()], "renewed", seconds=2)
    with live.asleep("sweeper"):
        with live.asleep("worker"):
            request = Request(live.owner, live.owner, str(source), "", "")
            push_id = live.services.signed.submit(request, enumerate(rows, 1), callback).push_id
            time.sleep(2.5)
        return live.cli("wait", str(push_id)).code


def _push(live: Live, source: Path, bucket: str, credential: str) -> int:
    run = live.cli("push", source, f"s3://{bucket}/{credential}", "--credential", credential, "--wait", "--json")
    live.cli("show", run.json["id"], "--json", "--files", "0")
    return run.code


def test_pushes_with_canaries_end_as_they_should(released: tuple[Canaries, list[str]]) -> None:
    """The right secrets were really used, and the wrong ones really refused: else nothing would be proved below."""
    canaries, _ = released

    assert canaries.codes == {
        "slow": Exit.SUCCEEDED,
        "session": Exit.SUCCEEDED,
        "over REST": Exit.SUCCEEDED,
        "wrong session": Exit.FAILED,
        "wrong secret": Exit.FAILED,
        "urls": Exit.SUCCEEDED,
        "renewed urls": Exit.SUCCEEDED,
        "wrong urls": Exit.FAILED,
        "one url": Exit.SUCCEEDED,
    }


def test_requests_with_canaries_are_answered_as_they_should_be(released: tuple[Canaries, list[str]]) -> None:
    """Some were taken, and the others refused in every way that there is."""
    canaries, _ = released

    assert canaries.statuses == {
        **dict.fromkeys(("a key", "a webhook", "a child", "a submission"), 201),
        **dict.fromkeys(("who am I", "tokens", "a batch", "a login"), 200),
        **dict.fromkeys(("a name again", "no kind", "a field too many", "a secret elsewhere"), 422),
        **dict.fromkeys(("a list", "a number", "a hidden URL", "a bad row", "a URL for a name", "in the address"), 422),
        **dict.fromkeys(("whoever has none", "a submission as a bearer"), 401),
        **dict.fromkeys(("no JSON", "a login that waits", "a token for a code"), 400),
    }


def test_no_secret_is_anywhere_while_a_push_runs(released: tuple[Canaries, list[str]]) -> None:
    """With the upload stuck in mid-file every place is searched."""
    _, found = released

    assert found == []


def test_no_secret_is_anywhere_after_success_and_failure(places: Places, released: tuple[Canaries, list[str]]) -> None:
    """Database, broker, disk, processes and everything that was said."""
    canaries, _ = released

    assert searcher.hits(canaries.needles, places.everything()) == []


# -- the search itself ------------------------------------------------------------------------------


@contextmanager
def in_table(places: Places, secret: str) -> Iterator[Iterator[Thing]]:
    with places.live.superuser() as connection:
        table = sql.Identifier("planted")
        connection.execute(sql.SQL("CREATE TABLE {} AS SELECT {}::text").format(table, sql.Literal(secret)))
        try:
            yield places.tables()
        finally:
            connection.execute(sql.SQL("DROP TABLE {}").format(table))


@contextmanager
def in_queue(places: Places, secret: str) -> Iterator[Iterator[Thing]]:
    with redis.Redis.from_url(places.live.settings.redis_url) as client:
        client.rpush("planted", secret)
        try:
            yield searcher.broker(places.live.settings.redis_url)
        finally:
            client.delete("planted")


@contextmanager
def in_broadcast(places: Places, secret: str) -> Iterator[Iterator[Thing]]:
    with redis.Redis.from_url(places.live.settings.redis_url) as client:
        client.publish("planted", secret)
        until(lambda: b"planted" in places.traffic.heard.split(b"PUBLISH")[-1], "it was heard")
        yield places.broker()


@contextmanager
def in_log(places: Places, secret: str) -> Iterator[Iterator[Thing]]:
    path = places.live.data / "logs" / "planted.log"
    path.write_text("x" * (searcher.BLOCK - 5) + secret)  # across the border of two blocks
    try:
        yield searcher.files(places.live.data / "logs")
    finally:
        path.unlink()


@contextmanager
def in_file_name(places: Places, secret: str) -> Iterator[Iterator[Thing]]:
    path = places.live.data / "run" / secret
    path.touch()
    try:
        yield searcher.files(places.live.data / "run")
    finally:
        path.unlink()


@contextmanager
def in_temporary_file(places: Places, secret: str) -> Iterator[Iterator[Thing]]:
    with tempfile.NamedTemporaryFile("w") as file:
        file.seek(2**40)  # behind a terabyte of nothing, which nobody reads
        file.write(secret)
        file.flush()
        yield searcher.temporary(places.live.began, but=[places.live.base])


@contextmanager
def in_process(*command: str, **environment: str) -> Iterator[Iterator[Thing]]:
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # by now it is the program that it was told to be
        yield searcher.processes()
    finally:
        process.kill()
        process.communicate()


#: Says that it runs, and stays.
SCRIPT = "echo ready; read x"


def in_arguments(_places: Places, secret: str) -> Place:
    return in_process("/bin/sh", "-c", SCRIPT, secret)


def in_environment(_places: Places, secret: str) -> Place:
    return in_process("/bin/sh", "-c", SCRIPT, PLANTED=secret)


@contextmanager
def in_words(places: Places, secret: str) -> Iterator[Iterator[Thing]]:
    places.live.cli("show", secret)
    try:
        yield places.words()
    finally:
        places.live.cli.runs.pop()


@pytest.mark.parametrize(
    "plant",
    [
        in_table,
        in_queue,
        in_broadcast,
        in_log,
        in_file_name,
        in_temporary_file,
        in_arguments,
        in_environment,
        in_words,
    ],
)
def test_search_finds_what_is_planted(places: Places, plant: Callable[[Places, str], Place]) -> None:
    """In each kind of place a secret is found, so that not finding one means something."""
    secret = secrets.token_hex(17)  # 16 would be a UUID, which is shown with dashes in it

    with plant(places, secret) as things:
        found = searcher.hits([secret], things)

    assert found != []


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize(
    "spell",
    [
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
        lambda text: quote(text, safe=""),
        lambda text: json.dumps({"kwargs": {"secret": text}}),
        lambda text: text.encode().hex(),
    ],
    ids=["base64", "base64-for-urls", "url", "json", "hexadecimal"],
)
def test_search_knows_how_secrets_are_spelt(spell: Callable[[str], str], before: str) -> None:
    """By its stem a canary is found in every spelling, wherever in a text it begins."""
    text = spell(f"{before}{marked()}, and more")

    assert searcher.hits([STEM], [("here", text.encode()), ("not here", b"Kq and more")]) == ["here"]
