"""Multipart uploads with part URLs against a real S3 server: what an upload leaves there, and what it goes on with."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import servers
from builders import a_signed_push
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.job import Destination, PlannedFile, Profile
from cloudpush.push.ports import Control
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.model import PROFILE, Arrival, Need, Piece, Ticket
from cloudpush.push.signed.ports import Errand, UrlSession
from cloudpush.push.signed.rows import Rules, read_row
from cloudpush.push.states import Overwrite, Strength
from cloudpush.transfer.signed.uploader import SignedUploader
from fakes_inspector import GoOn
from signed_jobs import Diary
from signers import MIB, Row, S3Signer

DATA = random.Random(4).randbytes(11 * MIB)
FILE = "f.bin"


@dataclass
class Renewals:
    """Hands out ``tickets`` in turn; keeps what was needed."""

    tickets: list[Ticket] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)

    def fresh(self, needs: Sequence[Need], control: Control) -> Mapping[int, Ticket]:
        self.needs += needs
        return {need.seq: self.tickets.pop(0) for need in needs if self.tickets}


@dataclass
class World:
    """One file, one bucket, and whoever signs URLs for it."""

    cloud: servers.Cloud
    bucket: str
    root: Path
    uploader: SignedUploader
    diary: Diary = field(default_factory=Diary)
    renewals: Renewals = field(default_factory=Renewals)

    def begin(self, key: str) -> str:
        upload: str = self.cloud.client.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
        return upload

    def ticket(self, key: str, upload: str, *, seconds: int = 600, companion: str = "") -> Ticket:
        signer = S3Signer(self.cloud.endpoint, self.cloud.admin, self.bucket, seconds=seconds)
        row: Row = signer.multipart(FILE, key, upload, 3, part_size=5 * MIB, companion=companion)
        return read_row(row, Rules(Styles.of([self.cloud.address])))

    def session(self) -> AbstractContextManager[UrlSession]:
        destination = Destination("s3", self.bucket, "", Profile(PROFILE, "other"))
        push = a_signed_push(self.root, destination=destination, endpoint=self.cloud.endpoint)
        roots = [os.path.realpath(self.root)]
        return self.uploader.open(push, self.root, roots, Overwrite.IF_DIFFERENT, self.diary, self.renewals, "group")

    def errand(self, ticket: Ticket, pieces: Sequence[Piece] = ()) -> Errand:
        path = self.root / FILE
        if not path.exists():
            path.write_bytes(DATA)
        return Errand(PlannedFile(1, FILE, ticket.key, len(DATA), path.stat().st_mtime_ns), ticket, pieces)

    def send(self, ticket: Ticket, pieces: Sequence[Piece] = ()) -> Any:
        """The arrival, or the code of what went wrong."""
        with self.session() as session:
            outcome = session.send([self.errand(ticket, pieces)], GoOn())[1]
        return outcome if isinstance(outcome, Arrival) else self._code(outcome)

    def abort(self, ticket: Ticket) -> Mapping[int, str]:
        with self.session() as session:
            return session.abort([self.errand(ticket)], GoOn())

    def etag(self, key: str) -> str:
        told: str = self.cloud.client.head_object(Bucket=self.bucket, Key=key)["ETag"]
        return told.strip('"')

    def _code(self, error: CloudPushError) -> Code:
        assert "X-Amz" not in f"{error} {error.detail}"
        return error.code


@pytest.fixture
def world(seaweedfs: servers.Cloud, tmp_path: Path) -> Iterator[World]:
    uploader = SignedUploader(allowed_endpoints=(seaweedfs.address,))
    yield World(seaweedfs, seaweedfs.make_bucket(), tmp_path, uploader)
    uploader.close()


def test_the_etag_that_was_proved_is_the_one_that_the_server_keeps(world: World) -> None:
    """And nothing unfinished is left behind."""
    arrival = world.send(world.ticket("a/b", world.begin("a/b"), companion="head"))

    assert (arrival.strength, arrival.sent) == (Strength.CHECKSUM, len(DATA))
    assert arrival.etag == arrival.expected == world.etag("a/b")
    assert (world.cloud.read(world.bucket, "a/b") == DATA, world.cloud.uploads(world.bucket)) == (True, [])


@pytest.mark.parametrize("kept", [(1,), (2, 3), (1, 2, 3)])
def test_fresh_urls_of_the_same_upload_go_on_with_what_is_missing(world: World, kept: tuple[int, ...]) -> None:
    """As after a crash, or an expiry that somebody answered with `resign`."""
    upload = world.begin("k")
    ticket = world.ticket("k", upload)
    broken = replace(ticket, parts=tuple(url if n in kept else url + "0" for n, url in enumerate(ticket.parts, 1)))
    if len(kept) == 3:
        broken = replace(broken, url=replace(broken.url, text=broken.url.text + "0"))
    assert world.send(broken) is Code.BAD_SIGNATURE
    left = list(world.diary.pieces)

    arrival = world.send(world.ticket("k", upload, seconds=900), left)

    assert {piece.number for piece in left} == set(kept)
    assert arrival.sent == len(DATA) - sum(piece.size for piece in left)
    assert world.cloud.read(world.bucket, "k") == DATA


def test_urls_that_expire_are_renewed_for_the_missing_parts(world: World) -> None:
    """URLs that are over are not even tried."""
    upload = world.begin("k")
    world.renewals.tickets = [world.ticket("k", upload)]

    arrival = world.send(world.ticket("k", upload, seconds=1))

    assert (arrival.sent, [need.parts for need in world.renewals.needs]) == (len(DATA), [(1, 2, 3)])


def test_fresh_urls_of_another_upload_leave_nothing_of_the_old_one(world: World) -> None:
    """It is aborted, as long as its abort URL still works."""
    old, new = world.begin("k"), world.begin("k")
    still_good = world.ticket("k", old)
    world.renewals.tickets = [world.ticket("k", new)]
    over = world.ticket("k", old, seconds=1)

    assert world.send(replace(over, abort=still_good.abort)).strength is Strength.CHECKSUM
    assert world.cloud.uploads(world.bucket) == []


def test_an_upload_that_was_aborted_is_gone(world: World) -> None:
    """Aborting twice is as good as once; nothing can be sent afterwards."""
    ticket = world.ticket("k", world.begin("k"))

    assert [world.abort(ticket), world.abort(ticket), world.cloud.uploads(world.bucket)] == [{}, {}, []]
    assert world.send(ticket) is Code.UPLOAD_GONE


def test_completing_an_upload_that_is_complete_succeeds(world: World) -> None:
    """The answer to the first request was lost: all parts are known, so only that request goes out again."""
    ticket = world.ticket("k", world.begin("k"))
    first = world.send(ticket)
    second = world.send(ticket, world.diary.pieces)

    assert (first.sent, second.sent, second.etag) == (len(DATA), 0, first.etag)
