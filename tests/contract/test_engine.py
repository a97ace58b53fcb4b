"""What every Engine promises, held by the fake and by the real one with each protocol that it speaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloudpush.errors import Cancelled, CloudPushError, Code, DestinationError, LeaseLost
from cloudpush.push.grants.model import Bearer
from cloudpush.push.job import Destination, PlannedFile, Profile, Progress, Secret
from cloudpush.push.ports import Control, Engine, Session
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.transfer.rclone import Rclone
from clouds import Place, on_azure, on_gcs, signature
from fakes_engine import FakeEngine
from fakes_inspector import GoOn, PlainSecret
from servers import Cloud

#: One of each way that the real engine has of sending: alone, each for itself, as a list.
AMOUNTS = [1, 7, 140]


class Stop(Control):
    """A control that has already decided."""

    def __init__(self, reason: CloudPushError) -> None:
        self.reason = reason

    def check(self) -> None:
        raise self.reason


@dataclass
class World:
    """An engine, a bucket and a source. ``secret``: for a bucket; ``wrong``: for this one, with the code that it meets."""

    engine: Engine
    destination: Destination
    secret: Callable[[str], Secret]
    wrong: tuple[Secret, Code]
    root: Path
    stored: Callable[[], Mapping[str, bytes]]
    deleting: Secret | None = None  # one that may delete, where a push's own may not

    def files(self, amount: int) -> list[PlannedFile]:
        return [self.file(n, f"d{n % 3}/{n}.dat", f"content {n}".encode()) for n in range(amount)]

    def file(self, seq: int, path: str, data: bytes = b"x", key: str = "") -> PlannedFile:
        where = self.root / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(data)
        return PlannedFile(seq, path, key or f"{self.destination.prefix}/{path}", len(data), where.stat().st_mtime_ns)

    @contextmanager
    def session(self, secret: Secret | None = None, bucket: str = "") -> Iterator[Session]:
        destination = replace(self.destination, bucket=bucket or self.destination.bucket)
        opens = secret or self.secret(destination.bucket)
        with self.engine.open(destination, opens, f"group-{os.urandom(4).hex()}") as session:
            yield session

    def expected(self, files: list[PlannedFile]) -> dict[str, bytes]:
        return {f.key: (self.root / f.path).read_bytes() for f in files}


@pytest.fixture(scope="module")
def rclone(seaweedfs: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rclone]:
    """The real engine."""
    engine = Rclone(Settings(rclone=str(binaries.rclone()), allowed_endpoints=(seaweedfs.address,), transfers=8))
    yield engine
    engine.stop()


def in_memory(root: Path) -> World:
    """The fake."""
    right, wrong = PlainSecret(), PlainSecret(secret_access_key="another-secret-altogether")
    fake = FakeEngine("bucket-1", accepts=lambda s: s.reveal() == right.reveal())
    profile = Profile("fake", "other", "http://127.0.0.1:9", trusted=True)
    destination = Destination("s3", "bucket-1", "runs/7", profile)
    return World(fake, destination, lambda _b: right, (wrong, Code.BAD_SIGNATURE), root, lambda: fake.objects)


def on_s3(engine: Rclone, cloud: Cloud, root: Path) -> World:
    """rclone with SeaweedFS."""
    bucket = cloud.make_bucket("engine")
    profile = Profile("weed", "seaweedfs", cloud.endpoint, trusted=True)
    right = PlainSecret(cloud.admin.access_key, cloud.admin.secret_key)
    return World(
        engine,
        Destination("s3", bucket, "runs/7", profile),
        lambda _bucket: right,
        (replace(right, secret_access_key="another-secret-altogether"), Code.BAD_SIGNATURE),
        root,
        lambda: {key: cloud.read(bucket, key) for key in cloud.keys(bucket)},
    )


def with_grant(engine: Rclone, place: Place, root: Path, *, wrong: Secret) -> World:
    """rclone with what a grant gives: a token or a signature."""
    return World(
        engine,
        place.destination,
        lambda bucket: place.secret_for(bucket, 3600),
        (wrong, Code.CREDENTIAL_EXPIRED),
        root,
        place.stored,
    )


@pytest.fixture(params=["fake", "s3", "gcs", "azure"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """The fake, or rclone with each protocol."""
    if request.param == "fake":
        return in_memory(tmp_path)
    engine = request.getfixturevalue("rclone")
    if request.param == "s3":
        return on_s3(engine, request.getfixturevalue("seaweedfs"), tmp_path)
    if request.param == "gcs":
        place = on_gcs(request.getfixturevalue("gcs"))
        wrong: Secret = Bearer("token-that-nobody-gave", None, None, place.secret(1).endpoint)
    else:
        azurite = request.getfixturevalue("azurite")
        place = on_azure(azurite)
        wrong = place.secret(-60)
        deleting = signature(azurite, place.destination.bucket, 3600, permissions="rcwd")
        return replace(with_grant(engine, place, tmp_path, wrong=wrong), deleting=deleting)
    return with_grant(engine, place, tmp_path, wrong=wrong)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_files_arrive_under_their_keys(world: World, amount: int) -> None:
    """Every file is stored with its bytes under its key, and no failure is told."""
    files = world.files(amount)

    with world.session() as session:
        failures = session.send(world.root, files, GoOn())

    assert (failures, world.stored()) == ({}, world.expected(files))


@pytest.mark.parametrize("amount", AMOUNTS)
def test_sending_again_replaces(world: World, amount: int) -> None:
    """A send can be repeated, and the newest content wins."""
    with world.session() as session:
        session.send(world.root, world.files(amount), GoOn())
        again = [world.file(f.seq, f.path, b"newer than before") for f in world.files(amount)]
        failures = session.send(world.root, again, GoOn())

    assert (failures, world.stored()) == ({}, world.expected(again))


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_vanished_file_fails_alone(world: World, amount: int) -> None:
    """A source file that is not there any more fails with SOURCE_MISSING; the others arrive."""
    files = world.files(amount)
    (world.root / files[0].path).unlink()

    with world.session() as session:
        failures = session.send(world.root, files, GoOn())

    assert {seq: e.code for seq, e in failures.items()} == {files[0].seq: Code.SOURCE_MISSING}
    assert world.stored() == world.expected(files[1:])


def test_keys_need_not_follow_paths(world: World) -> None:
    """Files go to their keys even where these have nothing to do with their paths."""
    regular = world.files(120)
    odd = [world.file(200 + n, f"odd-{n}", b"odd", key=f"elsewhere/{n}") for n in range(3)]

    with world.session() as session:
        failures = session.send(world.root, [*regular, *odd], GoOn())

    assert (failures, world.stored()) == ({}, world.expected([*regular, *odd]))


def test_an_empty_file_is_an_object(world: World) -> None:
    """A file of no bytes becomes an object of no bytes."""
    file = world.file(1, "empty", b"")

    with world.session() as session:
        failures = session.send(world.root, [file], GoOn())

    assert (failures, world.stored()) == ({}, {file.key: b""})


def test_objects_are_removed_and_others_stay(world: World) -> None:
    """Also ones with odd names, and ones that are not there; repeatable."""
    odd = world.file(1, "odd", key=f"{world.destination.prefix}/.probe-\u2400 ~x")
    top, kept = world.file(2, "top", key="top"), world.file(3, "kept")

    with world.session(world.deleting) as session:
        session.send(world.root, [odd, top, kept], GoOn())
        failures = [session.remove([odd.key, top.key, "never/there"], GoOn()) for _ in range(2)]

    assert (failures, world.stored()) == ([{}, {}], world.expected([kept]))


@pytest.mark.parametrize("world", ["fake", "azure"], indirect=True)
def test_object_that_may_not_be_removed_stays(world: World) -> None:
    """Where only another secret could delete it, that is a failure of its key."""
    file = world.file(1, "kept")
    if isinstance(world.engine, FakeEngine):
        world.engine.kept.add(file.key)

    with world.session() as session:
        session.send(world.root, [file], GoOn())
        failures = session.remove([file.key], GoOn())

    assert ({key: e.code for key, e in failures.items()}, world.stored()) == (
        {file.key: Code.ACCESS_DENIED},
        world.expected([file]),
    )


def test_nothing_to_send_is_no_failure(world: World) -> None:
    """An empty batch succeeds and stores nothing."""
    with world.session() as session:
        assert session.send(world.root, [], GoOn()) == {}

    assert world.stored() == {}


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_wrong_secret_stops_everything(world: World, amount: int) -> None:
    """A refused credential is an error of the whole batch."""
    wrong, code = world.wrong

    with world.session(wrong) as session, pytest.raises(DestinationError) as raised:
        session.send(world.root, world.files(amount), GoOn())

    assert (raised.value.code, world.stored()) == (code, {})


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_renewed_secret_is_used_by_the_next_send(world: World, amount: int) -> None:
    """A session whose secret is refused goes on with the one that it is given, and renewing can be repeated."""
    files = world.files(amount)
    wrong, code = world.wrong

    with world.session(wrong) as session:
        with pytest.raises(DestinationError) as raised:
            session.send(world.root, files, GoOn())
        for _ in range(2):
            session.renew(world.secret(world.destination.bucket))
        failures = session.send(world.root, files, GoOn())

    assert (raised.value.code, failures, world.stored()) == (code, {}, world.expected(files))


def test_nothing_left_over_is_nothing_to_abandon(world: World) -> None:
    """Where no upload was left unfinished, none is forgotten."""
    with world.session() as session:
        assert session.abandon([f"{world.destination.prefix}/none"], GoOn()) == 0


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_missing_bucket_stops_everything(world: World, amount: int) -> None:
    """A bucket that does not exist is an error of the whole batch, and is not made."""
    with world.session(bucket="no-such-bucket") as session, pytest.raises(DestinationError) as raised:
        session.send(world.root, world.files(amount), GoOn())

    assert raised.value.code is Code.NO_SUCH_BUCKET


@pytest.mark.parametrize("reason", [Cancelled(), LeaseLost("part 1")])
def test_a_control_that_objects_stops_it(world: World, reason: CloudPushError) -> None:
    """What the control raises is raised, and nothing is sent."""
    with world.session() as session, pytest.raises(type(reason)):
        session.send(world.root, world.files(3), Stop(reason))

    assert world.stored() == {}


def test_sends_of_one_session_run_side_by_side(world: World) -> None:
    """Several threads may send through one session at once."""
    files = world.files(60)

    with world.session() as session, ThreadPoolExecutor(3) as threads:
        failures = list(threads.map(lambda n: session.send(world.root, files[n::3], GoOn()), range(3)))

    assert (failures, world.stored()) == ([{}, {}, {}], world.expected(files))


def test_sessions_do_not_disturb_each_other(world: World) -> None:
    """A session goes on after another one, opened later, has ended."""
    files = world.files(2)

    with world.session() as longer:
        with world.session() as shorter:
            shorter.send(world.root, files[:1], GoOn())
        failures = longer.send(world.root, files[1:], GoOn())

    assert (failures, world.stored()) == ({}, world.expected(files))


@pytest.mark.parametrize("amount", AMOUNTS)
def test_progress_counts_what_was_sent(world: World, amount: int) -> None:
    """Bytes and files add up over the sends of a session."""
    files = world.files(amount)

    with world.session() as session:
        before = session.progress()
        session.send(world.root, files, GoOn())
        session.send(world.root, files[:1], GoOn())
        after = session.progress()

    sizes = [f.size for f in files] + [files[0].size]
    assert (before, replace(after, speed=0.0)) == (Progress(), Progress(bytes=sum(sizes), files=len(sizes)))


def test_small_files_go_in_one_request(world: World) -> None:
    """A small file is not cut, so its digest is that of the whole."""
    with world.session() as session:
        assert session.piece_size(0) is None
