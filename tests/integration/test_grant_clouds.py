"""What a grant opens, from the source's bytes to the verdict: engine, inspector and delivery, with Google's double and Azurite."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from builders import NOON, a_push
from cloudpush.errors import CloudPushError, Code, InputError
from cloudpush.push.delivery import Delivery
from cloudpush.push.grants.model import Bearer, Sas
from cloudpush.push.job import FileResult, PlannedFile, Profile, Secret, Seen
from cloudpush.push.states import FileState, Overwrite, Strength
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.stack.azurite import Azurite
from cloudpush.transfer.rclone import Rclone
from cloudpush.verify.cloud import CloudInspector
from clouds import Place, bearer, on_azure, on_gcs, signature
from doubles.faults import Fault, FaultProxy, Rule
from doubles.gcs import GcsDouble
from fakes_inspector import GoOn, print_of

MIB = 1024 * 1024
BIG = 40 * MIB
LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture(scope="module")
def rclone() -> Iterator[Rclone]:
    engine = Rclone(Settings(rclone=str(binaries.rclone()), transfers=8))
    yield engine
    engine.stop()


@pytest.fixture
def double() -> Iterator[GcsDouble]:
    with GcsDouble({}) as served:
        yield served


@pytest.fixture
def files(tmp_path: Path) -> list[PlannedFile]:
    """Thirty small ones, one of them empty, and a large one."""
    sizes = {f"d{n % 3}/f{n}": n * 100 for n in range(30)} | {"big": BIG}
    planned = []
    for seq, (path, size) in enumerate(sizes.items(), 1):
        where = tmp_path / path
        where.parent.mkdir(exist_ok=True)
        where.write_bytes(os.urandom(size))
        planned.append(PlannedFile(seq, path, f"runs/7/{path}", size, where.stat().st_mtime_ns))
    return planned


def deliver(
    rclone: Rclone,
    place: Place,
    root: Path,
    files: list[PlannedFile],
    *,
    demanded: Strength,
    overwrite: Overwrite = Overwrite.ALWAYS,
) -> dict[str, FileResult]:
    """Results by path."""
    secret = place.secret(3600)
    opening = rclone.open(place.destination, secret, f"g-{os.urandom(4).hex()}")
    inspector = CloudInspector()
    with opening as session, ThreadPoolExecutor(2) as helpers:
        delivery = Delivery(
            push=a_push(root, destination=place.destination, min_strength=demanded, overwrite=overwrite),
            root=root,
            roots=[str(root)],
            secret=lambda: secret,
            session=session,
            inspector=inspector,
            control=GoOn(),
            helpers=helpers,
            now=lambda: NOON,
        )
        results = delivery.batch(files)
    inspector.close()
    paths = {f.seq: f.path for f in files}
    return {paths[r.seq]: r for r in results}


def proofs(results: dict[str, FileResult]) -> Counter[tuple[FileState, Strength]]:
    return Counter((r.state, r.strength) for r in results.values())


def test_google_proves_every_file_by_its_own_digest(
    rclone: Rclone, double: GcsDouble, tmp_path: Path, files: list[PlannedFile]
) -> None:
    """Small and large: the MD5 that Google computed is ours; each object's generation is on record."""
    place = on_gcs(double)

    results = deliver(rclone, place, tmp_path, files, demanded=Strength.CHECKSUM)

    assert place.stored() == {f.key: (tmp_path / f.path).read_bytes() for f in files}
    assert proofs(results) == {(FileState.VERIFIED, Strength.CHECKSUM): 31}
    assert {r.version_id for r in results.values()} == {str(o.generation) for o in double.objects.values()}


