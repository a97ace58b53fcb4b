"""BagIt and RO-Crate beside the data: what is written, when, and what becomes of it."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from builders import NOON, a_destination, a_push
from cloudpush.errors import CloudPushError, Code, DestinationError
from cloudpush.push.packages import Arrived, payload_of, unwritten, write_package
from cloudpush.push.planning import Limits
from cloudpush.push.states import FileState, Overwrite, Package, State, Strength
from worlds import World

BAG = ["bag-info.txt", "bagit.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A worker that cuts into parts of two files, and a source of three."""
    made = World(tmp_path, Limits(files=2))
    made.write("a", "b", "sub/c")
    return made


def run_all(world: World, **changes: Any) -> tuple[Any, list[State | None]]:
    """Submit and execute everything that is announced, in its order."""
    push = world.submit(package=Package.BAGIT, **changes)
    world.run(push.id)
    return push, everything(world, push.id)


def everything(world: World, push_id: Any) -> list[State | None]:
    done = 0
    states: list[State | None] = []
    while done < len(world.announcer.announced):
        _, number = world.announcer.announced[done]
        states.append(world.cloudpush.run_part(push_id, number))
        done += 1
    return states


def written(push: Any, found: list[Arrived], tmp_path: Path) -> dict[str, str]:
    files = write_package(push, 1, tmp_path, lambda: found)
    return {f.path: (tmp_path / f.path).read_text(encoding="utf-8") for f in files}


def arrived(seq: int, path: str, data: bytes = b"x", state: FileState = FileState.VERIFIED) -> Arrived:
    return Arrived(seq, path, len(data), 1_700_000_000_000_000_000, state, hashlib.sha256(data).digest())


# -- what is written ----------------------------------------------------------------------------------


def test_bag_is_what_the_rfc_says(tmp_path: Path) -> None:
    """Payload below data/, line ends and per cents in its paths encoded, tag files in their own manifest."""
    push = a_push(package=Package.BAGIT, labels={"description": "two\nlines", "project": "p7"})

    files = written(push, [arrived(1, "100%\r\n", b"one"), arrived(2, "d/b")], tmp_path)

    sha = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    one, x = hashlib.sha256(b"one").hexdigest(), hashlib.sha256(b"x").hexdigest()
    assert files == {
        "bagit.txt": "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n",
        "bag-info.txt": (
            f"Bagging-Date: 2026-03-01\nPayload-Oxum: 4.2\nBag-Software-Agent: CloudPush\nExternal-Identifier: {push.id}\n"
            "External-Description: two lines\nCloudPush-Label-description: two lines\nCloudPush-Label-project: p7\n"
        ),
        "manifest-sha256.txt": f"{one}  data/100%25%0D%0A\n{x}  data/d/b\n",
        "tagmanifest-sha256.txt": "".join(
            f"{sha[name]}  {name}\n" for name in ("bagit.txt", "bag-info.txt", "manifest-sha256.txt")
        ),
    }


def test_crate_describes_each_file(tmp_path: Path) -> None:
    """With its size, digest and time, under a relative URI; the root says what it is."""
    push = a_push(package=Package.RO_CRATE, labels={"name": "Run 7", "license": "https://spdx.org/licenses/CC0-1.0"})

    text = written(push, [arrived(1, "a b:c"), arrived(2, "d/é")], tmp_path)["ro-crate-metadata.json"]

    crate = json.loads(text)
    entities = {entity["@id"]: entity for entity in crate["@graph"]}
    assert crate["@context"] == "https://w3id.org/ro/crate/1.2/context"
    assert entities["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    assert (entities["./"]["name"], entities["./"]["license"], entities["./"]["hasPart"]) == (
        "Run 7",
        "https://spdx.org/licenses/CC0-1.0",
        [{"@id": "a%20b%3Ac"}, {"@id": "d/%C3%A9"}],
    )
    assert entities["d/%C3%A9"] == {
        "@id": "d/%C3%A9",
        "@type": "File",
        "name": "é",
        "contentSize": "1",
        "sha256": hashlib.sha256(b"x").hexdigest(),
        "dateModified": "2023-11-14T22:13:20+00:00",
    }


@pytest.mark.parametrize("package", Package)
def test_same_record_makes_the_same_bytes_and_times(package: Package, tmp_path: Path) -> None:
    """Whenever it is written, so that another attempt sends nothing else."""
    push = a_push(package=package)
    found = [arrived(1, "a")]
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()

    first, second = (write_package(push, 7, tmp_path / n, lambda: found) for n in ("1", "2"))

    assert first == second
    assert {f.mtime_ns for f in first} == {int(NOON.timestamp()) * 10**9}
    assert [f.seq for f in first] == list(range(7, 7 + len(first)))


@pytest.mark.parametrize("state", [s for s in FileState if not s.done])
def test_no_package_is_written_of_a_part_of_the_data(state: FileState, tmp_path: Path) -> None:
    """Whatever one file lacks."""
    with pytest.raises(CloudPushError) as raised:
        written(a_push(package=Package.BAGIT), [arrived(1, "a"), arrived(2, "b", state=state)], tmp_path)

    assert (raised.value.code, "'b'" in raised.value.message) == (Code.PACKAGE_INCOMPLETE, True)


def test_payload_of_a_bag_is_its_own_directory() -> None:
    """Also without a prefix; a crate lies among its data."""
    with_prefix, bare = a_destination(), a_destination("s3://results")

    assert [payload_of(d, Package.BAGIT).prefix for d in (with_prefix, bare)] == ["runs/7/data", "data"]
    assert [payload_of(bare, p) for p in (Package.RO_CRATE, None)] == [bare, bare]
    assert unwritten(Package.RO_CRATE, "", 3)[0].key == "ro-crate-metadata.json"


