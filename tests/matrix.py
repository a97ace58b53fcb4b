"""The kinds of signed URLs, each with a server that really checks, a way to it that can fail, and a witness that signs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

import requests

from builders import a_signed_push
from cloudpush.errors import CloudPushError
from cloudpush.push.job import Destination, PlannedFile, Profile
from cloudpush.push.signed.hosts import Styles
from cloudpush.push.signed.model import PROFILE, Arrival, Kind, Need, Piece, Provider, Ticket
from cloudpush.push.signed.ports import Errand, Journal, Renewals
from cloudpush.push.signed.rows import Rules, read_row
from cloudpush.push.states import Overwrite
from cloudpush.push.walk import real_roots
from cloudpush.stack.azurite import Azurite
from cloudpush.transfer.signed.uploader import SignedUploader
from doubles.aws_proxy import AwsProxy
from doubles.faults import FaultProxy
from doubles.gcs import GcsDouble
from fakes_inspector import GoOn
from servers import Cloud
from signers import MIB, AzureSigner, GcsSigner, Row, S3Signer

NOW = timedelta()
FILE = "f.bin"
_SCHEMES = {Provider.S3: "s3", Provider.GCS: "gs", Provider.AZURE: "az"}
#: Query values of this length or more are secrets.
_SECRET = 16


class Way(Protocol):
    """A server behind a proxy that can fail, with room for objects."""

    proxy: FaultProxy
    bucket: str

    def read(self, key: str) -> bytes | None:
        """The object's bytes; None where there is none."""


@dataclass
class S3Way:
    """``upstream`` is SeaweedFS itself, or the proxy that makes AWS of it."""

    proxy: FaultProxy
    cloud: Cloud
    bucket: str

    def read(self, key: str) -> bytes | None:
        return self.cloud.read(self.bucket, key) if key in self.cloud.keys(self.bucket, key) else None

    def signer(self, ago: timedelta, version: str = "v4") -> S3Signer:
        return S3Signer(self.proxy.endpoint, self.cloud.writer, self.bucket, version=version, ago=ago)

    def looker(self) -> S3Signer:
        """Signs what looks: the writer's key may only write."""
        return S3Signer(self.proxy.endpoint, self.cloud.reader, self.bucket)

    def begin(self, key: str) -> str:
        upload: str = self.cloud.client.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
        return upload


@dataclass
class GcsWay:
    proxy: FaultProxy
    double: GcsDouble
    bucket: str = "bucket"

    def read(self, key: str) -> bytes | None:
        found = self.double.objects.get((self.bucket, key))
        return found.data if found else None

    def signer(self, ago: timedelta, version: str = "v4") -> GcsSigner:
        return GcsSigner(self.proxy.endpoint, self.bucket, version=version, ago=ago)


@dataclass
class AzureWay:
    proxy: FaultProxy
    server: Azurite
    bucket: str

    def read(self, key: str) -> bytes | None:
        answer = requests.get(self.server.signed_url(self.bucket, key, permissions="r"), timeout=10)
        return answer.content if answer.ok else None

    def signer(self, ago: timedelta) -> AzureSigner:
        return AzureSigner(self.proxy.endpoint, self.server.account, self.bucket, ago=ago)


class Sender:
    """An uploader as a worker process has it, and the files that it sends."""

    def __init__(self, sources: Path, addresses: Sequence[str]) -> None:
        """``addresses``: what the operator allows beside the public internet."""
        self.sources = sources
        self._styles = Styles.of(addresses)
        self._patient, self._hasty = (SignedUploader(allowed_endpoints=addresses, stall=stall) for stall in (20.0, 0.3))

    def close(self) -> None:
        self._patient.close()
        self._hasty.close()

    def send(
        self,
        row: Row,
        data: bytes,
        *,
        overwrite: Overwrite = Overwrite.ALWAYS,
        pieces: Sequence[Piece] = (),
        session: str = "",
        journal: Journal | None = None,
        hasty: bool = False,
    ) -> Arrival | CloudPushError:
        """What becomes of a file of ``data`` that is sent with ``row``, which intake reads first.

        ``hasty``: what makes no progress is given up soon.
        """
        path = self.sources / FILE
        path.write_bytes(data)
        try:
            ticket = read_row(row, Rules(self._styles))
        except CloudPushError as e:
            return e
        key = ticket.key if ticket.kind is not Kind.TREE else f"{ticket.key}{'/' if ticket.key else ''}{FILE}"
        file = PlannedFile(1, FILE, key, len(data), path.stat().st_mtime_ns)
        place = Destination(_SCHEMES[ticket.url.provider], ticket.url.bucket, "", Profile(PROFILE, "other"))
        push = a_signed_push(self.sources, destination=place, endpoint=ticket.url.origin.url)
        uploader = self._hasty if hasty else self._patient
        roots = real_roots([self.sources])
        with uploader.open(push, self.sources, roots, overwrite, journal or Memory(), Nobody(), "matrix") as session_:
            try:
                return session_.send([Errand(file, ticket, pieces, session)], GoOn())[1]
            except CloudPushError as e:
                return e


