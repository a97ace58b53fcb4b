"""What every Inspector promises, held by the fake and by the real one with each protocol that it speaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import pytest

from cloudpush.errors import Cancelled, CloudPushError, Code
from cloudpush.push.job import Destination, Profile, Secret, Seen
from cloudpush.push.ports import Control, Inspector
from cloudpush.push.states import Strength
from cloudpush.push.uris import parse_destination, unstorable
from cloudpush.verify.cloud import CloudInspector
from clouds import Place, on_azure, on_gcs
from fakes_inspector import FakeInspector, GoOn, PlainSecret, etag_of, print_of
from servers import Cloud

MIB = 1024 * 1024
ODD_KEYS = [
    "a b+c~d=é(1)'!*.csv",
    "%41",
    "?&#",
    "-rf",
    " spaces ",
    "new\nline",
    "e\u0301",
    "back\\slash",
    "quo\"te'",
    "{}[]|^`<>",
    "dots...",
    "\uff0e\uff0f\uff05",
    "\U0001f600",
    "x" * 200,
]


class Put(Protocol):
    """Stores an object as an upload would."""

    def __call__(self, key: str, data: bytes, piece_size: int | None = None) -> None: ...


@dataclass
class World:
    """A bucket with something in it and an Inspector to ask.

    ``secret_for``: opens a bucket. ``knows_etags``: ETags are digests as S3 makes them. ``proves``: by how much a look
    proves what was sent in one request. ``odd``: keys that the provider can store.
    """

    inspector: Inspector
    destination: Destination
    secret_for: Callable[[str], Secret]
    put: Put
    knows_etags: bool = True
    proves: Strength = Strength.CHECKSUM
    odd: tuple[str, ...] = tuple(ODD_KEYS)

    @property
    def secret(self) -> Secret:
        return self.secret_for(self.destination.bucket)

    def told(self, seen: list[Seen]) -> list[tuple[bool | None, int | None, str]]:
        return [(s.exists, s.size, s.etag if self.knows_etags else "") for s in seen]

    def there(self, data: bytes, piece_size: int | None = None) -> tuple[bool, int, str]:
        return True, len(data), etag_of(data, piece_size) if self.knows_etags else ""

    def look(self, *keys: str) -> list[Seen]:
        return list(self.inspector.look(self.destination, self.secret, keys, GoOn()))

    def survey(self, *keys: str) -> list[Seen]:
        return list(self.inspector.survey(self.destination, self.secret, keys, GoOn()))


def fake_world() -> World:
    inspector = FakeInspector("bucket-1")
    return World(inspector, parse_destination("s3://bucket-1", {}), lambda _bucket: PlainSecret(), inspector.put)


def real_world(cloud: Cloud) -> World:
    bucket = cloud.make_bucket("inspect")

    def put(key: str, data: bytes, piece_size: int | None = None) -> None:
        if piece_size is None:
            cloud.client.put_object(Bucket=bucket, Key=key, Body=data)
            return
        upload = cloud.client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(data), piece_size), 1):
            piece = data[start : start + piece_size]
            sent = cloud.client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=piece)
            parts.append({"PartNumber": number, "ETag": sent["ETag"]})
        cloud.client.complete_multipart_upload(
            Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
        )

    profiles = {"seaweedfs": Profile("seaweedfs", "seaweedfs", cloud.endpoint, cloud.region, trusted=True)}
    return World(
        CloudInspector(),
        parse_destination(f"seaweedfs://{bucket}", profiles),
        lambda _bucket: PlainSecret(cloud.admin.access_key, cloud.admin.secret_key),
        put,
    )


def grant_world(place: Place, proves: Strength, odd: Callable[[str], bool]) -> World:
    def put(key: str, data: bytes, piece_size: int | None = None) -> None:
        assert piece_size is None, "pieces are S3's affair"
        place.put(key, data)

    return World(
        CloudInspector(),
        place.destination,
        lambda bucket: place.secret_for(bucket, 3600),
        put,
        knows_etags=False,
        proves=proves,
        odd=tuple(key for key in ODD_KEYS if odd(key)),
    )


@pytest.fixture(params=["fake", *[pytest.param(name, marks=pytest.mark.stack) for name in ("s3", "gcs", "azure")]])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        return fake_world()
    if request.param == "s3":
        return real_world(request.getfixturevalue("seaweedfs"))
    if request.param == "gcs":
        place = on_gcs(request.getfixturevalue("gcs"), "")
        return grant_world(place, Strength.CHECKSUM, lambda key: not unstorable("gcs", key))
    place = on_azure(request.getfixturevalue("azurite"), "")
    return grant_world(place, Strength.REREAD, lambda key: not unstorable("azure", key))


GONE = (False, None, "")


def test_answers_come_in_the_order_of_the_keys(world: World) -> None:
    """Present, absent, empty and asked twice: each key has its answer at its place."""
    world.put("b", b"bb")
    world.put("a", b"")

    seen = world.look("b", "none", "a", "b")

    assert world.told(seen) == [world.there(b"bb"), GONE, world.there(b""), world.there(b"bb")]


def test_looking_changes_nothing(world: World) -> None:
    """The same question has the same answer."""
    world.put("a", b"x")

    assert world.look("a", "b") == world.look("a", "b")


def test_no_keys_need_no_answer(world: World) -> None:
    """Nothing asked, nothing answered."""
    assert (world.look(), world.survey()) == ([], [])


def test_keys_arrive_byte_for_byte(world: World) -> None:
    """Whatever a key holds, its own object is found, by HEAD and by survey."""
    stored = {f"odd/{key}": str(i).encode() for i, key in enumerate(world.odd)}
    for key, data in stored.items():
        world.put(key, data)
    filler = [f"odd/none-{i}" for i in range(40)]  # enough for a listing

    seen = world.look(*stored)
    surveyed = world.survey(*stored, *filler)

    assert world.told(seen) == [world.there(data) for data in stored.values()]
    assert world.told(surveyed) == [world.there(data) for data in stored.values()] + [GONE] * len(filler)


def test_a_survey_says_what_looks_say(world: World) -> None:
    """Many keys in any order, half of them stored, strangers around and between, orders of servers mixed."""
    wanted = [f"p/d{i % 3}{end}/f{i:03d}" for i in range(60) for end in ("", "-x", ".y")]
    for key in [*wanted[::2], "a", "p/a", "p/d1", "p/d1-", "p/d1/f001x", "q"]:
        world.put(key, key.encode())

    surveyed = world.survey(*reversed(wanted))

    assert world.told(surveyed) == world.told(world.look(*reversed(wanted)))
    assert [s.exists for s in reversed(surveyed)] == [True, False] * 90


def test_a_missing_bucket_is_an_error(world: World) -> None:
    """Nothing can be asked about it: a look says so, by one key or by many, and so may a survey."""
    world.destination = replace(world.destination, bucket="no-such-bucket")
    many = [f"k{i}" for i in range(50)]
    codes = []

    for ask, keys in ((world.look, ["a"]), (world.look, many)):
        with pytest.raises(CloudPushError) as caught:
            ask(*keys)
        codes.append(caught.value.code)
    try:
        surveyed = [s.exists for s in world.survey(*many)]
    except CloudPushError as e:
        codes.append(e.code)
        surveyed = []

    assert (codes[:2], codes[2:] or surveyed) in [
        ([Code.NO_SUCH_BUCKET] * 2, [Code.NO_SUCH_BUCKET]),
        ([Code.NO_SUCH_BUCKET] * 2, [False] * 50),
    ]


def test_whoever_says_stop_is_heard(world: World) -> None:
    """What the control raises comes out."""

    class Stop(Control):
        def check(self) -> None:
            raise Cancelled

    asks: list[Callable[..., object]] = [world.inspector.look, world.inspector.survey]

    for ask in asks:
        with pytest.raises(Cancelled):
            ask(world.destination, world.secret, ["a"], Stop())


def test_what_was_uploaded_is_proved(world: World) -> None:
    """In one request: what the look saw agrees with our file, and disagrees with another of that size or not."""
    world.put("whole", b"0123456789")
    world.put("empty", b"")

    whole, empty = world.look("whole", "empty")

    assert [
        world.inspector.strength(print_of(b"0123456789"), whole),
        world.inspector.strength(print_of(b"9876543210"), whole),
        world.inspector.strength(print_of(b"012345678"), whole),
        world.inspector.strength(print_of(b""), empty),
    ] == [world.proves, Strength.NONE, Strength.NONE, world.proves]


@pytest.mark.parametrize("world", ["fake", pytest.param("s3", marks=pytest.mark.stack)], indirect=True)
def test_what_was_uploaded_in_pieces_is_proved(world: World) -> None:
    """The digest of S3's pieces agrees with ours, and disagrees for other bytes of that size."""
    data = bytes(range(256)) * (6 * MIB // 256)
    world.put("pieces", data, 5 * MIB)

    (pieces,) = world.look("pieces")

    assert [
        world.inspector.strength(print_of(data, 5 * MIB), pieces),
        world.inspector.strength(print_of(data[::-1], 5 * MIB), pieces),
        world.inspector.strength(print_of(data), pieces),
    ] == [Strength.CHECKSUM, Strength.NONE, Strength.SIZE]