def test_google_skips_what_is_there_already(
    rclone: Rclone, double: GcsDouble, tmp_path: Path, files: list[PlannedFile]
) -> None:
    """A second push looks by HEAD only, and sends nothing but the one file that differs."""
    place = on_gcs(double)
    deliver(rclone, place, tmp_path, files, demanded=Strength.CHECKSUM)
    place.put("runs/7/d0/f3", b"x" * 300)
    double.log.clear()

    results = deliver(rclone, place, tmp_path, files, demanded=Strength.CHECKSUM, overwrite=Overwrite.IF_DIFFERENT)

    assert proofs(results) == {
        (FileState.SKIPPED, Strength.CHECKSUM): 30,
        (FileState.VERIFIED, Strength.CHECKSUM): 1,
    }
    assert Counter(sent.what for sent in double.log) == {"head": 32, "upload": 1}


def test_a_corrupted_object_at_google_is_found(
    rclone: Rclone, double: GcsDouble, tmp_path: Path, files: list[PlannedFile]
) -> None:
    """A small and the large one rot after the upload was answered: each is told, the others are verified."""
    place = on_gcs(double)
    double.corrupts |= {("bucket", "runs/7/d1/f7"), ("bucket", "runs/7/big")}

    results = deliver(rclone, place, tmp_path, files, demanded=Strength.CHECKSUM)

    bad = {path: r.error.code for path, r in results.items() if r.error}
    assert bad == {"d1/f7": Code.CORRUPTED, "big": Code.CORRUPTED}
    assert proofs(results)[FileState.VERIFIED, Strength.CHECKSUM] == 29


def test_azure_proves_small_files_by_reading_and_large_ones_by_their_blocks(
    rclone: Rclone, azurite: Azurite, tmp_path: Path, files: list[PlannedFile]
) -> None:
    """What went in one request is read back; what went in blocks was compared block by block."""
    place = on_azure(azurite)

    results = deliver(rclone, place, tmp_path, files, demanded=Strength.INGEST)

    assert place.stored() == {f.key: (tmp_path / f.path).read_bytes() for f in files}
    assert {path for path, r in results.items() if r.strength is Strength.INGEST} == {"big"}
    assert proofs(results) == {(FileState.VERIFIED, Strength.REREAD): 30, (FileState.VERIFIED, Strength.INGEST): 1}


def test_azure_never_claims_a_checksum(
    rclone: Rclone, azurite: Azurite, tmp_path: Path, files: list[PlannedFile]
) -> None:
    """A push that demands one gets `unverified` for the file that went in blocks, and its words say why."""
    results = deliver(rclone, on_azure(azurite), tmp_path, files[-1:], demanded=Strength.CHECKSUM)

    assert proofs(results) == {(FileState.UNVERIFIED, Strength.INGEST): 1}
    assert results["big"].error is not None
    assert results["big"].error.code is Code.NOT_VERIFIED


def test_bytes_that_change_on_their_way_to_azure_are_found(
    rclone: Rclone, azurite: Azurite, tmp_path: Path, files: list[PlannedFile]
) -> None:
    """In one request: stored, and found by reading back. In a block: refused by Azure, so nothing is stored."""
    with FaultProxy(azurite.endpoint) as proxy:
        place = on_azure(azurite, through=proxy.address)
        flip = [Rule(Fault.FLIP, "PUT", "f7\\?", at=10), Rule(Fault.FLIP, "PUT", "comp=block&", at=10)]
        proxy.spoil(*flip)
        results = deliver(rclone, place, tmp_path, files, demanded=Strength.INGEST)

    bad = {path: r.error.code for path, r in results.items() if r.error}
    assert bad.pop("d1/f7") is Code.CORRUPTED
    # Azurite shows a blob whose blocks were never committed as an empty one.
    assert (set(bad), place.stored().get("runs/7/big", b"")) == ({"big"}, b"")
    assert proofs(results)[FileState.VERIFIED, Strength.REREAD] == 29


# -- the inspector alone -------------------------------------------------------------------------------


def looked(place: Place, secret: Secret, *keys: str) -> list[Seen]:
    return list(CloudInspector().look(place.destination, secret, keys, GoOn()))


