"""Secrets that are replaced while an upload is under way, and the requests that a push with a grant makes."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cloudpush.errors import Code, DestinationError, InputError
from cloudpush.push.grants.model import Bearer
from cloudpush.push.job import Destination, PlannedFile, Profile, Secret
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.stack.azurite import Azurite
from cloudpush.transfer.gcs import opens, turns_at
from cloudpush.transfer.rclone import Rclone
from cloudpush.transfer.session import RcloneSession
from clouds import bearer, on_azure, on_gcs, signature
from doubles.faults import Fault, FaultProxy, Reply, Rule, Seen
from doubles.gcs import GcsDouble
from fakes_inspector import GoOn, PlainSecret
from servers import Cloud

MIB = 1024 * 1024


@dataclass
class World:
    """An engine of this test's own and a source."""

    engine: Rclone
    root: Path

    def file(self, path: str, data: bytes, seq: int = 1) -> PlannedFile:
        where = self.root / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data)
        return PlannedFile(seq, path, f"runs/7/{path}", len(data), where.stat().st_mtime_ns)

    def rc(self, path: str, **parameters: object) -> dict[str, object]:
        return self.engine._rcd.child().rc.call(path, **parameters)

    @contextmanager
    def sending(self, session: RcloneSession, files: Sequence[PlannedFile]) -> Iterator[Future[object]]:
        with ThreadPoolExecutor(1) as thread:
            yield thread.submit(session.send, self.root, files, GoOn())


@pytest.fixture
def world(tmp_path: Path, server_dir: Path) -> Iterator[World]:
    run = server_dir / f"engine-{os.urandom(3).hex()}"
    root = tmp_path / "source"
    root.mkdir()
    engine = Rclone(Settings(rclone=str(binaries.rclone()), runtime_dir=run, transfers=8))
    engine.start()
    yield World(engine, root)
    engine.stop()
    assert list(run.iterdir()) == []


@pytest.fixture
def double() -> Iterator[GcsDouble]:
    with GcsDouble({}) as served:
        yield served
        served.gate.let(None)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def opened(world: World, destination: Destination, secret: Secret) -> AbstractContextManager[RcloneSession]:
    return world.engine.open(destination, secret, f"g-{os.urandom(4).hex()}")


# -- in the middle of an upload --------------------------------------------------------------------


def test_s3_turns_to_the_new_key_in_mid_upload(world: World, seaweedfs: Cloud) -> None:
    """The first pieces are signed with one key, those after the renewal and the end of the upload with the other."""
    bucket = seaweedfs.make_bucket("renewal")
    file = world.file("big", os.urandom(1024) * (96 * 1024))
    first, second = seaweedfs.admin, seaweedfs.writer
    world.rc("core/bwlimit", rate="16M")

    with FaultProxy(seaweedfs.endpoint) as proxy:
        proxy.spoil()
        profile = Profile("weed", "seaweedfs", f"http://{proxy.address}", trusted=True)
        destination = Destination("s3", bucket, "runs/7", profile)

        def keys() -> list[str]:
            signed = [seen.headers.get("authorization", "") for seen in proxy.seen]
            return [m[1] for s in signed if (m := re.search(r"Credential=([^/]+)/", s))]

        with opened(world, destination, PlainSecret(first.access_key, first.secret_key)) as session:
            with world.sending(session, [file]) as going:
                until(lambda: session.progress().bytes > 20 * MIB)
                session.renew(PlainSecret(second.access_key, second.secret_key))
                world.rc("core/bwlimit", rate="off")
                failures = going.result(60)
            used = keys()
            session.send(world.root, [world.file("after", b"x", 2)], GoOn())

    assert (failures, seaweedfs.read(bucket, file.key)) == ({}, (world.root / "big").read_bytes())
    assert (used[0], used[-1], set(used)) == (
        first.access_key,
        second.access_key,
        {first.access_key, second.access_key},
    )
    assert keys()[-1] == second.access_key


