"""What every Uploader promises, held by the fake and by the real one with a real S3 server."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from builders import a_signed_push
from cloudpush.errors import Cancelled, CloudPushError, Code, LeaseLost
from cloudpush.push.guard import parse_endpoint
from cloudpush.push.job import PlannedFile, Push
from cloudpush.push.ports import Control
from cloudpush.push.signed.model import Arrival, Kind, Need, Piece, Provider, SignedUrl, Ticket
from cloudpush.push.signed.ports import Errand, Journal, Renewals, Uploader, UrlSession
from cloudpush.push.states import Overwrite, Strength
from cloudpush.transfer.signed.uploader import SignedUploader
from fakes_inspector import GoOn
from fakes_uploader import FakeUploader, a_ticket
from servers import Cloud

NOW = datetime.now(UTC)
PAST = NOW - timedelta(minutes=1)


class Stop(Control):
    """A control that has already decided."""

    def __init__(self, reason: CloudPushError) -> None:
        self.reason = reason

    def check(self) -> None:
        raise self.reason


class NoPieces(Journal):
    """For files that are sent in one request."""

    def arrived(self, piece: Piece) -> None:
        raise AssertionError

    def flush(self) -> None:
        raise AssertionError

    def began(self, seq: int, session: str) -> None:
        raise AssertionError

    def lost(self, seq: int) -> None:
        raise AssertionError


@dataclass
class World(Renewals):
    """An uploader, a bucket, a source and somebody who signs, or does not."""

    uploader: Uploader
    push: Push
    root: Path
    sign: Callable[[str, datetime | None], Ticket]
    stored: Callable[[], Mapping[str, bytes]]
    signs: bool = False
    asked: list[Need] = field(default_factory=list)

    def fresh(self, needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        self.asked += needs
        return {need.seq: self.sign(need.path, None) for need in needs} if self.signs else {}

    def errand(self, seq: int, expires: datetime | None = None) -> Errand:
        data = os.urandom(100 + seq)
        path = self.root / f"f{seq}"
        path.write_bytes(data)
        ticket = self.sign(path.name, expires)
        return Errand(PlannedFile(seq, path.name, ticket.key, len(data), path.stat().st_mtime_ns), ticket)

    def errands(self, amount: int) -> list[Errand]:
        return [self.errand(seq) for seq in range(1, amount + 1)]

    @contextmanager
    def session(self) -> Iterator[UrlSession]:
        roots = [str(self.root.resolve())]
        with self.uploader.open(self.push, self.root, roots, Overwrite.ALWAYS, NoPieces(), self, "group-1") as session:
            yield session

    def send(self, *errands: Errand, control: Control | None = None) -> Mapping[int, Arrival | CloudPushError]:
        with self.session() as session:
            return session.send(errands, control or GoOn())

    def content(self, errands: Sequence[Errand]) -> dict[str, bytes]:
        return {e.file.key: (self.root / e.file.path).read_bytes() for e in errands}


@pytest.fixture(scope="module")
def signed_uploader(seaweedfs: Cloud) -> Iterator[SignedUploader]:
    """The real one."""
    uploader = SignedUploader(allowed_endpoints=(seaweedfs.address,))
    yield uploader
    uploader.close()


@pytest.fixture(params=["fake", "signed"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """The fake, or our own with SeaweedFS."""
    if request.param == "fake":
        fake = FakeUploader(lambda: NOW)
        return World(fake, a_signed_push(), tmp_path, lambda path, at: a_ticket(path, expires=at), lambda: fake.there)
    cloud: Cloud = request.getfixturevalue("seaweedfs")
    bucket = cloud.make_bucket()

    def sign(path: str, expires: datetime | None) -> Ticket:
        key = f"runs/7/{path}"
        text = cloud.client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=600)
        origin = parse_endpoint(cloud.endpoint)
        url = SignedUrl(text, Provider.S3, "other", "v4", origin, bucket, key, expires_at=expires, vouched=True)
        return Ticket(path, Kind.PUT, url, expires_at=expires)

    return World(
        request.getfixturevalue("signed_uploader"),
        replace(a_signed_push(), endpoint=cloud.endpoint),
        tmp_path,
        sign,
        lambda: {key: cloud.read(bucket, key) for key in cloud.keys(bucket)},
    )


@pytest.mark.parametrize("amount", [1, 7, 200])
def test_each_file_arrives_with_its_digest_and_what_proves_it(world: World, amount: int) -> None:
    errands = world.errands(amount)
    outcomes = world.send(*errands)
    sums = {e.file.seq: hashlib.sha256((world.root / e.file.path).read_bytes()).digest() for e in errands}
    seen = {seq: (o.sha256, o.strength, o.sent) for seq, o in outcomes.items() if isinstance(o, Arrival)}
    assert seen == {e.file.seq: (sums[e.file.seq], Strength.CHECKSUM, e.file.size) for e in errands}
    assert world.stored() == world.content(errands)


def test_nothing_to_send_is_no_work(world: World) -> None:
    assert world.send() == {}


def test_sending_again_is_harmless(world: World) -> None:
    errands = world.errands(3)
    first, second = world.send(*errands), world.send(*errands)
    assert all(isinstance(o, Arrival) for o in [*first.values(), *second.values()])
    assert world.stored() == world.content(errands)


def test_an_expired_url_that_nobody_renews_is_its_files_outcome_alone(world: World) -> None:
    good, late = world.errand(1), world.errand(2, PAST)
    outcomes = world.send(good, late)
    assert isinstance(outcomes[1], Arrival)
    failure = outcomes[2]
    assert isinstance(failure, CloudPushError)
    assert failure.code is Code.URL_EXPIRED
    assert world.stored() == world.content([good])


def test_expired_and_purged_urls_are_renewed(world: World) -> None:
    world.signs = True
    errands = [world.errand(1), world.errand(2, PAST), replace(world.errand(3), ticket=None)]
    outcomes = world.send(*errands)
    assert all(isinstance(o, Arrival) for o in outcomes.values())
    assert world.stored() == world.content(errands)
    assert sorted((n.seq, n.path, n.kind) for n in world.asked) == [(2, "f2", Kind.PUT), (3, "f3", Kind.PUT)]


@pytest.mark.parametrize("reason", [Cancelled(), LeaseLost("part 1")])
def test_who_is_to_stop_sends_nothing(world: World, reason: CloudPushError) -> None:
    with pytest.raises(type(reason)):
        world.send(*world.errands(3), control=Stop(reason))
    assert world.stored() == {}


def test_a_callback_that_is_told_to_stop_stops_the_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fresh(needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        raise Cancelled

    monkeypatch.setattr(world, "fresh", fresh)
    with pytest.raises(Cancelled):
        world.send(world.errand(1, PAST))


def test_progress_counts_files(world: World) -> None:
    with world.session() as session:
        session.send(world.errands(5), GoOn())
        assert session.progress().files == 5


def test_a_put_leaves_nothing_behind_to_abort(world: World) -> None:
    with world.session() as session:
        assert session.abort(world.errands(2), GoOn()) == {}


def test_neither_an_errand_nor_a_session_shows_a_url(world: World) -> None:
    errand = world.errand(1)
    with world.session() as session:
        shown = repr([errand, session])
    assert errand.ticket is not None
    assert errand.ticket.url.text.partition("?")[2] not in shown