@dataclass
class World:
    """All servers, and what is sent to them."""

    weed: S3Way
    aws: S3Way
    gcs: GcsWay
    azure: AzureWay
    sender: Sender

    @classmethod
    def of(
        cls,
        cloud: Cloud,
        aws: AwsProxy,
        gcs: GcsDouble,
        azurite: Azurite,
        proxies: Callable[[str], FaultProxy],
        sources: Path,
    ) -> World:
        """``proxies`` puts one before an upstream."""
        bucket = cloud.make_bucket()
        azurite.make_container(bucket)
        ways = (
            S3Way(proxies(cloud.endpoint), cloud, bucket),
            S3Way(proxies(aws.endpoint), cloud, bucket),
            GcsWay(proxies(gcs.endpoint), gcs),
            AzureWay(proxies(f"http://{azurite.address}"), azurite, bucket),
        )
        return cls(*ways, Sender(sources, [way.proxy.address for way in ways]))


@dataclass
class Memory(Journal):
    """What arrived, kept."""

    pieces: dict[int, Piece] = field(default_factory=dict)
    sessions: list[str] = field(default_factory=list)
    losses: int = 0

    def arrived(self, piece: Piece) -> None:
        self.pieces[piece.number] = piece

    def flush(self) -> None:
        pass

    def began(self, seq: int, session: str) -> None:
        self.sessions.append(session)

    def lost(self, seq: int) -> None:
        self.losses += 1
        self.pieces.clear()
        self.sessions.clear()


class Nobody(Renewals):
    """Renews nothing."""

    def fresh(self, needs: Sequence[Need], control: object) -> Mapping[int, Ticket]:
        return {}


Make = Callable[[World, str, timedelta], Row]


@dataclass(frozen=True)
class Case:
    """A kind of URL. ``make(world, key, ago)`` signs one, as if it were ``ago``.

    ``method`` and ``pattern`` name the requests that carry the content, ``second`` one of several that do; ``last`` the
    request whose answer says that the object is there. ``wrong_method`` signs for another method; None: none is signed.
    """

    name: str
    way: Callable[[World], Way]
    make: Make
    size: int = 300_000
    method: str = "PUT"
    pattern: str = ""
    second: str = ""
    last: tuple[str, str] = ("PUT", "")
    wrong_method: Make | None = None

    def __str__(self) -> str:
        return self.name


def data_of(case: Case) -> bytes:
    """Bytes of which no part is like another."""
    return os.urandom(case.size)


def secrets_of(row: Row) -> list[str]:
    """Everything in ``row`` that opens something."""
    found: list[str] = []
    for value in row.values():
        texts = value if isinstance(value, list) else [value]
        for text in texts:
            if isinstance(text, str) and "?" in text:
                found += [v for _, v in parse_qsl(urlsplit(text).query) if len(v) >= _SECRET]
    if "fields" in row:
        found += [row["fields"]["policy"], row["fields"]["x-amz-signature"]]
    return found


def renamed(row: Row, key: str, other: str) -> Row:
    """``row`` with its URLs leading to another key than they were signed for."""

    def change(value: object) -> object:
        if isinstance(value, list):
            return [change(one) for one in value]
        if isinstance(value, dict):
            return {**value, "key": other}
        return value.replace(quote(key), quote(other)) if isinstance(value, str) else value

    return {column: change(value) if column != "path" else value for column, value in row.items()}


def _put(way: Callable[[World], S3Way], version: str = "v4", companion: bool = False) -> Make:
    def make(world: World, key: str, ago: timedelta) -> Row:
        there = way(world)
        row = there.signer(ago, version).put(FILE, key)
        return row | {"head_url": there.looker().look(key)} if companion else row

    return make


def _gets(way: Callable[[World], S3Way], version: str = "v4") -> Make:
    return lambda world, key, ago: {"path": FILE, "url": way(world).signer(ago, version).look(key, "get")}


def _weed(world: World) -> S3Way:
    return world.weed


def _aws(world: World) -> S3Way:
    return world.aws