def test_s3_opens_what_it_had_not_opened_with_the_new_key(world: World, seaweedfs: Cloud) -> None:
    """A list, or a single file, that goes out after a renewal by a way that was not used before has the new key."""
    bucket = seaweedfs.make_bucket("renewal")
    profile = Profile("weed", "seaweedfs", seaweedfs.endpoint, trusted=True)
    good = PlainSecret(seaweedfs.admin.access_key, seaweedfs.admin.secret_key)
    files = [world.file(f"f{n}", b"x", n) for n in range(130)]

    with opened(world, Destination("s3", bucket, "runs/7", profile), replace(good, secret_access_key="no")) as session:
        with pytest.raises(DestinationError):
            session.send(world.root, files[:9], GoOn())  # its connections are kept: the list will use the same remote
        session.renew(good)
        failures = [session.send(world.root, some, GoOn()) for some in (files, files[:1])]
        abandoned = session.abandon(["runs/7/none"], GoOn())

    assert (failures, abandoned, len(seaweedfs.keys(bucket))) == ([{}, {}], 0, 130)


def test_gcs_turns_to_the_new_token_in_mid_upload(world: World, double: GcsDouble) -> None:
    """One piece goes with the token that then ends, the others with the one that was renewed in time."""
    place = on_gcs(double)
    file = world.file("big", os.urandom(40 * MIB))
    double.gate.let(1)
    old = bearer(double, "token-old", 6)

    with opened(world, place.destination, old) as session, world.sending(session, [file]) as going:
        until(lambda: [sent.what for sent in double.log] == ["start", "piece"] and double.gate.waiting == 1)
        session.renew(bearer(double, "token-new", 3600))
        # The second piece is under way with the old one, which is judged when a request begins.
        until(lambda: not double.tokens.good("token-old"))
        double.gate.let(None)
        failures = going.result(60)

    assert (failures, place.stored()) == ({}, {file.key: (world.root / "big").read_bytes()})
    assert [(sent.what, sent.token, sent.status) for sent in double.log] == [
        ("start", "token-old", 200),
        ("piece", "token-old", 200),
        ("piece", "token-old", 200),
        ("piece", "token-new", 200),
    ]


def test_gcs_without_a_new_token_ends_as_expired(world: World, double: GcsDouble) -> None:
    """Nobody renews: the upload fails at once when the token's time is over, with the code that leads to a renewal."""
    place = on_gcs(double)
    file = world.file("big", os.urandom(40 * MIB))
    double.gate.let(1)

    opening = opened(world, place.destination, bearer(double, "token-old", 3))
    with opening as session, world.sending(session, [file]) as going:
        until(lambda: double.gate.waiting == 1)
        until(lambda: not double.tokens.good("token-old"))
        double.gate.let(None)
        with pytest.raises(DestinationError) as raised:
            going.result(60)

    assert (raised.value.code, place.stored()) == (Code.CREDENTIAL_EXPIRED, {})


def test_gcs_a_token_that_was_revoked_is_expired_too(world: World, double: GcsDouble) -> None:
    """A token that Google does not take any more before its time gives the same code, from a 401."""
    place = on_gcs(double)
    secret = bearer(double, "token-old", 3600)
    double.tokens.refuse("token-old")

    with opened(world, place.destination, secret) as session, pytest.raises(DestinationError) as raised:
        session.send(world.root, [world.file("f", b"x")], GoOn())

    assert (raised.value.code, [sent.status for sent in double.log]) == (Code.CREDENTIAL_EXPIRED, [401])


def test_azure_uses_the_new_signature_for_what_begins_after_it(world: World, azurite: Azurite) -> None:
    """An upload under way keeps its signature; the next one has the new one, and the old one is not used again."""
    with FaultProxy(azurite.endpoint) as proxy:
        proxy.spoil()
        place = on_azure(azurite, through=proxy.address)
        first, second = place.secret(3600), place.secret(7200)
        big = world.file("big", os.urandom(24 * MIB))
        world.rc("core/bwlimit", rate="8M")

        with opened(world, place.destination, first) as session:
            with world.sending(session, [big]) as going:
                until(lambda: session.progress().bytes > 5 * MIB)
                session.renew(second)
                world.rc("core/bwlimit", rate="off")
                failures = going.result(60)
            before = {seen.target.partition("se=")[2].partition("&")[0] for seen in proxy.seen}
            proxy.spoil()
            session.send(world.root, [world.file("next", b"x", 2)], GoOn())
            after = {seen.target.partition("se=")[2].partition("&")[0] for seen in proxy.seen}

    def ends(secret: Secret) -> str:
        return secret.reveal()["query"].partition("se=")[2].partition("&")[0]

    assert (failures, place.stored()[big.key]) == ({}, (world.root / "big").read_bytes())
    assert (before, after) == ({ends(first)}, {ends(second)})


