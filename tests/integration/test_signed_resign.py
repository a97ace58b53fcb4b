"""Fresh URLs for a push that waits: to the same objects, for the files that are not there yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import servers
import signed_door
from cloudpush.errors import CloudPushError, Code
from cloudpush.push.signed.intake import Resigned
from cloudpush.push.states import State
from signed_door import Door
from signed_rows import CANARY, numbered, put_url, tree_sas


@pytest.fixture
def door(database: servers.Database, tmp_path: Path) -> Iterator[Door]:
    with signed_door.opened(database, tmp_path) as made:
        yield made


def test_a_push_that_is_not_planned_takes_fresh_urls_for_all_its_files(door: Door) -> None:
    """In the manifest's order, by which they will be numbered; the newer set counts."""
    accepted = door.submit()

    resigned = door.intake.resign(accepted.push_id, "ada", "ada", numbered(*door.rows("a", "b", "d/c")))

    assert resigned == Resigned(3, 0, resigned.credential, State.QUEUED)
    assert [(n, t.path) for n, t in door.tickets(resigned.credential)] == [(1, "a"), (2, "b"), (3, "d/c")]


@pytest.mark.parametrize("paths", [("a", "b"), ("a", "b", "d/c", "e"), ("a", "b", "x"), ("b", "a", "d/c")])
def test_a_push_that_is_not_planned_takes_no_other_files(door: Door, paths: tuple[str, ...]) -> None:
    """Fewer, more, others or in another order: its manifest is what was accepted. What it has stays, and nothing else."""
    accepted = door.submit()
    kept = dict(door.vault.sheets)

    with pytest.raises(CloudPushError) as caught:
        door.intake.resign(accepted.push_id, "ada", "ada", numbered(*door.rows(*paths)))

    assert (caught.value.code, door.sets(), door.vault.sheets) == (Code.BAD_MANIFEST, ["active"], kept)


PLAN = (("a", "runs/7/a"), ("b", "runs/7/b"), ("d/c", "runs/7/d/c"))


def test_a_planned_push_takes_fresh_urls_for_what_is_open(door: Door) -> None:
    """Under the numbers of its plan; what is there already, or none of its own, is passed over and counted."""
    accepted = door.submit()
    door.plan(accepted.push_id, *PLAN, done=1)

    resigned = door.intake.resign(accepted.push_id, "ada", "ada", numbered(*door.rows("d/c", "b", "other")))

    assert resigned == Resigned(1, 2, resigned.credential, State.RUNNING, missing=1)
    assert [(n, t.path) for n, t in door.tickets(resigned.credential)] == [(2, "b")]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prefix": "runs/8/"}, "leads to 'runs/8/b'"),
        ({"origin": "https://bkt-2.s3.eu-west-1.amazonaws.com"}, "leads to https://bkt-2"),
        ({"origin": "https://s3.eu-west-1.amazonaws.com/bkt-1"}, "leads to https://s3"),
        ({"path": "d/c"}, "No row is about a file of the push"),
    ],
    ids=str,
)
def test_fresh_urls_that_lead_elsewhere_are_refused(door: Door, row: dict[str, Any], words: str) -> None:
    """To the same objects or not at all; the push keeps what it has."""
    accepted = door.submit()
    door.plan(accepted.push_id, *PLAN, done=1)
    options = {k: v for k, v in row.items() if k != "path"}

    fresh = door.rows(row.get("path", "b"), **options)
    with pytest.raises(CloudPushError) as caught:
        door.intake.resign(accepted.push_id, "ada", "ada", numbered(*fresh))

    assert (caught.value.code, words in caught.value.message, CANARY in str(caught.value)) == (
        Code.BAD_MANIFEST,
        True,
        False,
    )
    assert ("active" in door.sets(), {key[0] for key in door.vault.sheets}) == (
        True,
        {door.set_of(accepted.push_id).id},
    )


def test_a_directory_takes_a_fresh_sas_of_the_same_directory(door: Door) -> None:
    """Planned or not; another directory, or a manifest, is refused."""
    now = door.clock.now()
    accepted = door.intake.submit_one(door.request(), tree_sas("ds/1", now))
    codes = []
    for text in (tree_sas("ds/2", now), tree_sas("", now)):
        with pytest.raises(CloudPushError) as caught:
            door.intake.resign_one(accepted.push_id, "ada", "ada", text)
        codes.append(caught.value.code)
    with pytest.raises(CloudPushError) as caught:
        door.intake.resign(accepted.push_id, "ada", "ada", numbered(*door.rows()))
    codes.append(caught.value.code)
    before = door.intake.resign_one(accepted.push_id, "ada", "ada", tree_sas("ds/1", now))
    door.plan(accepted.push_id, ("a", "ds/1/a"), ("b", "ds/1/b"))
    after = door.intake.resign_one(accepted.push_id, "ada", "ada", tree_sas("ds/1", now))

    assert (codes, before.accepted, before.state, after.accepted, after.state) == (
        [Code.BAD_MANIFEST] * 3,
        1,
        State.QUEUED,
        1,
        State.RUNNING,
    )


def test_a_single_file_takes_a_fresh_url_without_a_path(door: Door) -> None:
    """Planned under its name, handed over without one."""
    accepted = door.intake.submit_one(door.request(source=str(door.source / "a")), put_url("x/a", door.clock.now()))
    door.plan(accepted.push_id, ("a", "x/a"))

    resigned = door.intake.resign_one(accepted.push_id, "ada", "ada", put_url("x/a", door.clock.now()))

    assert (resigned.accepted, [n for n, _ in door.tickets(resigned.credential)]) == (1, [1])


def test_fresh_urls_are_refused_for_what_is_over_unknown_or_anothers(door: Door) -> None:
    """Before anything is sealed."""
    accepted = door.submit()
    codes = []
    for push_id, owner in ((uuid4(), "ada"), (accepted.push_id, "eve")):
        with pytest.raises(CloudPushError) as caught:
            door.intake.resign(push_id, owner, owner, numbered(*door.rows()))
        codes.append(caught.value.code)
    door.desk.cancel(accepted.push_id, "ada", "ada")
    with pytest.raises(CloudPushError) as caught:
        door.intake.resign(accepted.push_id, "ada", "ada", numbered(*door.rows()))

    assert ([*codes, caught.value.code], len(door.sets())) == (
        [Code.UNKNOWN_PUSH, Code.NOT_OWNER, Code.BAD_INPUT],
        1,
    )