def _gcs(world: World) -> GcsWay:
    return world.gcs


def _azure(world: World) -> AzureWay:
    return world.azure


def _s3_parts(world: World, key: str, ago: timedelta) -> Row:
    return world.aws.signer(ago).multipart(FILE, key, world.aws.begin(key), 3, part_size=5 * MIB)


def _swapped(make: Make) -> Make:
    """A multipart upload whose URL to complete was signed for DELETE."""

    def swapped(world: World, key: str, ago: timedelta) -> Row:
        row = make(world, key, ago)
        return {**row, "complete_url": row["abort_url"]}

    return swapped


def _gcs_parts(world: World, key: str, ago: timedelta) -> Row:
    upload = world.gcs.signer(NOW).begin(key)
    return world.gcs.signer(ago).multipart(FILE, key, upload, 3, part_size=5 * MIB)


def _gcs_put_as_start(world: World, key: str, ago: timedelta) -> Row:
    row = world.gcs.signer(ago).put(FILE, key, headers={"x-goog-resumable": "start"})
    return {"path": FILE, "start_url": row["url"]}


S3_PARTS: dict[str, Any] = {
    "size": 11 * MIB,
    "pattern": "partNumber=",
    "second": "partNumber=2",
    "last": ("POST", "uploadId="),
}
BLOCKS: dict[str, Any] = {"size": 5 * MIB, "pattern": "comp=block&", "last": ("PUT", "comp=blocklist")}
CASES: tuple[Case, ...] = (
    Case("s3-put-v4-aws", _aws, _put(_aws), wrong_method=_gets(_aws)),
    Case("s3-put-v4-aws-large", _aws, _put(_aws), size=3 * MIB, wrong_method=_gets(_aws)),
    Case("s3-put-v2-aws", _aws, _put(_aws, "v2"), wrong_method=_gets(_aws, "v2")),
    Case("s3-put-v4-seaweedfs", _weed, _put(_weed), wrong_method=_gets(_weed)),
    Case("s3-put-v4-head-url", _weed, _put(_weed, companion=True), wrong_method=_gets(_weed)),
    Case(
        "s3-form",
        _aws,
        lambda w, key, ago: w.aws.signer(ago).form(FILE, key),
        method="POST",
        last=("POST", ""),
    ),
    Case("s3-multipart", _aws, _s3_parts, **S3_PARTS, wrong_method=_swapped(_s3_parts)),
    Case(
        "gcs-put-v4",
        _gcs,
        lambda w, key, ago: w.gcs.signer(ago).put(FILE, key),
        wrong_method=lambda w, key, ago: {"path": FILE, "url": w.gcs.signer(ago).look(key, "GET")},
    ),
    Case(
        "gcs-put-v2",
        _gcs,
        lambda w, key, ago: w.gcs.signer(ago, "v2").put(FILE, key),
        wrong_method=lambda w, key, ago: {"path": FILE, "url": w.gcs.signer(ago, "v2").look(key, "GET")},
    ),
    Case(
        "gcs-resumable",
        _gcs,
        lambda w, key, ago: w.gcs.signer(ago).start(FILE, key),
        size=3 * MIB + 7,
        pattern="upload_id=",
        wrong_method=_gcs_put_as_start,
    ),
    Case(
        "gcs-session",
        _gcs,
        lambda w, key, ago: w.gcs.signer(NOW).session(FILE, key),
        size=3 * MIB + 7,
        pattern="upload_id=",
    ),
    Case("gcs-multipart", _gcs, _gcs_parts, **S3_PARTS, wrong_method=_swapped(_gcs_parts)),
    Case(
        "azure-put-blob",
        _azure,
        lambda w, key, ago: w.azure.signer(ago).put(FILE, key),
        wrong_method=lambda w, key, ago: w.azure.signer(ago).put(FILE, key, "r"),
    ),
    Case(
        "azure-account-sas",
        _azure,
        lambda w, key, ago: w.azure.signer(ago).put_by_account(FILE, key),
        wrong_method=lambda w, key, ago: w.azure.signer(ago).put_by_account(FILE, key, "r"),
    ),
    Case(
        "azure-blocks",
        _azure,
        lambda w, key, ago: w.azure.signer(ago).put(FILE, key),
        **BLOCKS,
        wrong_method=lambda w, key, ago: w.azure.signer(ago).put(FILE, key, "r"),
    ),
    Case(
        "azure-tree",
        _azure,
        lambda w, key, ago: w.azure.signer(ago).tree(),
        wrong_method=lambda w, key, ago: w.azure.signer(ago).tree("r"),
    ),
)