def test_azure_upload_whose_signature_ends_is_expired_even_if_there_is_a_newer_one(
    world: World, azurite: Azurite
) -> None:
    """It goes on with what it began with: once that is over a refusal is no matter of rights, and it is sent again."""
    place = on_azure(azurite)
    file = world.file("big", os.urandom(24 * MIB))
    ended = place.secret(3)
    world.rc("core/bwlimit", rate="4M")

    with opened(world, place.destination, ended) as session:
        with world.sending(session, [file]) as going:
            until(lambda: session.progress().bytes > MIB)
            session.renew(place.secret(3600))
            with pytest.raises(DestinationError) as raised:
                going.result(60)
        world.rc("core/bwlimit", rate="off")
        failures = session.send(world.root, [file], GoOn())

    assert raised.value.code is Code.CREDENTIAL_EXPIRED
    assert (failures, place.stored()) == ({}, {file.key: (world.root / "big").read_bytes()})


def test_renewals_while_many_files_go_out_lose_nothing(world: World, double: GcsDouble) -> None:
    """Tokens that live for seconds, renewed by another thread: no file is refused, each token is used."""
    place = on_gcs(double)
    files = [world.file(f"f{n}", f"content {n}".encode(), n) for n in range(300)]
    stop = threading.Event()
    given = ["token-0"]

    with opened(world, place.destination, bearer(double, "token-0", 6)) as session:

        def renew() -> None:
            while not stop.wait(0.3):
                given.append(f"token-{len(given)}")
                session.renew(bearer(double, given[-1], 6))

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            failures = [
                session.send(world.root, files[n : n + 50], GoOn()) for n in range(0, 300, 50) for _ in range(3)
            ]
        finally:
            stop.set()
            thread.join()

    assert ([f for f in failures if f], len(place.stored())) == ([], 300)
    assert {sent.status for sent in double.log} == {200}
    assert len({sent.token for sent in double.log}) > 1


# -- what goes over the wire -----------------------------------------------------------------------


def test_gcs_gets_uploads_and_nothing_else(world: World, double: GcsDouble) -> None:
    """Alone, few or many: a request for each small file, no listing, no look at what is there."""
    place = on_gcs(double)
    files = [world.file(f"d{n % 3}/f{n}", b"x" * n, n) for n in range(150)]

    with opened(world, place.destination, place.secret(3600)) as session:
        failures = [session.send(world.root, some, GoOn()) for some in (files[:1], files[:7], files)]

    assert (failures, len(place.stored())) == ([{}, {}, {}], 150)
    assert [sent.what for sent in double.log] == ["upload"] * 158


def test_azure_gets_uploads_and_rclones_one_question(world: World, azurite: Azurite) -> None:
    """A PUT and rclone's HEAD for each small file: nothing is listed, no container is made or looked at."""
    with FaultProxy(azurite.endpoint) as proxy:
        proxy.spoil()
        place = on_azure(azurite, through=proxy.address)
        files = [world.file(f"d{n % 3}/f{n}", b"x" * n, n) for n in range(110)]
        with opened(world, place.destination, place.secret(3600)) as session:
            failures = [session.send(world.root, some, GoOn()) for some in (files[:1], files[:7], files)]
        asked = sorted((seen.method, "comp=" in seen.target) for seen in proxy.seen)

    assert (failures, len(place.stored())) == ([{}, {}, {}], 110)
    assert asked == [("HEAD", False)] * 118 + [("PUT", False)] * 118