# -- when it is written -------------------------------------------------------------------------------


def test_bag_is_written_when_all_else_has_arrived(world: World) -> None:
    """By the closing part, which is announced then and counts its files as any other."""
    push, states = run_all(world)

    assert states == [State.RUNNING, State.RUNNING, State.SUCCEEDED]
    assert [n for _, n in world.announcer.announced] == [1, 2, 3]
    assert sorted(world.bucket.objects) == [
        *(f"runs/7/{name}" for name in BAG[:2]),
        *(f"runs/7/data/{name}" for name in ("a", "b", "sub/c")),
        *(f"runs/7/{name}" for name in BAG[2:]),
    ]
    assert world.store.standing(push.id).tally == (7, 0, 0, 0)


def test_push_of_one_small_file_has_its_package_too(tmp_path: Path) -> None:
    """One part of data, one that closes."""
    world = World(tmp_path)
    world.write("only")

    push, states = run_all(world, source=tmp_path / "only")

    assert (states, world.store.standing(push.id).tally) == ([State.RUNNING, State.SUCCEEDED], (5, 0, 0, 0))


def test_crate_lies_at_the_root_of_its_data(world: World) -> None:
    """And the source's own file of that name is refused: one would replace the other."""
    world.write("ro-crate-metadata.json")
    push = world.submit(package=Package.RO_CRATE)
    world.run(push.id)

    everything(world, push.id)

    codes = {f.seq: f.code for f in world.store.files(push.id) if f.code}
    assert (world.store.standing(push.id).state, codes) == (
        State.FAILED,
        {3: "NAME_NOT_A_KEY", 5: "PACKAGE_INCOMPLETE"},
    )
    assert "runs/7/ro-crate-metadata.json" not in world.bucket.objects


def test_no_package_where_a_file_failed(world: World) -> None:
    """What was not made has its verdict; the push keeps the words of what failed first."""
    world.carrier.refused["b"] = DestinationError(Code.ACCESS_DENIED, "no")

    push, states = run_all(world)

    assert (states[-1], world.store.standing(push.id).code) == (State.FAILED, "ACCESS_DENIED")
    assert [f.code for f in world.store.files(push.id)] == [None, "ACCESS_DENIED", None, *["PACKAGE_INCOMPLETE"] * 4]
    assert [key for key in world.bucket.objects if "/data/" not in key] == []


def test_closing_part_is_nobodys_before_the_others_are_over(world: World) -> None:
    """A message that comes too early finds nothing to do."""
    push = world.submit(package=Package.BAGIT)
    world.run(push.id)

    early = world.cloudpush.run_part(push.id, 3)

    assert (early, world.store.closing_due(push.id)) == (None, None)


def test_closing_part_that_comes_twice_is_executed_once(world: World) -> None:
    """Redelivery."""
    push, _ = run_all(world)

    assert world.cloudpush.run_part(push.id, 3) is None


def test_closing_part_is_tried_again_and_writes_the_same(world: World) -> None:
    """What was sent in the first attempt is skipped or verified; nothing is different."""
    push = world.submit(package=Package.BAGIT, overwrite=Overwrite.NEVER)
    world.run(push.id)
    world.carrier.during = _fail_once("manifest-sha256.txt", DestinationError(Code.THROTTLED, "slow down"))
    everything(world, push.id)
    between = world.store.standing(push.id).state
    world.clock.advance(600)

    assert (between, world.cloudpush.run_part(push.id, 3)) == (State.RUNNING, State.SUCCEEDED)


def test_closing_part_of_a_vanished_worker_is_taken_up(world: World) -> None:
    """Its lease runs out, somebody else makes the files again."""
    push = world.submit(package=Package.BAGIT)
    world.run(push.id)

    def vanish(path: str) -> None:
        if path == "bagit.txt":
            world.carrier.during = lambda _path: None
            world.clock.advance(31)
            taken.append(world.cloudpush.run_part(push.id, 3))

    taken: list[State | None] = []
    world.carrier.during = vanish
    everything(world, push.id)

    assert (taken, world.store.standing(push.id).tally) == ([State.SUCCEEDED], (7, 0, 0, 0))


def test_cancelled_push_has_no_package(world: World) -> None:
    """Before the closing part, or in it."""
    push = world.submit(package=Package.BAGIT)
    world.run(push.id)
    world.cloudpush.run_part(push.id, 1)
    world.store.cancel(push.id)

    states = [world.cloudpush.run_part(push.id, n) for n in (2, 3)]

    assert (states, [key for key in world.bucket.objects if "/data/" not in key]) == (
        [State.RUNNING, State.CANCELLED],
        [],
    )
    assert [f.state for f in world.store.files(push.id)][3:] == [FileState.CANCELLED] * 4


def test_package_is_proved_as_the_data_is(world: World) -> None:
    """A weaker proof of it makes the push unverified."""
    push = world.submit(package=Package.BAGIT, min_strength=Strength.SIZE)
    world.run(push.id)
    world.carrier.damaged.add("bag-info.txt")
    everything(world, push.id)
    world.clock.advance(timedelta(hours=1).total_seconds())
    world.cloudpush.run_part(push.id, 3)

    assert world.store.standing(push.id).code == "CORRUPTED"


def _fail_once(path: str, error: CloudPushError) -> Any:
    left = [error]

    def during(found: str) -> None:
        if found == path and left:
            raise left.pop()

    return during