def test_a_survey_of_azure_proves_nothing_but_the_size(azurite: Azurite) -> None:
    """Who stored it, and how, is unknown before an upload; nothing is read."""
    place = on_azure(azurite)
    place.put("small", b"0123456789")
    place.put("large", b"x" * (5 * MIB))

    seen = CloudInspector().survey(place.destination, place.secret(60), ["small", "large", "none"], GoOn())

    assert [(s.exists, s.size, s.reread, s.ingest) for s in seen] == [
        (True, 10, b"", False),
        (True, 5 * MIB, b"", False),
        (False, None, b"", False),
    ]


def test_an_object_without_md5_is_proved_by_its_size_and_says_why(double: GcsDouble) -> None:
    """Composed of others: Google tells a CRC-32C only."""
    place = on_gcs(double)
    double.put("bucket", "composed", b"0123456789", composed=True)

    (seen,) = looked(place, place.secret(60), "composed")

    assert CloudInspector().strength(print_of(b"0123456789"), seen) is Strength.SIZE
    assert seen.error is not None
    assert "no MD5" in seen.error.message


@pytest.mark.parametrize("cloud", ["gcs", "azure"])
def test_what_has_expired_is_told_for_all_keys(double: GcsDouble, azurite: Azurite, cloud: str) -> None:
    """A token that is not taken any more, or a signature whose time is over: the code that leads to a renewal."""
    place = on_gcs(double) if cloud == "gcs" else on_azure(azurite)
    secret = place.secret(-60)

    with pytest.raises(CloudPushError) as raised:
        looked(place, secret, "a", "b")

    shown = f"{raised.value!r} {vars(raised.value)} {raised.value.__context__!r} {raised.value.__cause__!r}"
    assert raised.value.code is Code.CREDENTIAL_EXPIRED
    assert [s for s in secret.reveal().values() if s in shown] == []


def test_a_key_that_may_not_be_seen_is_told_alone(double: GcsDouble, azurite: Azurite) -> None:
    """Google hides one object; a signature without `r` hides all of Azure's: known in words, and no error of the call."""
    google, azure = on_gcs(double), on_azure(azurite)
    google.put("a", b"x")
    azure.put("a", b"x")
    double.forbidden.add(("bucket", "hidden"))
    blind = signature(azurite, azure.destination.bucket, 60, permissions="cw")

    seen = [*looked(google, google.secret(60), "hidden", "a"), *looked(azure, blind, "a")]

    assert [(s.exists, s.error.code if s.error else None) for s in seen] == [
        (None, Code.ACCESS_DENIED),
        (True, None),
        (None, Code.ACCESS_DENIED),
    ]


def test_a_token_is_not_sent_to_an_endpoint_that_nobody_vouches_for(double: GcsDouble) -> None:
    """The profile names the user's own server: nothing is asked there."""
    theirs = replace(on_gcs(double).destination, profile=Profile("theirs", "gcs", "https://storage.example.org"))

    with pytest.raises(InputError) as raised:
        CloudInspector().look(theirs, Bearer("token", LATER, None), ["a"], GoOn())

    assert raised.value.code is Code.ENDPOINT_FORBIDDEN


def test_a_secret_that_does_not_belong_there_is_refused(double: GcsDouble) -> None:
    """A signature at Google's."""
    with pytest.raises(InputError) as raised:
        looked(on_gcs(double), Sas("https://lab.blob.core.windows.net/bucket", "sig=x", LATER), "a")

    assert raised.value.code is Code.BAD_INPUT


# -- the double itself -----------------------------------------------------------------------------------


def test_the_double_takes_a_token_until_it_ends(double: GcsDouble) -> None:
    """By clock or by word; both are in the log with what they were used for."""
    place = on_gcs(double)
    place.put("a", b"x")
    good, ended, refused = (bearer(double, name, life) for name, life in (("good", 60), ("ended", -1), ("refused", 60)))
    double.tokens.refuse("refused")

    for secret in (ended, refused):
        with pytest.raises(CloudPushError):
            looked(place, secret, "a")
    looked(place, good, "a")

    assert [(sent.what, sent.token, sent.status) for sent in double.log] == [
        ("head", "ended", 401),
        ("head", "refused", 401),
        ("head", "good", 200),
    ]