@pytest.mark.parametrize("size", [4 * MIB, 4 * MIB + 1, 9 * MIB])
def test_azure_blocks_are_as_foretold(world: World, azurite: Azurite, size: int) -> None:
    """Up to a block one request without a digest; beyond it blocks of that size, each with its MD5."""
    with FaultProxy(azurite.endpoint) as proxy:
        proxy.spoil()
        place = on_azure(azurite, through=proxy.address)
        with opened(world, place.destination, place.secret(3600)) as session:
            session.send(world.root, [world.file("f", os.urandom(size))], GoOn())
            piece = session.piece_size(size)
        puts = [
            (seen.body, "content-md5" in seen.headers)
            for seen in proxy.seen
            if seen.method == "PUT" and "comp=blocklist" not in seen.target
        ]

    blocks = [(size, False)] if piece is None else [(min(piece, size - at), True) for at in range(0, size, piece)]
    assert sorted(puts) == sorted(blocks)


NAMES = [" lead", "trail ", ".dot", "..x", "e\u0301", "日本", "🎉", "\uff0e", "\uff0f", "\u201b", "␀", "{a,b}", "#",
         ";x", '"q"', "-dash", "a:b", "%41", "?q=1&r", "a+b=c", "~^`|<>$", "\ufffd", "é" * 120]  # fmt: skip


def test_names_arrive_byte_for_byte(world: World, double: GcsDouble, azurite: Azurite) -> None:
    """What a provider can store under a name is stored under exactly that name."""
    files = [world.file(name, name.encode(), seq) for seq, name in enumerate(NAMES)]
    expected = {f.key: (world.root / f.path).read_bytes() for f in files}

    for place in (on_gcs(double), on_azure(azurite)):
        with opened(world, place.destination, place.secret(3600)) as session:
            failures = session.send(world.root, files, GoOn())
        assert (failures, place.stored()) == ({}, expected)


# -- secrets and leftovers ---------------------------------------------------------------------------


@pytest.mark.parametrize("cloud", ["gcs", "azure"])
def test_sessions_leave_nothing_in_the_engine(world: World, double: GcsDouble, azurite: Azurite, cloud: str) -> None:
    """After close, and after a renewal that comes late, rclone knows no remote and no secret."""
    place = on_gcs(double) if cloud == "gcs" else on_azure(azurite)
    files = [world.file(f"f{n}", b"x", n) for n in range(12)]
    secrets = [place.secret(3600) for _ in range(3)]

    with opened(world, place.destination, secrets[0]) as session:
        session.send(world.root, files[:1], GoOn())
        session.renew(secrets[1])
        session.send(world.root, files, GoOn())
    session.renew(secrets[2])

    dump = world.rc("config/dump")
    assert (list(dump), world.rc("fscache/entries"), session._options) == (["cloudpush-source"], {"entries": 1}, {})
    assert world.rc("core/group-list").get("groups") in (None, [])


@pytest.mark.parametrize("cloud", ["gcs", "azure"])
def test_errors_do_not_show_the_secret(world: World, double: GcsDouble, azurite: Azurite, cloud: str) -> None:
    """Refused with the first or a renewed secret: neither is in the error, its detail or its context."""
    place = on_gcs(double) if cloud == "gcs" else on_azure(azurite)
    secrets = [place.secret(-60) for _ in range(2)]
    raised: list[DestinationError] = []

    with opened(world, place.destination, secrets[0]) as session:
        for secret in secrets:
            session.renew(secret)
            with pytest.raises(DestinationError) as caught:
                session.send(world.root, [world.file("f", b"x")], GoOn())
            raised.append(caught.value)
        shown = f"{session!r} {[(str(e), e.detail, vars(e), e.__context__, e.__cause__) for e in raised]!r}"

    hidden = [value for secret in secrets for value in secret.reveal().values()]
    assert [e.code for e in raised] == [Code.CREDENTIAL_EXPIRED] * 2
    assert [s for s in hidden if s in shown] == []


def quoting(known: str) -> Callable[[Seen], Reply]:
    """An S3 that takes uploads with the session ``known``, and quotes any other, bare, in its refusal."""

    def reply(seen: Seen) -> Reply:
        token = seen.headers.get("x-amz-security-token", "")
        if token != known:
            words = f"<Error><Code>AccessDenied</Code><Message>who is {token} there?</Message></Error>"
            return Reply(403, {"Content-Type": "application/xml"}, words.encode())
        if seen.target.endswith("uploads=") or "uploads&" in seen.target or seen.target.endswith("?uploads"):
            made = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            return Reply(200, {"Content-Type": "application/xml"}, made.encode())
        return Reply(200, {"ETag": f'"{seen.digest}"'})

    return reply


@pytest.mark.parametrize("when", ["in mid-upload", "before the next"])
def test_a_renewed_secret_is_masked_where_a_server_quotes_it(world: World, seaweedfs: Cloud, when: str) -> None:
    """By nothing that looks like a secret: only who knows it can leave it out."""
    first, second = (PlainSecret(f"AKQUOTED0000000000{n}", f"quoted-key-{n}", f"Zz9/quoted+{n}x4KpQw") for n in (1, 2))
    with FaultProxy(seaweedfs.endpoint) as proxy:
        proxy.spoil(Rule(Fault.SWALLOW, reply=quoting(first.session_token)))
        profile = Profile("weed", "seaweedfs", f"http://{proxy.address}", trusted=True)
        with opened(world, Destination("s3", "bucket", "runs/7", profile), first) as session:
            if when == "in mid-upload":
                file = world.file("big", os.urandom(1024) * (96 * 1024))
                world.rc("core/bwlimit", rate="16M")
                with world.sending(session, [file]) as going:
                    until(lambda: session.progress().bytes > 20 * MIB)
                    session.renew(second)
                    world.rc("core/bwlimit", rate="off")
                    failures = going.result(60)
            else:
                session.renew(second)
                failures = session.send(world.root, [world.file("f", b"x")], GoOn())

    [error] = failures.values()  # type: ignore[attr-defined]
    assert (error.code, "[redacted] there?" in error.detail) == (Code.ACCESS_DENIED, True), error.detail
    assert second.session_token not in f"{error!r} {error.detail} {vars(error)!r}"
    assert second.session_token in [seen.headers.get("x-amz-security-token") for seen in proxy.seen]


def test_a_secret_for_elsewhere_is_not_taken(world: World, double: GcsDouble, azurite: Azurite) -> None:
    """Another endpoint, another container, another kind: refused, and the session goes on as it was."""
    google, azure = on_gcs(double), on_azure(azurite)
    azurite.make_container("somebody-elses")
    file = world.file("f", b"x")
    refused: list[Code] = []

    with (
        opened(world, google.destination, google.secret(60)) as one,
        opened(world, azure.destination, azure.secret(60)) as other,
    ):
        for session, secret in (
            (one, Bearer("t", None, None, "https://storage.example.org")),
            (one, PlainSecret()),
            (one, azure.secret(60)),
            (other, signature(azurite, "somebody-elses", 60)),
        ):
            with pytest.raises(InputError) as raised:
                session.renew(secret)
            refused.append(raised.value.code)
        failures = [session.send(world.root, [file], GoOn()) for session in (one, other)]

    assert (refused, failures) == ([Code.BAD_INPUT] * 4, [{}, {}])


# -- when rclone turns -------------------------------------------------------------------------------


@pytest.mark.parametrize(("life", "ahead", "turn"), [(10, 2, 0.5), (3600, 600, 30), (100, 20, 5), (10, 0, 0)])
def test_rclone_turns_between_the_renewal_and_the_end(life: float, ahead: float, turn: float) -> None:
    """Told ten seconds more, since it turns so much too early."""
    ends = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    secret = Bearer("t", ends, ends - timedelta(seconds=ahead) if ahead else None)

    assert turns_at(secret) == ends - timedelta(seconds=turn)
    told = datetime.fromisoformat(opens(secret)["token"].split('"expiry":"')[1].rstrip('"}'))
    assert told == ends - timedelta(seconds=turn) + timedelta(seconds=10)


def test_a_token_without_an_end_never_ends() -> None:
    """No expiry is told."""
    assert opens(Bearer("t", None, None)) == {"token": '{"access_token":"t","token_type":"Bearer"}'}
